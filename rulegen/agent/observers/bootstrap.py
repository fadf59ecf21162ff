"""Says when the agent reaches its API server by an address that it must program itself.

On a node without rules such an agent could not begin: after a reboot it would wait for the Service that it has to make.
"""

from __future__ import annotations

import logging
import os
from urllib.parse import urlsplit

from rulegen.errors import printable
from rulegen.kube.addresses import canonical_address
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Reconciler, Sync
from rulegen.services.feature import NAME as SERVICES

_LOG = logging.getLogger("rulegen.agent")

_ADVICE = "name the API server itself with --apiserver or clientConnection.kubeconfig"


class Bootstrap(Observer):
    """Looks at the first sync. `server`: the URL of the API server."""

    def __init__(self, server: str, reconciler: Reconciler) -> None:
        """Says at once what the environment of a pod tells: while nothing is programmed there may be no first sync."""
        self._reconciler = reconciler
        self._address = canonical_address(urlsplit(server).hostname or "")
        if self._address and self._address == canonical_address(os.environ.get("KUBERNETES_SERVICE_HOST", "")):
            _LOG.warning(
                "the API server is asked at %s, the address of a Service that this agent may have to program first; %s",
                printable(server),
                _ADVICE,
            )

    def synced(self, sync: Sync) -> None:
        """Looks for the address among the ClusterIPs."""
        del sync
        if self._address is None:
            return
        for service_port in self._reconciler.applied(SERVICES).values():
            if any(frontend.address == self._address for frontend in service_port.frontends):
                _LOG.warning(
                    "the API server is reached through %s, which belongs to Service %s and is programmed by this "
                    "agent: on a node without rules it could not start; %s",
                    self._address,
                    service_port.name,
                    _ADVICE,
                )
                break
        self._address = None
