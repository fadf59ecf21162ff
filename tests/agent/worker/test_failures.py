"""What is said of syncs that fail: each reason once."""

from __future__ import annotations

from rulegen.agent.worker.failures import Failures


def test_each_reason_is_said_once_until_a_sync_ends_well() -> None:
    failures = Failures()
    first = failures.take("Connection refused", 0.1)
    assert first == "sync failed, next attempt in 0.1 s, then again until it works (said once): Connection refused"
    assert failures.take("Connection refused", 0.2) == ""
    assert failures.take("no answer within 10 s", 0.4).endswith(": no answer within 10 s")
    assert failures.take("Connection refused", 0.8) == ""
    assert failures.over() == "synced again, after 4 attempts that failed"
    assert failures.over() == ""
    assert failures.take("Connection refused", 0.1) == first
    assert failures.over() == "synced again, after an attempt that failed"


def test_an_error_that_is_another_each_time_ends_to_be_said() -> None:
    failures = Failures()
    assert len([line for number in range(1000) if (line := failures.take(f"number {number}", 1.0))]) == 20
