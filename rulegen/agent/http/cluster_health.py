"""What the worker of an agent for a cluster does comes in; whether this replica is healthy goes out. Opens no socket.

/livez says whether the process still works: for the kubelet, which restarts what does not. A name server that is away
is nothing that a restart would mend. /healthz says whether what the cluster wants is in force in time, and of a replica
that waits for the Lease that it can take over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec
from msgspec import Struct

from rulegen.agent.http.health import Answer
from rulegen.errors import RulegenError
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync

# A large zone takes its time; seconds.
_SHORTEST_HANG = 600.0


class _Report(Struct, rename="camel"):
    healthy: bool
    leading: bool
    last_updated: datetime | None
    current_time: datetime


class ClusterHealth(Observer):
    """Answers from any thread. `sync_period`: seconds. `clock`: seconds that only grow; `now`: the time of day."""

    def __init__(
        self,
        sync_period: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._timeout = 2 * sync_period
        self._hang = max(_SHORTEST_HANG, 2 * sync_period)
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._failing_since: float | None = None
        self._working_since: float | None = None
        self._last_updated: datetime | None = None
        self._is_leading = False

    def leads(self) -> None:
        """From now on this replica is the one that works; the first sync is what it owes."""
        with self._lock:
            self._is_leading = True
            self._failing_since = self._clock()

    def woke(self) -> None:
        with self._lock:
            self._working_since = self._clock()

    def rests(self) -> None:
        with self._lock:
            self._working_since = None

    def synced(self, sync: Sync) -> None:
        """Everything that was taken is in force."""
        del sync
        with self._lock:
            self._failing_since = None
            self._last_updated = self._now()

    def failed(self, error: RulegenError, seconds: float, *, is_full: bool) -> None:
        """Something is late from now on."""
        del error, seconds, is_full
        with self._lock:
            if self._failing_since is None:
                self._failing_since = self._clock()

    def livez(self) -> Answer:
        """Whether the thread that works has not hung for minutes."""
        with self._lock:
            return self._answer(is_good=not self._is_older(self._working_since, self._hang))

    def healthz(self) -> Answer:
        """Whether besides nothing is late."""
        with self._lock:
            is_late = self._is_older(self._failing_since, self._timeout)
            return self._answer(is_good=not is_late and not self._is_older(self._working_since, self._hang))

    def _is_older(self, since: float | None, seconds: float) -> bool:
        return since is not None and self._clock() - since >= seconds

    def _answer(self, *, is_good: bool) -> Answer:
        report = _Report(is_good, self._is_leading, self._last_updated, self._now())
        return Answer(HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE, msgspec.json.encode(report))
