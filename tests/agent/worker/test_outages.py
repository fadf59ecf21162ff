"""What is said about kinds that are not followed: each fact once, though four kinds find it out again and again."""

from __future__ import annotations

from rulegen.agent.worker.outages import Outages
from rulegen.kube.api import ApiError
from rulegen.kube.follow import Interrupted, Resumed
from rulegen.kube.kinds import WatchedKind
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR

KINDS: tuple[WatchedKind, ...] = (Service, EndpointSlice, ServiceCIDR, Node)


def test_what_all_kinds_share_is_said_once() -> None:
    outages = Outages()
    lines = [
        line
        for attempt in range(5)
        for kind in KINDS
        for line in outages.take(Interrupted(kind, ApiError("https://x: Connection refused"), float(attempt)))
    ]
    assert lines == [
        "not following Service, trying again until it works (said once for all kinds): https://x: Connection refused"
    ]
    ends = [line for kind in KINDS for line in outages.take(Resumed(kind))]
    assert ends == ["following EndpointSlice, Node, Service, ServiceCIDR again"]
    # The next time is news.
    assert len(outages.take(Interrupted(Node, ApiError("https://x: Connection refused"), 0.1))) == 1
    assert outages.take(Resumed(Node)) == ["following Node again"]


def test_what_differs_is_said_of_each() -> None:
    outages = Outages()
    assert outages.take(Interrupted(Node, ApiError("nodes: 403 Forbidden"), 1.0))
    assert outages.take(Interrupted(Service, ApiError("Connection refused"), 1.0))
    assert not outages.take(Interrupted(Node, ApiError("Connection refused"), 1.0))
    assert not outages.take(Interrupted(Node, ApiError("nodes: 403 Forbidden"), 1.0))
    assert outages.take(Resumed(Service)) == []
    assert outages.take(Resumed(Node)) == ["following Node, Service again"]


def test_an_error_that_is_another_each_time_is_not_said_each_time() -> None:
    outages = Outages()
    lines = [outages.take(Interrupted(Node, ApiError(f"error {number}"), 1.0)) for number in range(1000)]
    assert sum(map(len, lines)) == 20
    assert outages.take(Resumed(Node)) == ["following Node again"]
    assert outages.take(Resumed(Node)) == []
