"""What the worker does, and the own Node, come in; whether this agent is healthy goes out (spec §15). Opens no socket.

/livez says whether changes reach the kernel in time: for the kubelet, which restarts what does not answer. /healthz
says in addition whether load balancers should send new connections to this node at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple, Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import msgspec
from msgspec import UNSET, Struct, UnsetType

from rulegen.agent.http.server import READS, refuse_method, respond, respond_text
from rulegen.config import Family
from rulegen.kube.objects import Node

GOING_AWAY_TAINT = "ToBeDeletedByClusterAutoscaler"

# Of every answer in JSON, also of the Services' health checks.
JSON_HEADERS = (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"))

# Go's zero time, which its programs read as "never".
_NEVER = datetime.min.replace(tzinfo=UTC)


class Answer(NamedTuple):
    """A status and a JSON body."""

    status: HTTPStatus
    body: bytes


class _FamilyReport(Struct, rename="camel"):
    last_updated: datetime
    healthy: bool


class _Report(Struct, rename="camel"):
    last_updated: datetime
    current_time: datetime
    node_eligible: bool | UnsetType
    healthy: bool
    status: dict[str, _FamilyReport]


class _State(NamedTuple):
    is_healthy: bool
    is_eligible: bool
    last_updated: datetime


class Health:
    """May be used by any thread.

    A sync is for all `families` together, so they are healthy together. `sync_period`: seconds. `requires_node`: this
    node is eligible only once its Node was seen; not so where nobody promised one, as in a folder of manifests.
    `clock`: seconds that only grow; `now`: the time of day.
    """

    def __init__(
        self,
        families: Iterable[Family],
        sync_period: float,
        *,
        requires_node: bool,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._families = tuple(families)
        self._timeout = 2 * sync_period
        self._requires_node = requires_node
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._pending_since: float | None = None
        self._working_since: float | None = None
        self._last_updated = _NEVER
        self._is_eligible = not requires_node

    def queued(self) -> None:
        """There is something to sync; it counts from the first such call after a sync (SVC-85)."""
        with self._lock:
            if self._pending_since is None:
                self._pending_since = self._clock()

    def synced(self) -> None:
        """A sync ended well, and nothing is pending (SVC-85)."""
        with self._lock:
            self._pending_since = None
            self._last_updated = self._now()

    def woke(self) -> None:
        """The working thread is at work from now on; what it waits for may hang, so this must not last."""
        with self._lock:
            self._working_since = self._clock()

    def rests(self) -> None:
        """The working thread has finished its work."""
        with self._lock:
            self._working_since = None

    def set_node(self, node: Node | None) -> None:
        """The own Node as it is now; None while it is not known, or not any more (SVC-86)."""
        is_eligible = not self._requires_node if node is None else not _is_going_away(node)
        with self._lock:
            self._is_eligible = is_eligible

    def is_healthy(self) -> bool:
        """As /livez says: what is pending, or being worked on, is younger than twice the sync period (SVC-85)."""
        return self._state().is_healthy

    def summary(self) -> tuple[bool, bool]:
        """Whether this agent does its work, and whether the node is there to stay."""
        state = self._state()
        return state.is_healthy, state.is_eligible

    def livez(self) -> Answer:
        """Whether this agent does its work (SVC-86, SVC-87)."""
        state = self._state()
        return self._answer(state, state.is_healthy, UNSET)

    def healthz(self) -> Answer:
        """Whether this agent does its work and the node is there to stay; `healthy` says both (SVC-86, SVC-87, D7)."""
        state = self._state()
        return self._answer(state, state.is_healthy and state.is_eligible, state.is_eligible)

    def _state(self) -> _State:
        with self._lock:
            now = self._clock()
            since = [time for time in (self._pending_since, self._working_since) if time is not None]
            is_healthy = all(now - time < self._timeout for time in since)
            return _State(is_healthy, self._is_eligible, self._last_updated)

    def _answer(self, state: _State, is_good: bool, node_eligible: bool | UnsetType) -> Answer:
        now = self._now()
        family = _FamilyReport(state.last_updated, state.is_healthy)
        status = {of.value: family for of in self._families}
        last_updated = now if is_good else state.last_updated
        report = _Report(last_updated, now, node_eligible, is_good, status)
        return Answer(HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE, msgspec.json.encode(report))


def _is_going_away(node: Node) -> bool:
    taints = (node.spec.taints if node.spec else None) or ()
    return node.metadata.deletion_timestamp is not None or any(taint.key == GOING_AWAY_TAINT for taint in taints)


class Answering(Protocol):
    """Whose health is asked about, by any thread."""

    def livez(self) -> Answer:
        """Whether it works."""
        ...

    def healthz(self) -> Answer:
        """Whether besides it is to get work."""
        ...


def healthz_application(
    health: Answering, count: Callable[[str, int], None], status: WSGIApplication
) -> WSGIApplication:
    """Answers GET and HEAD of /healthz and /livez (SVC-86, SVC-87), and has `status` answer /status.

    `count` is called from any thread with `healthz` or `livez` and the status of each answer (SVC-102).
    """
    answers = {"/healthz": health.healthz, "/livez": health.livez}

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/status":
            return status(environ, start_response)
        if path not in answers:
            return respond_text(start_response, HTTPStatus.NOT_FOUND)
        if environ["REQUEST_METHOD"] not in READS:
            return refuse_method(start_response)
        answer = answers[path]()
        count(path.removeprefix("/"), answer.status.value)
        return respond(start_response, answer.status, answer.body, JSON_HEADERS)

    return application
