"""What the owners of Services should know comes in; Kubernetes Events go out, from a thread of its own.

Nobody ever waits for an Event, and none is worth a flood: the same one is sent once while it holds, a node sends ten at
once and then one every ten seconds. All nodes of a cluster find the same, so an Event's name follows from what it says:
the first node makes it, to the others the API server answers that it is there. What changes nothing for a Service (the
API server is away, Events are not permitted) is said once in the log.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

from msgspec import Struct

from rulegen.agent.worker.schedule import Allowance
from rulegen.errors import RulegenError
from rulegen.kube.api import Api, ApiError
from rulegen.kube.backoff import Backoff
from rulegen.kube.kinds import REGISTRY
from rulegen.kube.objects import Node
from rulegen.reconcile.delta import Change
from rulegen.reference import Finding, ObjectReference

_LOG = logging.getLogger("rulegen.agent")

_API_VERSION = "events.k8s.io/v1"
_CONTROLLER = "rulegen"
_NOTE_LENGTH = 1024
_INSTANCE_LENGTH = 128
# Events that wait, and those that hold. Beyond, a new one is not sent, and the oldest is forgotten.
_MOST_WAITING = 1000
_MOST_HOLDING = 10_000
_STOP_SECONDS = 1.0
# Answers after which it is tried again, besides those that are the server's own fault (5xx); 0 is no answer.
_PASSING = frozenset({0, 401, 408, 429})
_FORBIDDEN, _NOT_FOUND, _EXISTS = 403, 404, 409
_TERMINATING = "NamespaceTerminating"
_NAMESPACES = "namespaces"


class Pace(Struct, frozen=True, kw_only=True):
    """How fast Events are sent; in seconds.

    `period`: ten are sent at once, then one in each. `spread`: the first waits for up to so long, as all nodes find the
    same at the same moment. `repeat`: what has ended and begins anew is sent again after so long, and what could not be
    sent for so long is dropped; API servers keep an Event for an hour. `first_delay`, `longest_delay`: until a failure
    is tried again. `refused`: how long nothing is sent when that is not permitted. `answer`: how long one may take.
    """

    period: float = 10.0
    spread: float = 5.0
    repeat: float = 3600.0
    first_delay: float = 1.0
    longest_delay: float = 300.0
    refused: float = 600.0
    answer: float = 10.0


_Key: TypeAlias = tuple[ObjectReference, str, str]


class _Event(NamedTuple):
    """`at`: when it was recorded, in seconds since the epoch; `recorded`: the same by the monotonic clock."""

    about: ObjectReference
    reason: str
    note: str
    action: str
    at: float
    recorded: float

    @property
    def key(self) -> _Key:
        return self.about, self.reason, self.note


class EventRecorder:
    """Makes Events. `api` belongs to it from `start` on; `node_name`: who says it."""

    def __init__(self, api: Api, node_name: str, pace: Pace | None = None) -> None:
        self._api = api
        self._instance = f"{_CONTROLLER}-{node_name}"[:_INSTANCE_LENGTH]
        self._pace = pace or Pace()
        self._changed = threading.Condition()
        self._stopping = False
        # By age. What holds was recorded and has not ended since; what waits is a part of that.
        self._holding: dict[_Key, None] = {}
        self._waiting: dict[_Key, _Event] = {}
        self._sent: dict[_Key, float] = {}
        self._allowance = Allowance(self._pace.period, time.monotonic())
        self._backoff = Backoff(self._pace.first_delay, self._pace.longest_delay)
        self._not_before = 0.0
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Begins; returns at once. Nothing is sent before there is an Event."""
        self._thread.start()

    def stop(self) -> None:
        """Ends within a second, whatever is under way; what waits is not sent."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._api.close()
        self._thread.join(_STOP_SECONDS)

    def record(
        self,
        about: ObjectReference,
        reason: str,
        note: str,
        action: str = "Program",
    ) -> None:
        """Something holds of an object from now on; never waits, and does nothing when it holds already.

        `reason`: a word for programs, `note`: a sentence for people, which names the node where it is about the node;
        `action`: a word for what was to be done.
        """
        event = _Event(about, reason, note, action, time.time(), time.monotonic())
        with self._changed:
            if event.key in self._holding:
                return
            self._hold(event.key)
            if not self._was_sent(event.key, event.recorded):
                self._wait_for_turn(event)

    def resolve(self, about: ObjectReference, reason: str, note: str) -> None:
        """It does not hold any more; if it was not sent yet, it is not. Never waits."""
        with self._changed:
            self._holding.pop((about, reason, note), None)
            self._waiting.pop((about, reason, note), None)

    # -- under the lock --

    def _hold(self, key: _Key) -> None:
        if len(self._holding) >= _MOST_HOLDING:
            del self._holding[next(iter(self._holding))]
        self._holding[key] = None

    def _was_sent(self, key: _Key, now: float) -> bool:
        """Within the time in which nothing is sent twice; forgets what was sent before that."""
        while self._sent and now - next(iter(self._sent.values())) >= self._pace.repeat:
            del self._sent[next(iter(self._sent))]
        return key in self._sent

    def _wait_for_turn(self, event: _Event) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._holding.pop(event.key, None)
            return
        if not self._waiting:
            spread = random.uniform(0.0, self._pace.spread)  # noqa: S311 - no secret
            self._not_before = max(self._not_before, event.recorded + spread)
        self._waiting[event.key] = event
        self._changed.notify_all()

    def _forget(self, event: _Event) -> None:
        """It is not sent, and is as if it had not been recorded."""
        self._waiting.pop(event.key, None)
        self._holding.pop(event.key, None)

    # -- the thread --

    def _run(self) -> None:
        while (event := self._next()) is not None:
            self._send(event)

    def _next(self) -> _Event | None:
        """The next Event, as soon as it may be sent; None when it is time to stop."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                event = self._first(now)
                wait = max(self._not_before - now, self._allowance.wait(now)) if event else None
                if wait is not None and wait <= 0:
                    self._allowance.use(now)
                    return event
                self._changed.wait(wait)
        return None

    def _first(self, now: float) -> _Event | None:
        while self._waiting:
            event = next(iter(self._waiting.values()))
            if now - event.recorded < self._pace.repeat:
                return event
            self._forget(event)
        return None

    def _send(self, event: _Event) -> None:
        path = f"/apis/{_API_VERSION}/namespaces/{quote(_namespace(event.about), safe='')}/events"
        try:
            self._api.post(path, _document(event, self._instance), self._pace.answer)
        except RulegenError as error:
            refusal = error if isinstance(error, ApiError) else ApiError(str(error))
            if refusal.status != _EXISTS:
                self._failed(event, refusal)
                return
        with self._changed:
            self._waiting.pop(event.key, None)
            self._sent.pop(event.key, None)
            self._sent[event.key] = time.monotonic()
        self._backoff.reset()
        if self._is_failing:
            self._is_failing = False
            _LOG.info("Events are sent again")

    def _failed(self, event: _Event, error: ApiError) -> None:
        is_kept = error.status in _PASSING or error.status >= 500
        delay = self._backoff.next(error.retry_after) if is_kept else 0.0
        if error.status in (_FORBIDDEN, _NOT_FOUND) and not _is_namespace_gone(error):
            delay = self._pace.refused
            # Who may not send it now may do so later; a server that knows no Events is not kept busy with them.
            is_kept = error.status == _FORBIDDEN
        with self._changed:
            if self._stopping:
                return
            self._not_before = time.monotonic() + delay
            is_waiting = self._waiting.pop(event.key, None) is not None
            if is_kept and is_waiting:
                # At the end: the server may take the others.
                self._waiting[event.key] = event
            else:
                self._forget(event)
        if not self._is_failing:
            self._is_failing = True
            _LOG.warning("cannot send Events (said once; Services work without): %s", error)


