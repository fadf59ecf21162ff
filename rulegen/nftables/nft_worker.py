"""A process with libnftables in it, and nothing of rulegen's: `python -m rulegen.nftables.nft_worker`.

In: commands, over a socket that it was started with. Out: what libnftables says of each, and, first of all, a netlink
socket in the network namespace that they are carried out in: one of its own where it was asked for that, where nobody
else's tables are. Ends with the one who started it, however that one ends. `nft_process` is the other side.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import sys

# A request: the length of the commands, and whether they are only checked. An answer: the length of its text, and
# whether the commands were carried out.
REQUEST = struct.Struct("!Q?")
ANSWER = struct.Struct("!I?")
HERE, ALONE = "here", "alone"

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_NETLINK_NETFILTER = 12
_LONGEST_ANSWER = 1 << 16


def _end_with(parent: int) -> None:
    """The kernel ends this process with the thread that started it; it does not leave an image of its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _enter_namespace() -> str:
    """Enters a network namespace of its own, with a user namespace around it where it must be; why not, or ""."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNET) and library.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return os.strerror(ctypes.get_errno())
    return ""


def _received(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = channel.recv(min(size - len(data), 1 << 20))
        if not part:
            sys.exit(0)
        data += part
    return bytes(data)


def _serve(channel: socket.socket) -> None:
    import nftables

    library = nftables.Nftables()
    while True:
        length, only_check = REQUEST.unpack(_received(channel, REQUEST.size))
        library.set_dry_run(only_check)
        status, _, message = library.cmd(_received(channel, length).decode())
        text = message.encode()[:_LONGEST_ANSWER]
        channel.sendall(ANSWER.pack(len(text), not status) + text)


def _main() -> None:
    descriptor, parent, where = sys.argv[1:]
    _end_with(int(parent))
    channel = socket.socket(fileno=int(descriptor))
    refusal = _enter_namespace() if where == ALONE else ""
    if refusal:
        channel.sendall(refusal.encode())
        return
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        socket.send_fds(channel, [b"\0"], [netlink.fileno()])
    _serve(channel)


if __name__ == "__main__":
    _main()
