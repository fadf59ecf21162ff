"""Programs are waited for in ways that end, with all that they started; nothing of their input or output is lost."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from rulegen import children
from tests.agent.running import wait_until
from tests.patience import patience

# More than a pipe holds, many times.
MUCH = bytes(range(256)) * 40_000


def is_running(marker: str) -> bool:
    # No pattern of paths: it fails when a process ends while it looks.
    for process in Path("/proc").iterdir():
        try:
            if marker.encode() in (process / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


@pytest.fixture
def forever() -> str:
    return f"86401.{os.getpid()}{time.monotonic_ns()}"


def test_all_input_arrives_and_all_output_too() -> None:
    done = children.run(["sh", "-c", "cat; echo said >&2; exit 3"], MUCH, timeout=patience(60))
    assert done == (3, MUCH, b"said\n")
    assert children.how(done) == "ended with exit status 3"


def test_slow_reader_gets_all_of_it_and_somebody_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(children, "SLOW_SECONDS", 0.2)
    with caplog.at_level(logging.WARNING):
        done = children.run(["sh", "-c", "sleep 1; cat"], MUCH, timeout=patience(60))
    assert done.stdout == MUCH
    assert [record.getMessage() for record in caplog.records] == [
        f"sh has not ended for 0 s: it is killed after {patience(60):g} s"
    ]


def test_one_that_reads_nothing_is_no_error() -> None:
    assert children.run(["true"], MUCH, timeout=patience(60)).returncode == 0


def test_one_that_hangs_is_killed_with_its_children(forever: str) -> None:
    script = f"trap '' TERM INT HUP; sleep {forever} & sleep {forever}; wait"
    with pytest.raises(subprocess.TimeoutExpired):
        children.run(["sh", "-c", script], MUCH, timeout=0.5)
    wait_until(lambda: not is_running(forever), 10.0)


def test_an_exception_of_a_signal_ends_it(forever: str) -> None:
    class _AlarmError(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise _AlarmError

    def ring_when_it_runs() -> None:
        wait_until(lambda: is_running(forever), 10.0)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, ring)
    thread = threading.Thread(target=ring_when_it_runs)
    try:
        thread.start()
        with pytest.raises(_AlarmError):
            children.run(["sleep", forever], timeout=600)
    finally:
        thread.join()
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: not is_running(forever), 10.0)


def test_another_thread_ends_it(forever: str) -> None:
    ended: list[str] = []
    thread = threading.Thread(
        target=lambda: ended.append(children.how(children.run(["sleep", forever], timeout=600))), daemon=True
    )
    thread.start()
    wait_until(lambda: is_running(forever), 10.0)
    try:
        children.end_all()
        thread.join(patience(10))
        assert ended == ["was killed by SIGKILL"]
        with pytest.raises(OSError, match="canceled"):
            children.run(["true"], timeout=1)
    finally:
        children._is_ending.clear()


def test_one_that_cannot_be_started_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        children.run(["/no/such/program"], timeout=1)
