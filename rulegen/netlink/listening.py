"""A socket that hears what netfilter tells groups of listeners: datagrams come in, and go out as they are.

Where the kernel has more to tell than the socket holds, that is told in its place. Sends nothing and reads no message.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterator

from rulegen.netlink.messages import open_socket

# Of linux/netlink.h, and SO_RCVBUFFORCE of asm-generic/socket.h.
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NETLINK_DROP_MEMBERSHIP = 270, 1, 2
_SO_RCVBUFFORCE = 33
_DATAGRAM = 1 << 17


class Listening:
    """Hears the groups (NFNLGRP_*) in the network namespace of the thread that opens it. Raises OSError.

    `size`: as in `resize`.
    """

    def __init__(self, groups: Collection[int], size: int) -> None:
        self._socket = open_socket()
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, 0))
            for group in groups:
                self.join(group)
            self.resize(size)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def close(self) -> None:
        """What has not been read is lost."""
        self._socket.close()

    def join(self, group: int) -> None:
        """From now on its messages come. Raises OSError."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def leave(self, group: int) -> None:
        """No more of its messages come. Raises OSError."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_DROP_MEMBERSHIP, group)

    def resize(self, size: int) -> None:
        """Gives the kernel so many bytes of memory for what has not been read yet. Raises OSError."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:  # in a user namespace: as much as the host allows
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def read(self) -> Iterator[bytes | None]:
        """What has come since the last call; None stands for what was lost. Does not wait. Raises OSError."""
        while True:
            try:
                yield self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None
