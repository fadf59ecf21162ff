"""A process with libnftables in it, and little of rulegen's: `python -m rulegen.nftables.nft_worker`.

In: commands, over a socket that it was started with. Out: what libnftables says of each, and, first of all, a netlink
socket in the network namespace that they are carried out in: one of its own where it was asked for that, where nobody
else's tables are. `nft_process` is the other side.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys

from rulegen.workers.serving import serve, start

HERE, ALONE = "here", "alone"

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_NETLINK_NETFILTER = 12


def _enter_namespace() -> str:
    """Enters a network namespace of its own, with a user namespace around it where it must be; why not, or ""."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNET) and library.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return os.strerror(ctypes.get_errno())
    return ""


def _serve(channel: socket.socket) -> None:
    import nftables

    library = nftables.Nftables()

    def take(commands: str, only_check: bool) -> str | None:
        library.set_dry_run(only_check)
        message: str
        status, _, message = library.cmd(commands)
        return message if status else None

    serve(channel, take)


def _main() -> None:
    descriptor, parent, where = sys.argv[1:]
    channel = start(descriptor, parent)
    refusal = _enter_namespace() if where == ALONE else ""
    if refusal:
        channel.sendall(refusal.encode())
        return
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        socket.send_fds(channel, [b"\0"], [netlink.fileno()])
    _serve(channel)


if __name__ == "__main__":
    _main()
