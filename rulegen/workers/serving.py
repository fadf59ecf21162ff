"""The worker's side: requests come in over a socket that the process was started with, answers go out.

Ends with the one who started it, however that one ends. Needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable

# A request: the length of its text, and whether it is only checked. An answer: the length of its text, and whether the
# request was carried out.
REQUEST = struct.Struct("!Q?")
ANSWER = struct.Struct("!I?")

_PR_SET_PDEATHSIG = 1
_LONGEST_ANSWER = 1 << 16


def start(descriptor: str, parent: str) -> socket.socket:
    """The channel, given its file descriptor and the process that started this one.

    The kernel ends this process with the thread that started it; it does not leave an image of its memory.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(1)
    return socket.socket(fileno=int(descriptor))


def serve(channel: socket.socket, take: Callable[[str, bool], str | None]) -> None:
    """Until the channel is closed. `take`: a request's text, and whether it is only checked; None, or why not."""
    while True:
        length, only_check = REQUEST.unpack(_received(channel, REQUEST.size))
        refusal = take(_received(channel, length).decode("utf-8", "surrogateescape"), only_check)
        data = (refusal or "").encode("utf-8", "surrogateescape")[:_LONGEST_ANSWER]
        channel.sendall(ANSWER.pack(len(data), refusal is None) + data)


def _received(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = channel.recv(min(size - len(data), 1 << 20))
        if not part:
            sys.exit(0)
        data += part
    return bytes(data)
