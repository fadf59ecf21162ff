"""Time and memory, as the operating system counts them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

Numbers: TypeAlias = dict[str, float]


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for, user and system."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def measured(into: Numbers, name: str) -> Iterator[None]:
    """Notes how long the block took, in seconds: `name` on the clock, `name cpu` on the processors."""
    cpu, wall = _cpu_seconds(), time.perf_counter()
    yield
    into[name] = time.perf_counter() - wall
    into[f"{name} cpu"] = _cpu_seconds() - cpu


def peak_memory(process: int | str = "self") -> float:
    """The most that a process ever had resident, in MB; its children apart.

    Not `ru_maxrss`: that of a new process starts with what its parent had.
    """
    return _status(process, "VmHWM:")


def resident_memory(process: int | str = "self") -> float:
    """What a process has resident now, in MB; its children apart."""
    return _status(process, "VmRSS:")


def tree_memory(process: int) -> float:
    """What a process and its children have resident now, in MB.

    A child that is about to become another program still shows its parent's memory, which it shares.
    """
    found, command = resident_memory(process), Path(f"/proc/{process}/cmdline").read_bytes()
    for child in _children(process):
        with suppress(OSError):
            if Path(f"/proc/{child}/cmdline").read_bytes() != command:
                found += resident_memory(child)
    return found


def _children(process: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def _status(process: int | str, field: str) -> float:
    """A field in kB of the status of a process, in MB; 0 once it has ended."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


def processor_seconds(process: int) -> float:
    """What another process has taken so far, user and system, with those of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def watched_children(into: Numbers, name: str) -> Iterator[None]:
    """Notes the peak memory of the largest process that this one starts meanwhile, in MB."""
    ended = threading.Event()
    into[name] = 0.0
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")

    def watch() -> None:
        while not ended.wait(0.02):
            for child in children.read_text().split():
                with suppress(OSError):
                    into[name] = max(into[name], peak_memory(child))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
