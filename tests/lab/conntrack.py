"""The kernel's reports of new connections (ctnetlink events), decoded; and a way to forget all connections.

An event is better evidence than a listing: it is sent when the first packet has passed all hooks, and a connection that
a closed port ends at once never shows in a listing.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from tests.patience import patience

_NETLINK_NETFILTER = 12
_GROUP_NEW = 1
_GROUP_RELATED_TO_NEW = 1 << (_GROUP_NEW - 1)
_SUBSYSTEM = 1
_MESSAGE_NEW, _MESSAGE_DELETE = _SUBSYSTEM << 8 | 0, _SUBSYSTEM << 8 | 2
_FLAGS_REQUEST_ACK = 0x1 | 0x4
_NETLINK_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE_HEADER = struct.Struct("=HH")
_ORIGINAL, _REPLY, _STATUS = 1, 2, 3
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUMBER, _SOURCE_PORT, _DESTINATION_PORT, _ICMP_ID, _ICMPV6_ID = 1, 2, 3, 4, 7
_STATUS_SOURCE_NAT, _STATUS_DESTINATION_NAT = 1 << 4, 1 << 5
_RECEIVE_BUFFER = 8 << 20
_SO_RCVBUFFORCE = 33


class Tuple(NamedTuple):
    """One direction of a connection; for ICMP both ports are the identifier."""

    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int


class Connection(NamedTuple):
    """A new connection: how its first packet came, and how an answer must look."""

    original: Tuple
    reply: Tuple
    source_translated: bool
    destination_translated: bool


class Conntrack:
    """Listens in the network namespace that it is made in."""

    def __init__(self) -> None:
        self.events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        self.events.bind((0, _GROUP_RELATED_TO_NEW))
        try:
            self.events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:
            # Inside a user namespace the system's limit holds; the lab reads often enough for it.
            self.events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._requests = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._requests.settimeout(patience(10))

    def close(self) -> None:
        self.events.close()
        self._requests.close()

    def new_connections(self) -> Iterator[Connection]:
        """Those reported since the last call. Raises OSError (ENOBUFS) when the kernel had to lose some."""
        while True:
            try:
                data = self.events.recv(1 << 16)
            except BlockingIOError:
                return
            yield from _decode(data)

    def forget_reports(self) -> None:
        """Drops what was reported, and that some was lost: connections of others may be more than the buffer holds."""
        while True:
            try:
                self.events.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def flush(self) -> None:
        """Forgets all connections of the namespace."""
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
        header = _NETLINK_HEADER.pack(_NETLINK_HEADER.size + len(body), _MESSAGE_DELETE, _FLAGS_REQUEST_ACK, 0, 0)
        self._requests.send(header + body)
        answer = self._requests.recv(1 << 16)
        code = -struct.unpack_from("=i", answer, _NETLINK_HEADER.size)[0]
        if code:
            raise OSError(code, f"conntrack flush: {os.strerror(code)} ({errno.errorcode[code]})")


def _decode(data: bytes) -> Iterator[Connection]:
    offset = 0
    while offset < len(data):
        length, kind, *_ = _NETLINK_HEADER.unpack_from(data, offset)
        if kind == _MESSAGE_NEW:
            yield _connection(data[offset + _NETLINK_HEADER.size + 4 : offset + length])
        offset += length + 3 & ~3


def _connection(data: bytes) -> Connection:
    attributes = _attributes(data)
    status = int.from_bytes(attributes[_STATUS], "big")
    return Connection(
        _tuple(attributes[_ORIGINAL]),
        _tuple(attributes[_REPLY]),
        bool(status & _STATUS_SOURCE_NAT),
        bool(status & _STATUS_DESTINATION_NAT),
    )


def _tuple(data: bytes) -> Tuple:
    parts = _attributes(data)
    source, destination = (value for _, value in sorted(_attributes(parts[_TUPLE_IP]).items()))
    proto = {kind: int.from_bytes(value, "big") for kind, value in _attributes(parts[_TUPLE_PROTO]).items()}
    identifier = proto.get(_ICMP_ID, proto.get(_ICMPV6_ID, 0))
    return Tuple(
        str(ip_address(source)),
        str(ip_address(destination)),
        proto[_PROTO_NUMBER],
        proto.get(_SOURCE_PORT, identifier),
        proto.get(_DESTINATION_PORT, identifier),
    )


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(data):
        length, kind = _ATTRIBUTE_HEADER.unpack_from(data, offset)
        found[kind & 0x3FFF] = data[offset + _ATTRIBUTE_HEADER.size : offset + length]
        offset += length + 3 & ~3
    return found
