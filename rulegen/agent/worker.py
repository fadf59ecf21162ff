"""The agent's one working thread: waits for events, for drift and for the time to act, and has the engine sync.

In: an inbox that sources fill, a monitor of the kernel. Out: syncs, and a line in the log for each. Returns when it is
told to stop; what is in the kernel stays there and goes on serving.
"""

from __future__ import annotations

import gc
import logging
import select
import time
from collections.abc import Callable

from rulegen import collector
from rulegen.agent.engine import Engine, Sync
from rulegen.agent.inbox import Inbox
from rulegen.agent.schedule import Allowance, Schedule
from rulegen.config import AgentConfiguration
from rulegen.errors import RulegenError
from rulegen.kube.follow import Delete, Failed, FollowEvent, Interrupted, Invalid, Resumed, Synced, Upsert
from rulegen.kube.listing import WatchedKind
from rulegen.kube.objects import EndpointSlice, Service
from rulegen.nftables.describe import describe
from rulegen.nftables.monitor import Monitor

_LOG = logging.getLogger("rulegen.agent")

_NEEDED: frozenset[WatchedKind] = frozenset({Service, EndpointSlice})
_NAMED = 5
_SHOWN_REPAIRS = 20


class SourceError(RulegenError):
    """A source of events has ended because of an error in the program."""


class Worker:
    """Works in the thread that calls `run`. `monitor`: None where drift is nobody's business, as in a dry run."""

    def __init__(
        self, engine: Engine, inbox: Inbox, monitor: Monitor | None, configuration: AgentConfiguration
    ) -> None:
        self._engine = engine
        self._inbox = inbox
        self._monitor = monitor
        self._schedule = Schedule(configuration.min_sync_period, configuration.sync_period)
        self._allowance = Allowance(configuration.sync_period, time.monotonic())
        self._missing = set(_NEEDED)
        self._is_first = True
        # Who changed the kernel's table: since a sync was asked for because of it, and before, until that has run.
        self._intruders: dict[str, None] = {}
        self._blamed: dict[str, None] = {}
        self._is_held_back = False

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Works until `is_stopping`; whoever sets that wakes the inbox up.

        Raises:
            SourceError: a source cannot go on.
        """
        while not is_stopping():
            self._wait()
            for event in self._inbox.take():
                self._take(event)
            self._look_for_drift()
            wait = self._next_sync()
            if wait is not None and wait <= 0 and not is_stopping():
                self._sync()

    def _wait(self) -> None:
        waits = [wait for wait in (self._next_sync(), self._next_check()) if wait is not None]
        files = [self._inbox.fileno(), *([self._monitor.fileno()] if self._monitor else [])]
        select.select(files, [], [], max(0.0, min(waits)) if waits else None)

    def _next_sync(self) -> float | None:
        """Nothing is programmed before all Services and slices are known (rule 89)."""
        return None if self._missing else self._schedule.wait(time.monotonic())

    def _next_check(self) -> float | None:
        return self._allowance.wait(time.monotonic()) if self._intruders and self._is_held_back else None

    # -- events --

    def _take(self, event: FollowEvent) -> None:
        match event:
            case Upsert() | Delete():
                self._engine.take(event)
                self._schedule.request()
            case Synced(kind):
                self._missing.discard(kind)
                self._schedule.request()
            case Invalid(_, _, _, error):
                self._engine.take_invalid(event)
                _LOG.warning("object not used: %s; it keeps what it last meant", error)
            case Interrupted(kind, error, seconds):
                _LOG.warning("not following %s, next attempt in %.1f s: %s", kind.__name__, seconds, error)
            case Resumed(kind):
                _LOG.info("following %s again", kind.__name__)
            case Failed(_, error):
                raise SourceError("a source of events has failed") from error

    # -- drift --

    def _look_for_drift(self) -> None:
        if self._monitor is None:
            return
        self._intruders |= dict.fromkeys(intrusion.by for intrusion in self._monitor.read())
        if not self._intruders or self._is_first:
            # The first sync reads the kernel anyway.
            self._intruders.clear()
            return
        now = time.monotonic()
        wait = self._allowance.wait(now)
        if wait > 0:
            if not self._is_held_back:
                _LOG.warning(
                    "%s: changing our table again and again; next look in %.0f s", ", ".join(self._intruders), wait
                )
            self._is_held_back = True
            return
        self._is_held_back = False
        self._allowance.use(now)
        self._blamed |= self._intruders
        self._intruders = {}
        self._engine.distrust()
        self._schedule.request_at_once()

    # -- syncs --

    def _sync(self) -> None:
        try:
            with collector.paused():
                sync = self._engine.sync()
        except RulegenError as error:
            delay = self._schedule.failed(time.monotonic())
            _LOG.error("sync failed, next attempt in %.1f s: %s", delay, error)
            return
        self._schedule.succeeded(time.monotonic())
        self._tell(sync)
        self._blamed = {}
        if self._is_first:
            self._is_first = False
            # What is there now stays; later collections need not look at it again.
            gc.collect()
            gc.freeze()
            gc.enable()

    def _tell(self, sync: Sync) -> None:
        refused = {refusal.message for refusal in sync.refused}
        for message in sorted(refused):
            _LOG.warning("not in force: %s", message)
        if self._blamed and sync.delta:
            self._tell_repair(sync)
        if not (sync.delta or self._is_first):
            return
        names = list(dict.fromkeys(f"{name.namespace}/{name.name}" for name, _ in sync.routes))
        services = ",".join(names[:_NAMED]) + (f",+{len(names) - _NAMED}" if len(names) > _NAMED else "")
        steps = " ".join(f"{step}_ms={seconds * 1000:.2f}" for step, seconds in sync.seconds.items())
        _LOG.info(
            "sync mode=%s services=%d added=%d changed=%d removed=%d %s names=%s",
            "full" if sync.is_full else "partial",
            len(names),
            len(sync.delta.added),
            len(sync.delta.changed),
            len(sync.delta.removed),
            steps,
            services or "-",
        )

    def _tell_repair(self, sync: Sync) -> None:
        _LOG.warning("repaired %d entries that were changed by %s", len(sync.delta), ", ".join(self._blamed))
        if len(sync.delta) <= _SHOWN_REPAIRS:
            for line in describe(sync.delta, self._engine.names()):
                _LOG.warning("repaired: %s", line)
