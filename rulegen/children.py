"""Programs of the host, run and waited for: bytes in, bytes out. None outlives whoever waits for it, whatever hangs.

Waiting can be interrupted by a signal's exception, by a timeout, and from another thread; then the program is killed
with all that it started. Decides nothing about what a program says.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

_LOG = logging.getLogger("rulegen")

# After so many seconds somebody is told what is being waited for.
SLOW_SECONDS = 10.0
# How long a killed program may take to be gone; one in an uninterruptible call of the kernel may never be.
_GONE_SECONDS = 0.2

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()


class Ended(NamedTuple):
    """How a program ended; `returncode` is negative for a signal."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run(arguments: Sequence[str], text: bytes = b"", *, timeout: float) -> Ended:
    """Runs a program with `text` on its standard input.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it did not end within `timeout` seconds, and was killed.
    """
    process = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        with _lock:
            _running.add(process)
        with _told_when_slow(arguments[0], timeout):
            stdout, stderr = process.communicate(text, timeout)
    finally:
        with _lock:
            _running.discard(process)
        if process.returncode is None:
            _kill(process)
    return Ended(process.returncode, stdout, stderr)


def end_all() -> None:
    """Kills the programs that any thread waits for; those threads go on as after a program that was killed."""
    with _lock:
        running = tuple(_running)
    for process in running:
        _kill_group(process)


def how(ended: Ended) -> str:
    """How a program ended, in words that follow its name: `was killed by SIGSEGV`, `ended with exit status 1`."""
    if ended.returncode >= 0:
        return f"ended with exit status {ended.returncode}"
    try:
        return f"was killed by {signal.Signals(-ended.returncode).name}"
    except ValueError:
        return f"was killed by signal {-ended.returncode}"


@contextmanager
def _told_when_slow(name: str, timeout: float) -> Iterator[None]:
    """Says after a while what is being waited for; `communicate` itself forgets its input at a timeout."""
    words = "%s has not ended for %.0f s: it is killed after %.0f s"
    timer = threading.Timer(SLOW_SECONDS, _LOG.warning, (words, name, SLOW_SECONDS, timeout))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill(process: subprocess.Popen[bytes]) -> None:
    _kill_group(process)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GONE_SECONDS)
    for pipe in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The program leads a session of its own, so that its children go with it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
