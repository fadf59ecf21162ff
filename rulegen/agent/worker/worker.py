"""The agent's one working thread: waits for events, for drift and for the time to act, and has the reconciler sync.

In: a work queue that sources fill, a watch over the kernel. Out: syncs, and observers that are told. Returns when it is
told to stop; what is in the kernel stays there and goes on serving.
"""

from __future__ import annotations

import gc
import logging
import select
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rulegen import gc_pause
from rulegen.agent.worker.failures import Failures
from rulegen.agent.worker.outages import Outages
from rulegen.agent.worker.readiness import Readiness
from rulegen.agent.worker.schedule import Allowance, Schedule
from rulegen.agent.worker.work_queue import ObjectKey, WorkQueue, object_key
from rulegen.errors import RulegenError
from rulegen.kube.follow import Delete, Failed, FollowEvent, Interrupted, Invalid, Resumed, Synced, Upsert
from rulegen.kube.objects import Node
from rulegen.reconcile.driver import Watch
from rulegen.reconcile.feature import AnyDelta
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Reconciler, Sync
from rulegen.reference import ObjectReference

_LOG = logging.getLogger("rulegen.agent")

_SHOWN_REPAIRS = 20


class SourceError(RulegenError):
    """A source of events has ended because of an error in the program."""


class Pace(NamedTuple):
    """How often a sync may and must run, in seconds, and how many changes it works on at the most."""

    min_sync_period: float
    sync_period: float
    batch: int


