"""Programs of the host, run and waited for: bytes in, bytes out. None outlives whoever waits for it, whatever hangs.

Waiting can be interrupted by a signal's exception, by a timeout, and from another thread; then the program is killed
with all that it started. Decides nothing about what a program says.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

_LOG = logging.getLogger("rulegen")

# After so many seconds somebody is told what is being waited for.
SLOW_SECONDS = 10.0
# How long a killed program may take to be gone; one in an uninterruptible call of the kernel may never be.
_GONE_SECONDS = 0.2

# How long a thread may take to end after its program was killed.
_END_SECONDS = 0.3

_running: dict[subprocess.Popen[bytes], threading.Thread] = {}
# A signal's handler may end all in the middle of what the main thread does with it.
_lock = threading.RLock()
_is_ending = threading.Event()


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
    if _is_ending.is_set():
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
    with _as_file(text) as standard_input:
        process = subprocess.Popen(
            arguments, stdin=standard_input, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    try:
        with _lock:
            _running[process] = threading.current_thread()
        # Whoever ended all may have looked while this one was being started.
        if _is_ending.is_set():
            _kill_group(process)
        stdout, stderr = _communicate(process, timeout)
    finally:
        with _lock:
            _running.pop(process, None)
        if process.returncode is None:
            _kill(process)
    return Ended(process.returncode, stdout, stderr)


def end_all() -> None:
    """At the end of the process: kills the programs that other threads wait for, and waits for these threads."""
    _is_ending.set()
    with _lock:
        running = dict(_running)
    for process in running:
        _kill_group(process)
    for thread in running.values():
        # A thread that works while the interpreter goes down can take it down.
        if thread is not threading.current_thread():
            thread.join(_END_SECONDS)


def how(ended: Ended) -> str:
    """How a program ended, in words that follow its name: `was killed by SIGSEGV`, `ended with exit status 1`."""
    if ended.returncode >= 0:
        return f"ended with exit status {ended.returncode}"
    return f"was killed by {signal_name(-ended.returncode)}"


def signal_name(number: int) -> str:
    """`SIGSEGV`; `signal 34` for one without a name."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


@contextmanager
def _as_file(text: bytes) -> Iterator[int]:
    """A file in memory: unlike through a pipe, nobody has to be there to hand it over. Only Linux has such files."""
    file = os.memfd_create("stdin", os.MFD_CLOEXEC) if sys.platform == "linux" else _temporary_file()
    try:
        view = memoryview(text)
        while view:
            view = view[os.write(file, view) :]
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def _temporary_file() -> int:
    """Open, and without a name."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _communicate(process: subprocess.Popen[bytes], timeout: float) -> tuple[bytes, bytes]:
    if timeout > SLOW_SECONDS:
        try:
            return process.communicate(timeout=SLOW_SECONDS)
        except subprocess.TimeoutExpired as error:
            words = "%s has not ended for %.0f s: it is killed after %.0f s"
            _LOG.warning(words, error.cmd[0], SLOW_SECONDS, timeout)
            timeout -= SLOW_SECONDS
    # What was received so far is kept.
    return process.communicate(timeout=timeout)


def _kill(process: subprocess.Popen[bytes]) -> None:
    _kill_group(process)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GONE_SECONDS)
    for pipe in (process.stdout, process.stderr):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The program leads a session of its own, so that its children go with it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
