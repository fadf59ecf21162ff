"""The work queue and the schedule: what is kept of what arrives, and when to act."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from rulegen.agent.worker.readiness import Readiness
from rulegen.agent.worker.schedule import Allowance, Schedule
from rulegen.agent.worker.work_queue import WorkQueue
from rulegen.errors import HostError
from rulegen.features import kinds_of
from rulegen.iptables.drift import PeriodicResync
from rulegen.kube.api import ApiError
from rulegen.kube.backoff import Retries
from rulegen.kube.decode import ObjectError
from rulegen.kube.follow import Delete, Interrupted, Invalid, Synced, Upsert
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR
from tests.builders import CONFIGURATION, endpoint_slice, node, service

OTHER = service("web", ["10.96.0.99"])
BROKEN = ObjectError("Service", "a Service", ())


@pytest.fixture
def work_queue() -> Iterator[WorkQueue]:
    with closing(WorkQueue()) as made:
        yield made


def _is_readable(work_queue: WorkQueue) -> bool:
    return bool(select.select([work_queue.fileno()], [], [], 0)[0])


def test_of_an_object_the_last_state_is_kept(work_queue: WorkQueue) -> None:
    for _ in range(10_000):
        work_queue.deliver(Upsert(service()))
        work_queue.deliver(Upsert(OTHER))
    work_queue.deliver(Synced(Service))
    assert _is_readable(work_queue)
    assert work_queue.take() == [Upsert(OTHER), Synced(Service)]
    assert not _is_readable(work_queue)
    work_queue.deliver(Upsert(OTHER))
    work_queue.deliver(Delete(Service, "default", "web"))
    assert work_queue.take() == [Delete(Service, "default", "web")]


def test_an_invalid_object_does_not_hide_what_it_meant_before(work_queue: WorkQueue) -> None:
    invalid = Invalid(Service, "default", "web", ObjectError("Service", "default/web", ()))
    work_queue.deliver(Upsert(service()))
    work_queue.deliver(invalid)
    assert work_queue.take() == [Upsert(service()), invalid]
    work_queue.deliver(invalid)
    work_queue.deliver(Upsert(OTHER))
    assert work_queue.take() == [Upsert(OTHER)]


@contextmanager
def _holding_back_a_large_service(clock: Callable[[], float], sizes: dict[tuple[str, str], int]) -> Iterator[WorkQueue]:
    """The first slice of `default/big` waits, as `default/other` was handed on just now."""
    with closing(WorkQueue(clock)) as work_queue:
        work_queue.weigh(sizes)
        work_queue.deliver(_slice(0, name="other"))
        work_queue.take(200)
        work_queue.deliver(_slice(0))
        yield work_queue


def test_what_cannot_be_used_is_told_after_the_change_before_it_that_waits() -> None:
    """Told first, it would count as mended by a state that is older."""
    now = 100.0
    sizes = {("default", "big"): 100_000, ("default", "other"): 100_000}
    with _holding_back_a_large_service(lambda: now, sizes) as work_queue:
        broken = Invalid(EndpointSlice, "default", "big-0", ObjectError("EndpointSlice", "default/big-0", ()))
        for event in (_busy(0), _busy(1), _invalid(1), broken):
            work_queue.deliver(event)
        assert work_queue.take_prompt() == []
        assert work_queue.take(1) == [_busy(0)]
        assert work_queue.take(1) == [_busy(1), _invalid(1)]
        now += 30.0
        assert work_queue.take(1) == [_slice(0), broken]
        # Nothing waits any more, or it is mended.
        work_queue.deliver(broken)
        assert work_queue.take_prompt() == [broken]
        for event in (_busy(2), _invalid(2), _busy(2)):
            work_queue.deliver(event)
        assert work_queue.take(1) == [_busy(2)]
        assert work_queue.take() == []


# -- turns --


def _busy(number: int, namespace: str = "tenant") -> Upsert:
    return Upsert(service(f"web-{number}", namespace=namespace))


def _invalid(number: int) -> Invalid:
    return Invalid(Service, "tenant", f"web-{number}", BROKEN)


def _slice(number: int, endpoints: int = 1, name: str = "big") -> Upsert:
    addresses = [f"10.128.{host // 250}.{host % 250 + 1}" for host in range(endpoints)]
    return Upsert(endpoint_slice(addresses, service_name=name, name=f"{name}-{number}"))


def test_a_namespace_in_which_much_changes_holds_up_no_other(work_queue: WorkQueue) -> None:
    for number in range(1000):
        work_queue.deliver(_busy(number))
    work_queue.deliver(_busy(1, "quiet"))
    assert work_queue.waiting() == 1001
    first = work_queue.take(20)
    assert work_queue.waiting() == 981
    assert len(first) == 20
    assert _busy(1, "quiet") in first
    rest = []
    while (wait := work_queue.wait()) is not None:
        assert wait == 0.0
        rest += work_queue.take(20)
    assert {event.item.metadata.name for event in rest if isinstance(event, Upsert)} == {
        f"web-{number}" for number in range(1000)
    } - {event.item.metadata.name for event in first if isinstance(event, Upsert) and event != _busy(1, "quiet")}


def test_services_that_change_all_the_time_hold_up_no_neighbour(work_queue: WorkQueue) -> None:
    for number in range(1000):
        work_queue.deliver(_busy(number))
    work_queue.take(2000)
    for number in range(1000):
        work_queue.deliver(_busy(number))
    work_queue.deliver(_busy(5000))
    assert work_queue.take(20)[0] == _busy(5000)
    # And none of them waits for ever, however many quiet ones come.
    for number in range(6000, 7000):
        work_queue.deliver(_busy(number))
    assert _busy(30) in [event for _ in range(4) for event in work_queue.take(20)]


def test_what_a_start_takes_does_not_count_as_changing_all_the_time(work_queue: WorkQueue) -> None:
    for number in range(10):
        work_queue.deliver(_busy(number))
    work_queue.take()
    for number in range(5, 10):
        work_queue.deliver(_busy(number))
    work_queue.take(10)
    for number in (5, 6, 7, 8, 9, 0):
        work_queue.deliver(_busy(number))
    assert work_queue.take(20)[0] == _busy(0)


def test_an_object_that_is_quiet_again_counts_as_quiet() -> None:
    now = 100.0
    with closing(WorkQueue(lambda: now)) as work_queue:
        work_queue.deliver(_busy(1))
        work_queue.take(10)
        now += 10.0
        work_queue.deliver(_busy(2))
        work_queue.take(10)
        work_queue.deliver(_busy(2))
        work_queue.deliver(_busy(1))
        assert work_queue.take(10) == [_busy(1), _busy(2)]


def test_a_large_slice_counts_as_several_changes(work_queue: WorkQueue) -> None:
    for number in range(10):
        work_queue.deliver(_slice(number, endpoints=500))
    assert len(work_queue.take(22)) == 2


def test_large_services_wait_in_a_queue_of_their_own_and_get_a_tenth_of_the_time() -> None:
    now = 100.0
    with closing(WorkQueue(lambda: now)) as work_queue:
        work_queue.weigh({("default", "big"): 100_000, ("default", "other"): 50_000})
        for name in ("big", "other"):
            for number in range(3):
                work_queue.deliver(_slice(number, name=name))
        work_queue.deliver(_busy(1))
        # All changes of one, as compiling it costs the same.
        assert work_queue.take(200) == [*(_slice(number) for number in range(3)), _busy(1)]
        work_queue.deliver(_slice(0))
        assert work_queue.take(200) == []
        assert work_queue.wait() == pytest.approx(30.0)
        now += 30.0
        assert work_queue.wait() == 0.0
        assert work_queue.take(200) == [_slice(number, name="other") for number in range(3)]
        assert work_queue.wait() == pytest.approx(15.0)
        # A deletion follows the change that waits.
        work_queue.deliver(Delete(EndpointSlice, "default", "big-0"))
        assert work_queue.take(200) == []
        now += 15.0
        assert work_queue.take(200) == [Delete(EndpointSlice, "default", "big-0")]
        assert work_queue.wait() is None


def test_a_service_that_is_large_no_more_keeps_the_last_state_of_what_waits() -> None:
    now = 100.0
    sizes = {("default", "big"): 100_000, ("default", "other"): 100_000}
    with _holding_back_a_large_service(lambda: now, sizes) as work_queue:
        del sizes["default", "big"]
        work_queue.deliver(_slice(0, endpoints=2))
        now += 30.0
        assert work_queue.take(200) == [_slice(0, endpoints=2)]
        assert work_queue.wait() is None


def test_what_is_no_change_of_a_service_waits_for_nobody(work_queue: WorkQueue) -> None:
    for number in range(1000):
        work_queue.deliver(_busy(number))
    work_queue.take_prompt()
    work_queue.deliver(Upsert(node()))
    assert _is_readable(work_queue)
    assert work_queue.take_prompt() == [Upsert(node())]
    work_queue.deliver(Synced(Service))
    assert work_queue.take(5)[-1] == Synced(Service)


def test_what_is_delivered_together_is_taken_together(work_queue: WorkQueue) -> None:
    work_queue.deliver_together(_busy(number) for number in range(1000))
    assert len(work_queue.take(20)) == 1000


# -- times --


def test_svc_90_syncs_are_apart_and_the_first_after_quiet_is_at_once() -> None:
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
    return Readiness(
        100.0, kinds_of(()), CONFIGURATION.node_name, needs_node=needs_node, needs_pod_cidrs=needs_pod_cidrs
    )


def test_svc_89_nothing_is_programmed_before_services_and_slices_are_known() -> None:
    readiness = _readiness()
    for kind in (Node, ServiceCIDR, Service):
        assert readiness.wait(1000.0) is None
        readiness.take(Synced(kind))
    readiness.take(Upsert(node()))
    assert readiness.wait(1000.0) is None
    readiness.take(Synced(EndpointSlice))
    assert readiness.wait(100.0) == 0
    assert readiness.lacks() == []


def test_svc_95_the_node_is_waited_for_half_a_minute() -> None:
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


def test_svc_95_without_pod_cidrs_there_is_no_start_in_mode_node_cidr() -> None:
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
    turns = PeriodicResync(30.0, 1000.0)
    assert turns.look(1029.0) == []
    assert turns.wait(1029.0) == 1.0
    assert turns.look(1030.0) == ["another program"]
    turns.compared(1030.1, 0.1)
    assert turns.wait(1030.1) == 30.0
    turns.compared(1040.0, 2.0)
    assert turns.wait(1040.0) == 200.0


def test_a_failure_that_takes_turns_with_another_is_said_once() -> None:
    retries = Retries(1.0, 2.0)
    said = [retries.failed(HostError(words), 0.0) for words in ("no answer", "refused") * 3]
    assert said == [True, True, *[False] * 4]
    assert sum(retries.failed(HostError(f"request {number}"), 0.0) for number in range(100)) < 30
    retries.succeeded()
    assert retries.failed(HostError("refused"), 0.0)
