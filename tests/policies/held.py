"""Packets that are held on their way through a node's rules, by a queue of netfilter's, until a test lets them go."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

from rulegen.netlink.messages import attribute, attributes
from tests.patience import patience

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 3 << 8
_PACKET, _VERDICT, _CONFIG = 0, 1, 2
_COMMAND, _PARAMETERS = 1, 2
_BIND, _COPY_META = 1, 1
_PACKET_HEADER, _VERDICT_HEADER = 1, 2
_ACCEPT = 1
_HEADER = struct.Struct("=IHHII")
_REQUEST = 1
_WAIT_SECONDS = 5.0


class Queue:
    """The queue of a number, in the caller's network namespace. A context manager."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.settimeout(patience(_WAIT_SECONDS))
        self._send(_CONFIG, attribute(_COMMAND, struct.pack("!BxH", _BIND, 0)))
        self._send(_CONFIG, attribute(_PARAMETERS, struct.pack("!IB", 0, _COPY_META)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._socket.close()

    def wait(self) -> int:
        """Until a packet is held; its number."""
        while True:
            data = self._socket.recv(1 << 16)
            kind = struct.unpack_from("=H", data, 4)[0]
            if kind == _SUBSYSTEM | _PACKET:
                header = dict(attributes(data[_HEADER.size + 4 :]))[_PACKET_HEADER]
                return int(struct.unpack_from("!I", header)[0])

    def release(self, packet: int) -> None:
        """It goes on, to the rules that come next."""
        self._send(_VERDICT, attribute(_VERDICT_HEADER, struct.pack("!II", _ACCEPT, packet)))

    def _send(self, kind: int, payload: bytes) -> None:
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, self._number) + payload
        header = _HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM | kind, _REQUEST, 0, 0)
        self._socket.send(header + body)
