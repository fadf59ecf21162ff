"""An API server for tests: the Kubernetes protocol over TLS for the kinds that rulegen reads, with faults on order.

`ApiServer` is what tests use; `faults` has what can go wrong. What it holds, and the number of the last change, outlive
a restart. Nothing is checked of the objects: what tests put there is what clients get.
"""

from tests.apiserver.server import ApiServer, Request
from tests.apiserver.store import EVERY_KIND

__all__ = ["EVERY_KIND", "ApiServer", "Request"]
