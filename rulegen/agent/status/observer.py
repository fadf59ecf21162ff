"""What the working thread does comes in; what the agent says about itself goes out, to any thread.

A call costs what it is about, never what the cluster has. Sorting, cutting and wording are left to whoever asks.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from heapq import nsmallest
from typing import NamedTuple, TypeVar

from rulegen import __version__
from rulegen.agent.status.document import (
    MOST,
    Drift,
    Failure,
    Findings,
    Following,
    LastSync,
    Listeners,
    ListeningAddress,
    ObjectFinding,
    ObjectFindings,
    Pending,
    Problem,
    Problems,
    Repair,
    Source,
    State,
    Status,
    Takeover,
)
from rulegen.agent.worker.work_queue import ObjectKey, object_key
from rulegen.errors import RulegenError, one_line
from rulegen.kube.follow import (
    Delete,
    Failed,
    FileUnusable,
    FileUsable,
    FollowEvent,
    Interrupted,
    Invalid,
    Resumed,
    Synced,
    Upsert,
)
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Reconciler, Sync
from rulegen.reference import Finding, ObjectReference
from rulegen.resources import commit
from rulegen.services.feature import service_ports_of
from rulegen.services.model import ServiceKey

_REPAIRS = 20
_NAMES = 10
_LINES = 20
# Of one object, so many findings are shown.
_FINDINGS = 10

Key = TypeVar("Key")


class Settings(NamedTuple):
    """What does not change while an agent works. `configuration`: names of files, "" without any."""

    node: str
    target: str
    variant: str
    features: Sequence[str]
    families: Sequence[str]
    source: Source
    configuration: str
    kinds: Iterable[type]


class Asked(NamedTuple):
    """What others know and say at any time, to any thread.

    `health`: whether the agent is healthy, and the node eligible. `foreign_drops`: chains of others that may drop what
    Services need, in words.
    """

    waiting: Callable[[], int]
    health: Callable[[], tuple[bool, bool]]
    health_checks: Callable[[], int]
    takeover: Callable[[], Takeover]
    foreign_drops: Callable[[], str]
    configuration_problem: Callable[[], str]


class StatusObserver(Observer):
    """Keeps what a status is made of."""

    def __init__(
        self,
        settings: Settings,
        asked: Asked,
        reconciler: Reconciler,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._asked = asked
        self._reconciler = reconciler
        self._now = now
        self._listening: Callable[[], Sequence[ListeningAddress]] = tuple
        self._started = now()
        # What follows is written by the working thread alone.
        self._lock = threading.Lock()
        self._last: LastSync | None = None
        self._failure: Failure | None = None
        self._taken = 0
        self._taken_since: datetime | None = None
        self._known: set[type] = set()
        self._interrupted: dict[type, str] = {}
        self._service_ports = 0
        self._refused: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._objects: dict[ObjectKey, str] = {}
        self._repairs: deque[Repair] = deque(maxlen=_REPAIRS)
        self._repair_count = self._repaired_entries = 0
        self._findings: dict[ObjectReference, tuple[Finding, ...]] = {}
        self._reasons: Counter[str] = Counter()
        self._of_host: tuple[Finding, ...] = ()
        self._health_checks: dict[ServiceKey, str] = {}

    def ask_listening(self, listening: Callable[[], Sequence[ListeningAddress]]) -> None:
        """What says on which addresses the agent listens, from any thread; those serve the status themselves."""
        self._listening = listening

    # -- what happens --

    def took(self, events: Sequence[FollowEvent]) -> None:
        """They wait for a sync."""
        with self._lock:
            for event in events:
                self._take(event)
            if self._taken and self._taken_since is None:
                self._taken_since = self._now()

    def synced(self, sync: Sync) -> None:
        """What was taken is in force."""
        names = dict.fromkeys((name.namespace, name.name) for name, _ in service_ports_of(sync))
        shown = tuple(f"{namespace}/{name}" for (namespace, name), _ in zip(names, range(_NAMES), strict=False))
        counts = sync.delta.counts
        last = LastSync(
            ended=self._now(),
            full=sync.is_full,
            seconds=sum(sync.seconds.values()),
            steps=sync.seconds,
            services=len(names),
            names=shown,
            added=counts.added,
            changed=counts.changed,
            removed=counts.removed,
        )
        refused: dict[str, str] = {}
        for key, words in self._reconciler.refusals().items():
            reference = self._reconciler.reference(key)
            refused.setdefault(str(reference.without_uid) if reference else key[0], words)
        with self._lock:
            self._last, self._failure = last, None
            self._taken, self._taken_since = 0, None
            self._refused = refused
            for before, after in service_ports_of(sync).values():
                self._service_ports += (after is not None) - (before is not None)
            for reference, (gone, found) in sync.findings.items():
                self._note_findings(reference, gone or (), found or ())

    def failed(self, error: RulegenError, seconds: float, *, is_full: bool) -> None:
        """It is tried again."""
        del seconds, is_full
        with self._lock:
            before = self._failure
            since = before.since if before else self._now()
            self._failure = Failure(since=since, attempts=before.attempts + 1 if before else 1, error=str(error))

    def repaired(self, who: str, entries: int, lines: Sequence[str]) -> None:
        """Drift."""
        kept = tuple(one_line(line) for text in lines[:_LINES] for line in text.split("\n")[:_LINES])
        repair = Repair(at=self._now(), who=one_line(who), entries=entries, lines=kept[:_LINES])
        with self._lock:
            self._repairs.appendleft(repair)
            self._repair_count += 1
            self._repaired_entries += entries

    def found_at_the_start(self, findings: Iterable[Finding]) -> None:
        """What is wrong with the host, and stays so; all of it is about the Node."""
        self._of_host = tuple(findings)
        self._reasons.update(finding.reason for finding in self._of_host)

    def health_check(self, service: ServiceKey, message: str, holds: bool) -> None:
        """No health checks of a Service can be answered (`holds`), or that is over."""
        with self._lock:
            if holds:
                self._health_checks[service] = message
            else:
                self._health_checks.pop(service, None)

    def _take(self, event: FollowEvent) -> None:
        match event:
            case Upsert() | Delete():
                self._taken += 1
                if self._objects:
                    self._objects.pop(object_key(event), None)
            case Invalid(_, _, name, error):
                # One without a name could never be told from others again.
                if name:
                    self._objects[object_key(event)] = str(error)
            case FileUnusable(file, problem):
                self._files[file] = problem
            case FileUsable(file):
                self._files.pop(file, None)
            case Synced() | Resumed() | Interrupted() | Failed():
                self._take_following(event)

    def _take_following(self, event: Synced | Resumed | Interrupted | Failed) -> None:
        match event:
            case Synced(kind):
                self._known.add(kind)
                self._interrupted.pop(kind, None)
            case Resumed(kind):
                self._interrupted.pop(kind, None)
            case Interrupted(kind, error, _) | Failed(kind, error):
                self._interrupted[kind] = str(error)

    def _note_findings(self, reference: ObjectReference, before: Sequence[Finding], after: Sequence[Finding]) -> None:
        for finding in before:
            self._reasons[finding.reason] -= 1
        for finding in after:
            self._reasons[finding.reason] += 1
        if after:
            self._findings[reference] = tuple(after)
        else:
            self._findings.pop(reference, None)

    # -- what is said --

    def status(self) -> Status:
        """All of it as it is now; from any thread."""
        asked, settings = self._asked, self._settings
        healthy, eligible = asked.health()
        configuration_problem = asked.configuration_problem()
        own = tuple(
            ListeningAddress(field=one.field, address=one_line(one.address), problem=one_line(one.problem))
            for one in self._listening()
        )
        takeover = asked.takeover()
        with self._lock:
            last, failure = self._last, self._failure
            pending = Pending(waiting=asked.waiting(), taken=self._taken, since=self._taken_since)
            known, interrupted = set(self._known), dict(self._interrupted)
            service_ports = self._service_ports
            refused, files, objects = self._refused, dict(self._files), dict(self._objects)
            drift = Drift(repairs=self._repair_count, entries=self._repaired_entries, last=tuple(self._repairs))
            findings, reasons = list(self._findings.items()), dict(self._reasons)
            health_checks = dict(self._health_checks)
        if self._of_host:
            findings.append((self._of_host[0].reference, self._of_host))
        following = tuple(
            Following(kind=kind.__name__, known=kind in known, problem=one_line(interrupted.get(kind, "")))
            for kind in settings.kinds
        )
        is_degraded = (
            bool(refused or files or objects or health_checks or configuration_problem)
            or any(one.problem for one in following)
            or any(one.problem for one in own)
        )
        return Status(
            state=_state(last, failure, is_healthy=healthy, is_degraded=is_degraded),
            healthy=healthy,
            node_eligible=eligible,
            rulegen=__version__,
            commit=_commit(),
            process=os.getpid(),
            started=self._started,
            now=self._now(),
            node=settings.node,
            target=settings.target,
            variant=settings.variant,
            features=settings.features,
            families=settings.families,
            source=Source(kind=settings.source.kind, places=tuple(map(one_line, settings.source.places))),
            configuration=one_line(settings.configuration),
            configuration_problem=one_line(configuration_problem),
            last_sync=last,
            failure=None
            if failure is None
            else Failure(since=failure.since, attempts=failure.attempts, error=one_line(failure.error)),
            pending=pending,
            following=following,
            service_ports=service_ports,
            refused=_problems(refused, str),
            broken_files=_problems(files, str),
            broken_objects=_problems(objects, lambda key: str(ObjectReference(key[0].__name__, key[1], key[2]))),
            drift=drift,
            listeners=Listeners(
                own=own,
                health_checks=asked.health_checks(),
                failed_health_checks=_problems(health_checks, lambda key: f"Service {key[0]}/{key[1]}"),
            ),
            findings=_shown_findings(findings, reasons),
            foreign_drops=one_line(asked.foreign_drops()),
            takeover=Takeover(state=takeover.state, message=one_line(takeover.message)),
        )


@cache
def _commit() -> str:
    """In a clone, git is asked for it, which takes a while."""
    return commit()


def _state(last: LastSync | None, failure: Failure | None, *, is_healthy: bool, is_degraded: bool) -> State:
    if failure is not None or not is_healthy:
        return "failing"
    if last is None:
        return "starting"
    return "degraded" if is_degraded else "ok"


def _problems(found: Mapping[Key, str], subject: Callable[[Key], str]) -> Problems:
    first = nsmallest(MOST, ((one_line(subject(key)), key) for key in found), key=lambda pair: pair[0])
    shown = tuple(Problem(subject=name, message=one_line(found[key])) for name, key in first)
    return Problems(total=len(found), shown=shown)


def _shown_findings(
    findings: Sequence[tuple[ObjectReference, tuple[Finding, ...]]], reasons: Mapping[str, int]
) -> Findings:
    first = nsmallest(MOST, findings, key=lambda pair: pair[0])
    shown = tuple(
        ObjectFindings(
            object=one_line(str(reference)),
            total=len(found),
            shown=tuple(
                ObjectFinding(reason=str(one.reason), message=one_line(one.message))
                for one in sorted(found)[:_FINDINGS]
            ),
        )
        for reference, found in first
    )
    total = {str(reason): number for reason, number in sorted(reasons.items()) if number}
    return Findings(total=total, objects=len(findings), shown=shown)
