"""The soak itself, too short to find anything: it does what it says, and it sees what is wrong."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.selection import Extent
from tests.soak.soak import Plan, Soak

pytestmark = pytest.mark.kernel

# With this seed each kind of trouble comes at least once.
PLAN = Plan(6.0, 20, seed=1660, fault=1.0, drift=2.0, server_stop=3.0, hang=1e9, kill=3.0)


def test_a_short_one_passes(tmp_path: Path, extent: Extent) -> None:
    said: list[str] = []
    plan = PLAN._replace(seconds=120.0, services=200) if extent.exhaustive else PLAN
    with Soak(plan, tmp_path, said.append) as soak:
        soak.run()
    assert soak.churn.changes > 20
    assert set(soak.trouble.counts) == {"API faults", "drift", "kills", "server restarts"}
    assert said[-1].startswith("memory: ")


def test_a_kernel_that_is_not_right_is_seen(tmp_path: Path) -> None:
    with Soak(PLAN, tmp_path, lambda _: None) as soak:
        soak.check(60.0)
        soak.agent.process.send_signal(signal.SIGSTOP)
        for _ in range(20):
            soak.churn.change()
        with pytest.raises(AssertionError, match=r"^\d+ entries of the kernel are not as the objects say:\n[-+~] ip"):
            soak.check(0.5)
        soak.agent.process.send_signal(signal.SIGCONT)
        soak.check(60.0)


def test_an_agent_that_has_ended_is_seen(tmp_path: Path) -> None:
    with Soak(PLAN, tmp_path, lambda _: None) as soak:
        soak.check(60.0)
        soak.kill_agent()
        for _ in range(20):
            soak.churn.change()
        with pytest.raises(AssertionError, match="the agent has ended"):
            soak.check(60.0)