def _is_namespace_gone(error: ApiError) -> bool:
    """It has no owner to tell, which says nothing about others."""
    return _TERMINATING in error.causes or (error.status == _NOT_FOUND and error.about == _NAMESPACES)


def _document(event: _Event, instance: str) -> dict[str, Any]:
    about = event.about
    regarding = _regarding(about)
    identity = "\0".join((regarding["uid"], event.reason, event.note))
    digest = hashlib.blake2b(identity.encode(errors="replace"), digest_size=8).hexdigest()
    return {
        "apiVersion": _API_VERSION,
        "kind": "Event",
        "metadata": {"name": f"{about.name}.{digest}", "namespace": _namespace(about)},
        "eventTime": datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": _CONTROLLER,
        "reportingInstance": instance,
        "action": event.action,
        "reason": event.reason,
        "type": "Warning",
        "regarding": regarding,
        "note": _printable(event.note),
    }


def _printable(note: str) -> str:
    """Printable ASCII, of a length that the API server takes; `kubectl describe` writes it to terminals as it is."""
    text = "".join(char if char.isascii() and char.isprintable() else ascii(char)[1:-1] for char in note)
    return text if len(text) <= _NOTE_LENGTH else f"{text[: _NOTE_LENGTH - 3]}..."


def record_findings(
    recorder: EventRecorder, findings: Mapping[ObjectReference, Change[tuple[Finding, ...] | None]]
) -> None:
    """Makes Events of what owners of objects should know, as long as it is found. Never waits.

    `findings`: what is found otherwise than before, by the object whose owner is told.
    """
    for reference, change in findings.items():
        before, after = (dict.fromkeys(one for one in found or () if one.is_for_owner) for found in change)
        for finding in before:
            if finding not in after:
                recorder.resolve(reference, str(finding.reason), _words(finding, reference))
        for finding in after:
            if finding not in before:
                recorder.record(reference, str(finding.reason), _words(finding, reference))


def _words(finding: Finding, told: ObjectReference) -> str:
    """What is wrong with something else than the object that is told says with what."""
    is_of_it = finding.reference == told.without_uid
    return finding.message if is_of_it else f"{finding.subject}: {finding.message}"


def _regarding(reference: ObjectReference) -> dict[str, str]:
    """A Node's name stands for its uid, as in the kubelet's Events, where `kubectl` looks."""
    kind = next((kind for kind in REGISTRY.values() if kind.name == reference.kind), None)
    return {
        "apiVersion": kind.api_versions[0] if kind else "v1",
        "kind": reference.kind,
        **({"namespace": reference.namespace} if reference.namespace else {}),
        "name": reference.name,
        "uid": reference.name if reference.kind == Node.__name__ else reference.uid,
    }


def _namespace(reference: ObjectReference) -> str:
    """Where the Events of an object are."""
    return reference.namespace or "default"
