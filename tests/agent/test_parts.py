"""The inbox and the schedule: what is kept of what arrives, and when to act."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import closing

import pytest

from rulegen.agent.inbox import Inbox
from rulegen.agent.schedule import Allowance, Schedule
from rulegen.kube.decode import ObjectError
from rulegen.kube.follow import Delete, Invalid, Synced, Upsert
from rulegen.kube.objects import Service
from tests.builders import service

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
