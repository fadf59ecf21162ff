"""The inbox and the schedule: what is kept of what arrives, and when to act."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import closing

import pytest

from rulegen.agent.drift import Turns
from rulegen.agent.inbox import Inbox
from rulegen.agent.readiness import Readiness
from rulegen.agent.schedule import Allowance, Schedule
from rulegen.errors import HostError
from rulegen.kube.api import ApiError
from rulegen.kube.decode import ObjectError
from rulegen.kube.follow import Delete, Interrupted, Invalid, Synced, Upsert
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR
from tests.builders import node, service

OTHER = service("web", ["10.96.0.99"])


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with closing(Inbox()) as made:
        yield made


def _is_readable(inbox: Inbox) -> bool:
    return bool(select.select([inbox.fileno()], [], [], 0)[0])


def test_of_an_object_the_last_state_is_kept(inbox: Inbox) -> None:
    for _ in range(10_000):
        inbox.deliver(Upsert(service()))
        inbox.deliver(Upsert(OTHER))
    inbox.deliver(Synced(Service))
    assert _is_readable(inbox)
    assert inbox.take() == [Upsert(OTHER), Synced(Service)]
    assert not _is_readable(inbox)
    inbox.deliver(Upsert(OTHER))
    inbox.deliver(Delete(Service, "default", "web"))
    assert inbox.take() == [Delete(Service, "default", "web")]


def test_an_invalid_object_does_not_hide_what_it_meant_before(inbox: Inbox) -> None:
    invalid = Invalid(Service, "default", "web", ObjectError("Service", "default/web", ()))
    inbox.deliver(Upsert(service()))
    inbox.deliver(invalid)
    assert inbox.take() == [Upsert(service()), invalid]
    inbox.deliver(invalid)
    inbox.deliver(Upsert(OTHER))
    assert inbox.take() == [Upsert(OTHER)]


def test_rule_90_syncs_are_apart_and_the_first_after_quiet_is_at_once() -> None:
    schedule = Schedule(1.0, 30.0)
    assert schedule.wait(0.0) is None
    schedule.request()
    assert (schedule.wait(100.0) or 0) <= 0
    schedule.succeeded(100.0)
    assert schedule.wait(100.0) is None
    schedule.request()
    assert schedule.wait(100.25) == 0.75
    schedule.request_at_once()
    assert (schedule.wait(100.25) or 0) <= 0


def test_a_failure_is_tried_again_later_and_later() -> None:
    schedule = Schedule(0.0, 30.0)
    delays = [schedule.failed(0.0) for _ in range(20)]
    assert delays[0] <= 0.1
    assert 15.0 <= delays[-1] <= 30.0
    schedule.request_at_once()
    assert schedule.wait(0.0) == delays[-1]
    schedule.succeeded(50.0)
    assert schedule.failed(60.0) <= 0.1


def test_looks_at_the_kernel_are_some_at_once_then_one_in_each_period() -> None:
    allowance = Allowance(30.0, 1000.0)
    used = 0
    while allowance.wait(1000.0) <= 0:
        allowance.use(1000.0)
        used += 1
    assert used == 10
    assert allowance.wait(1000.0) == 30.0
    assert allowance.wait(1030.0) == 0.0
    allowance.use(1030.0)
    assert allowance.wait(1030.0) == 30.0
    assert allowance.wait(1030.0 + 300.0) < 0


# -- when to begin --


def _readiness(*, needs_node: bool = True, needs_pod_cidrs: bool = False) -> Readiness:
    return Readiness(100.0, needs_node=needs_node, needs_pod_cidrs=needs_pod_cidrs)


def test_rule_89_nothing_is_programmed_before_services_and_slices_are_known() -> None:
    readiness = _readiness()
    for kind in (Node, ServiceCIDR, Service):
        assert readiness.wait(1000.0) is None
        readiness.take(Synced(kind))
    readiness.take(Upsert(node()))
    assert readiness.wait(1000.0) is None
    readiness.take(Synced(EndpointSlice))
    assert readiness.wait(100.0) == 0
    assert readiness.lacks() == []


def test_rule_95_the_node_is_waited_for_half_a_minute() -> None:
    readiness = _readiness()
    for kind in (Service, EndpointSlice, ServiceCIDR, Node):
        readiness.take(Synced(kind))
    assert readiness.wait(110.0) == 20.0
    readiness.take(Upsert(node(addresses=[])))
    assert readiness.wait(110.0) == 20.0
    assert readiness.lacks() == ["addresses of the Node"]
    assert readiness.wait(130.0) == 0
    readiness.take(Upsert(node()))
    assert readiness.wait(110.0) == 0


def test_what_is_denied_is_not_waited_for() -> None:
    readiness = _readiness()
    for kind in (Service, EndpointSlice):
        readiness.take(Synced(kind))
    for watched in (Node, ServiceCIDR):
        readiness.take(Interrupted(watched, ApiError("no answer"), 1.0))
    assert readiness.wait(100.0) == 30.0
    for watched in (Node, ServiceCIDR):
        readiness.take(Interrupted(watched, ApiError("forbidden", 403), 1.0))
    assert readiness.wait(100.0) == 0


def test_manifests_need_no_node() -> None:
    readiness = _readiness(needs_node=False)
    for kind in (Service, EndpointSlice, ServiceCIDR, Node):
        readiness.take(Synced(kind))
    assert readiness.wait(100.0) == 0


def test_rule_95_without_pod_cidrs_there_is_no_start_in_mode_node_cidr() -> None:
    readiness = _readiness(needs_pod_cidrs=True)
    for kind in (Service, EndpointSlice, ServiceCIDR, Node):
        readiness.take(Synced(kind))
    readiness.take(Upsert(node()))
    assert readiness.wait(100.0) == 300.0
    with pytest.raises(HostError, match="NodeCIDR: the Node has no podCIDR after 300 s"):
        readiness.wait(400.0)
    readiness.take(Upsert(node(pod_cidrs=["10.128.0.0/24"])))
    assert readiness.wait(400.0) == 0


def test_looking_at_iptables_takes_a_hundredth_of_the_time() -> None:
    turns = Turns(30.0, 1000.0)
    assert turns.look(1029.0) == []
    assert turns.wait(1029.0) == 1.0
    assert turns.look(1030.0) == ["another program"]
    turns.compared(1030.1, 0.1)
    assert turns.wait(1030.1) == 30.0
    turns.compared(1040.0, 2.0)
    assert turns.wait(1040.0) == 200.0
