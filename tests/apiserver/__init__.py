"""An API server for tests: the Kubernetes protocol over TLS for the kinds that rulegen reads, with faults on order.

`ApiServer` is what tests use; `faults` has what can go wrong. What it holds, and the number of the last change, outlive
a restart. Nothing is checked of the objects: what tests put there is what clients get. Events are what clients make
there, and these are checked as the real server does it.
"""

from tests.apiserver.server import ApiServer, Request
from tests.apiserver.store import EVENT, EVERY_KIND

__all__ = ["EVENT", "EVERY_KIND", "ApiServer", "Request"]
