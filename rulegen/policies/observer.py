"""After a sync, ends the connections that network policies do not let live."""

from __future__ import annotations

import logging
import time

from rulegen.errors import RulegenError
from rulegen.kube.backoff import Retries
from rulegen.policies.conntrack import PolicyConnections
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync

_LOG = logging.getLogger("rulegen.agent")
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 30.0
# A listing of 100,000 connections takes a tenth of a second, so it is not done for each of many changes: so many times
# as long as one takes, none follows.
_REST = 10.0


class PolicyConnectionObserver(Observer):
    """What fails is tried again, and said once. `feature`: the name of the one whose facts these are."""

    def __init__(self, feature: str, connections: PolicyConnections) -> None:
        self._feature = feature
        self._connections = connections
        self._retries = Retries(_FIRST_RETRY, _LONGEST_RETRY)

    def synced(self, sync: Sync) -> None:
        """Notes what is in force now."""
        done = sync.features.get(self._feature)
        if done is not None:
            self._connections.note(done.taken)

    def wait(self, now: float) -> float | None:
        """Changes that come soon after each other are looked at together."""
        return self._retries.not_before - now if self._connections.is_pending else None

    def act(self, now: float) -> None:
        try:
            ended = self._connections.end()
        except RulegenError as error:
            if self._retries.failed(error, time.monotonic()):
                _LOG.warning("connections of former pods stay for now, tried again until it works: %s", error)
            return
        ended_at = time.monotonic()
        self._retries.succeeded(not_before=ended_at + _REST * (ended_at - now))
        if ended.removed:
            _LOG.info("connections that network policies do not let live: %d ended", ended.removed)
