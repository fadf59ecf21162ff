"""Who of several replicas works: a Lease, by the kubernetes client's leader election.

A replica that cannot renew it in time has lost it, and must end. Even two that think that they lead do no harm: each
update says how the records have to be before.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rulegen.errors import InputError, one_line

_LOG = logging.getLogger("rulegen.agent")

_NAME = "rulegen-records"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NAMESPACE = "kube-system"
# The client's own proportions: seconds until others may take it, until its holder gives up, between two attempts.
_LEASE_SECONDS, _DEADLINE_SECONDS, _RETRY_SECONDS = 15, 10, 2


class Leadership:
    """`kubeconfig`: "" for the usual places; `server`: instead of what that says; `changed`: called on each change."""

    def __init__(self, kubeconfig: str, server: str, changed: Callable[[], None]) -> None:
        """Raises InputError where the API server cannot be asked."""
        self.is_leading = False
        self.is_lost = False
        self._changed = changed
        self._namespace = os.environ.get("POD_NAMESPACE", "") or _own_namespace()
        self.name = f"{self._namespace}/{_NAME}"
        self._election = self._make_election(kubeconfig, server)

    def start(self) -> None:
        """Begins to try, in a thread of its own."""
        threading.Thread(target=self._run, name="lead", daemon=True).start()

    def _run(self) -> None:
        try:
            self._election.run()
        finally:
            self.is_leading, self.is_lost = False, True
            self._changed()

    def _lead(self) -> None:
        self.is_leading = True
        self._changed()

    def _make_election(self, kubeconfig: str, server: str) -> Any:
        from kubernetes import client, config
        from kubernetes.leaderelection import electionconfig, leaderelection

        try:
            config.load_config(**({"config_file": kubeconfig} if kubeconfig else {}))
        except (config.ConfigException, OSError) as error:
            raise InputError(f"the Lease {self.name} cannot be asked for: {one_line(str(error))}") from error
        if server:
            chosen = client.Configuration.get_default_copy()
            chosen.host = server
            client.Configuration.set_default(chosen)
        lock = _make_lock(self._namespace, f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}")
        return leaderelection.LeaderElection(
            electionconfig.Config(lock, _LEASE_SECONDS, _DEADLINE_SECONDS, _RETRY_SECONDS, self._lead, self._changed)
        )


def _make_lock(namespace: str, identity: str) -> Any:
    """The client's lock, to which an API server that is away is no more than an attempt that failed."""
    from kubernetes.client import ApiException
    from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
    from urllib3.exceptions import HTTPError

    class Lock(LeaseLock):  # type: ignore[misc]
        def get(self, name: str, namespace: str) -> Any:
            try:
                return super().get(name, namespace)
            except HTTPError as error:
                return False, ApiException(reason=str(error))

        def create(self, name: str, namespace: str, election_record: Any) -> Any:
            try:
                return super().create(name, namespace, election_record)
            except HTTPError:
                return False

        def update(self, name: str, namespace: str, updated_record: Any) -> Any:
            try:
                return super().update(name, namespace, updated_record)
            except HTTPError:
                return False

    return Lock(_NAME, namespace, identity)


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip() or _NAMESPACE
    except OSError:
        return _NAMESPACE
