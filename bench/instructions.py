"""The kernel's instructions, as the processor counts them (`perf stat -e instructions:k`), for the calling thread.

Machines without such a counter, most virtual ones, count 0.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from types import TracebackType
from typing import Self

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_ATTRIBUTES_SIZE = 112
_HARDWARE, _COUNT_INSTRUCTIONS = 0, 1
_EXCLUDE_USER = 1 << 4
_CLOSE_ON_EXEC = 1 << 3
_NOT_HERE = {errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM}


class Instructions:
    """A counter that runs from the moment it is made. A context manager."""

    def __init__(self) -> None:
        self._counter = _open_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._counter is not None:
            os.close(self._counter)

    def read(self) -> int:
        """How many so far; 0 where they are not counted."""
        return 0 if self._counter is None else struct.unpack("=Q", os.read(self._counter, 8))[0]


def _open_counter() -> int | None:
    """`struct perf_event_attr`: type, size, config, then flags at offset 40."""
    attributes = struct.pack("=IIQ24xQ", _HARDWARE, _ATTRIBUTES_SIZE, _COUNT_INSTRUCTIONS, _EXCLUDE_USER | 1 << 6)
    libc = ctypes.CDLL(None, use_errno=True)
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        return None
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_SIZE)
    opened = int(libc.syscall(number, buffer, 0, -1, -1, _CLOSE_ON_EXEC))
    if opened >= 0:
        return opened
    if ctypes.get_errno() in _NOT_HERE:
        return None
    raise OSError(ctypes.get_errno(), "perf_event_open failed")