class Worker:
    """Works in the thread that calls `run`. `observers` are told in this order."""

    def __init__(
        self,
        reconciler: Reconciler,
        work_queue: WorkQueue,
        watch: Watch,
        pace: Pace,
        readiness: Readiness,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._reconciler = reconciler
        self._work_queue = work_queue
        self._watch = watch
        self._batch = pace.batch
        self._readiness = readiness
        self._observers = observers
        self._schedule = Schedule(pace.min_sync_period, pace.sync_period)
        self._allowance = Allowance(pace.sync_period, time.monotonic())
        self._is_first = True
        # Who changed our rules: since a sync was asked for because of it, and before, until that has run.
        self._intruders: dict[str, None] = {}
        self._blamed: dict[str, None] = {}
        self._is_held_back = False
        self._outages = Outages()
        self._failures = Failures()
        # Objects that cannot be used as they are now.
        self._unusable: set[ObjectKey] = set()

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Works until `is_stopping`; whoever sets that wakes the work queue up.

        Raises:
            SourceError: a source cannot go on.
            HostError: what the first sync needs has not come in time.
        """
        if self._watch.is_prompt:
            with gc_pause.paused():
                self._reconciler.read_ahead()
            # What was read has no cycles; collections while objects come in need not walk all of it.
            gc.freeze()
        while not is_stopping():
            self._wait()
            for observer in self._observers:
                observer.woke()
            self._work(is_stopping)
            for observer in self._observers:
                observer.rests()

    def _work(self, is_stopping: Callable[[], bool]) -> None:
        if events := self._take_events():
            for event in events:
                self._take(event)
            for observer in self._observers:
                observer.took(events)
        self._look_for_drift()
        wait = self._next_sync()
        if wait is not None and wait <= 0 and not is_stopping():
            self._sync()
        now = time.monotonic()
        for observer in self._observers:
            if (due := observer.wait(now)) is not None and due <= 0:
                observer.act(now)

    def _wait(self) -> None:
        now = time.monotonic()
        waits = [self._next_sync(), self._next_look(now), *(observer.wait(now) for observer in self._observers)]
        if (turn := self._work_queue.wait()) is not None:
            waits.append(max(turn, self._schedule.wait_if_wanted(now)))
        times = [wait for wait in waits if wait is not None]
        poll = select.poll()
        for file in (self._work_queue.fileno(), *self._watch.files()):
            poll.register(file, select.POLLIN)
        poll.poll(max(0.0, min(times)) * 1000 if times else None)

    def _take_events(self) -> list[FollowEvent]:
        """What the next sync is to work on: so much that whoever comes meanwhile need not wait long.

        The first is for all there is, Nodes first, since what a Service means depends on the node. While syncs fail,
        nobody is kept waiting by one, and health follows the Node.
        """
        if self._is_first or self._schedule.has_failed:
            return sorted(self._work_queue.take(), key=_comes_after_nodes)
        if self._schedule.wait_if_wanted(time.monotonic()) > 0:
            return self._work_queue.take_prompt()
        return self._work_queue.take(self._batch)

    def _next_sync(self) -> float | None:
        now = time.monotonic()
        wait = self._schedule.wait(now)
        if not self._is_first or wait is None:
            return wait
        ready = self._readiness.wait(now)
        return None if ready is None else max(wait, ready)

    def _next_look(self, now: float) -> float | None:
        if self._is_first:
            return None
        return self._allowance.wait(now) if self._is_held_back else self._watch.wait(now)

    # -- events --

    def _take(self, event: FollowEvent) -> None:
        self._readiness.take(event)
        match event:
            case Upsert(item):
                self._note_usable(event)
                self._reconciler.put(item)
                self._schedule.request()
            case Delete(kind, namespace, name):
                self._note_usable(event)
                self._reconciler.remove(kind, ObjectReference(kind.__name__, namespace, name))
                self._schedule.request()
            case Synced(_):
                self._schedule.request()
            case Invalid(kind, namespace, name, error):
                self._reconciler.put_unreadable(kind, ObjectReference(kind.__name__, namespace, name), str(error))
                self._unusable.add(object_key(event))
                # To some features it means something else now than it did.
                self._schedule.request()
                _LOG.warning("object not used: %s; it keeps what it last meant, or isolates if it is a policy", error)
            case Interrupted() | Resumed():
                for line in self._outages.take(event):
                    _LOG.log(logging.WARNING if isinstance(event, Interrupted) else logging.INFO, "%s", line)
            case Failed(_, error):
                raise SourceError("a source of events has failed") from error

    def _note_usable(self, event: Upsert | Delete) -> None:
        if self._unusable and (key := object_key(event)) in self._unusable:
            self._unusable.discard(key)
            kind, namespace, name = key
            how = "used again" if isinstance(event, Upsert) else "gone, which could not be used"
            _LOG.info("object %s: %s", how, ObjectReference(kind.__name__, namespace, name))

    # -- drift --

    def _look_for_drift(self) -> None:
        now = time.monotonic()
        self._intruders |= dict.fromkeys(self._watch.look(now))
        if not self._intruders or self._is_first:
            if self._intruders:
                # What was read for the first sync is not so any more.
                self._reconciler.distrust()
            self._intruders.clear()
            return
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
        self._reconciler.distrust()
        self._schedule.request_at_once()

    # -- syncs --

    def _sync(self) -> None:
        if self._is_first and (lacking := self._readiness.lacks()):
            _LOG.warning("going on without what has not come: %s", ", ".join(lacking))
        is_full, start = self._reconciler.must_read, time.monotonic()
        try:
            with gc_pause.paused():
                sync = self._reconciler.sync()
        except RulegenError as error:
            self._failed(error, time.monotonic() - start, is_full=is_full)
            return
        now = time.monotonic()
        self._schedule.succeeded(now)
        if over := self._failures.over():
            _LOG.info("%s", over)
        if sync.is_full:
            self._watch.compared(now, now - start)
        self._tell(sync)
        self._blamed = {}
        for observer in self._observers:
            observer.synced(sync)
        if self._is_first:
            self._is_first = False
            # What is there now stays; later collections need not look at it again.
            gc.collect()
            gc.freeze()
            gc.enable()

    def _failed(self, error: RulegenError, seconds: float, *, is_full: bool) -> None:
        delay = self._schedule.failed(time.monotonic())
        if told := self._failures.take(str(error), delay):
            _LOG.error("%s", told)
        for observer in self._observers:
            observer.failed(error, seconds, is_full=is_full)

    def _tell(self, sync: Sync) -> None:
        for message in sorted(set(sync.refused.values())):
            _LOG.warning("not in force: %s", message)
        if sync.repaired:
            self._tell_repair(sync.repaired)

    def _tell_repair(self, repaired: AnyDelta) -> None:
        who = ", ".join(self._blamed) or "another program"
        _LOG.warning("repaired %d entries that were changed by %s", len(repaired), who)
        lines = list(self._reconciler.in_words(repaired)) if len(repaired) <= _SHOWN_REPAIRS else []
        for line in lines:
            _LOG.warning("repaired: %s", line)
        for observer in self._observers:
            observer.repaired(who, len(repaired), lines)


def _comes_after_nodes(event: FollowEvent) -> bool:
    return not (isinstance(event, Upsert) and isinstance(event.item, Node))
