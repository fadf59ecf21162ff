"""Connections as they are and as they come and go: the kernel's table and its events come in, `Connection`s go out.

All protocols, the default zone. An event is told of an entry that comes (NEW) and of one that goes (DESTROY), as far as
the kernel makes such events: see `events_mode`. Changes nothing. Messages are those of
linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from rulegen.config import Family
from rulegen.conntrack.channel import DELETE, GET, NEW, Channel
from rulegen.errors import HostError
from rulegen.netlink.listening import Listening
from rulegen.netlink.messages import (
    DUMP,
    FAMILY_HEADER,
    NESTED,
    REQUEST,
    attribute,
    attributes,
    message,
    messages,
)
from rulegen.networks import with_port

_ORIGINAL, _REPLY, _STATUS, _ID, _ZONE, _STATUS_MASK = 1, 2, 3, 12, 18, 26
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_SEEN_REPLY, _DESTINATION_TRANSLATED = 1 << 1, 1 << 5

_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_NUMBERS = {name: number for number, name in _PROTOCOLS.items()}
# A family's number, and the attributes for its source and destination addresses.
_FAMILIES = {Family.IPV4: (socket.AF_INET, 1, 2), Family.IPV6: (socket.AF_INET6, 3, 4)}
_BY_NUMBER = {int(number): family for family, (number, _, _) in _FAMILIES.items()}

_GROUP_NEW, _GROUP_DESTROY = 1, 3
_BUFFER = 16 << 20
_EVENTS = Path("/proc/sys/net/netfilter/nf_conntrack_events")


class Connection(NamedTuple):
    """An entry; addresses are canonical. `number`: the kernel's for it.

    `source`, `destination`: of its first packet; `server_address`, `server_port`: who answers it.
    """

    number: bytes
    family: Family
    protocol: str
    source: str
    source_port: int
    destination: str
    port: int
    server_address: str
    server_port: int
    is_answered: bool

    @property
    def server(self) -> str:
        """`10.128.0.5:8080`."""
        return with_port(self.server_address, self.server_port)


class EventsMode(Enum):
    """The sysctl nf_conntrack_events: whether the kernel tells of connections."""

    # None.
    OFF = "0"
    # Of all.
    ON = "1"
    # Of those that came while somebody was listening.
    AUTO = "2"


def events_mode() -> EventsMode | None:
    """In the network namespace of the calling thread; None where the kernel does not say."""
    try:
        return EventsMode(_EVENTS.read_text().strip())
    except (OSError, ValueError):
        return None


class ConnectionReader:
    """Reads the table, in the network namespace of the thread that opens it. Raises HostError, ConntrackError."""

    def __init__(self) -> None:
        self._channel = Channel("listing connections")

    def close(self) -> None:
        self._channel.close()

    def translated(self, family: Family) -> Iterator[Connection]:
        """All of a family whose destination was translated; the kernel leaves out the others.

        One may be there twice, or be missing, where the table is rearranged meanwhile.
        """
        wanted = struct.pack("!I", _DESTINATION_TRANSLATED)
        payload = attribute(_STATUS, wanted) + attribute(_STATUS_MASK, wanted)
        self._channel.send([message(GET, REQUEST | DUMP, _FAMILIES[family][0], payload)])
        for _, body in self._channel.answers_to_listing():
            if body is not None and (found := _read(body)) is not None:
                yield found

    def find(self, family: Family, protocol: str, ends: tuple[str, int, str, int]) -> Connection | None:
        """The one whose first packet had these ends: source address and port, destination address and port."""
        if protocol not in _NUMBERS:
            return None
        number, source, destination = _FAMILIES[family]
        addresses = attribute(source, socket.inet_pton(number, ends[0]))
        addresses += attribute(destination, socket.inet_pton(number, ends[2]))
        ports = attribute(_PROTO_NUMBER, bytes([_NUMBERS[protocol]]))
        ports += attribute(_SOURCE_PORT, struct.pack("!H", ends[1])) + attribute(
            _DESTINATION_PORT, struct.pack("!H", ends[3])
        )
        asked = attribute(_TUPLE_IP | NESTED, addresses) + attribute(_TUPLE_PROTO | NESTED, ports)
        self._channel.send([message(GET, REQUEST, number, attribute(_ORIGINAL | NESTED, asked))])
        body = self._channel.answer(errno.ENOENT)
        return _read(body) if body is not None else None


class Event(NamedTuple):
    """`is_new`: it has come; else it has gone."""

    is_new: bool
    connection: Connection


class EventListener:
    """Listens from when it is opened, in the network namespace of the calling thread. Raises HostError."""

    def __init__(self) -> None:
        try:
            self._listening = Listening((_GROUP_NEW, _GROUP_DESTROY), _BUFFER)
        except PermissionError as error:
            raise HostError("listening for connections needs root, or the capability CAP_NET_ADMIN") from error
        except OSError as error:
            raise HostError(f"cannot listen for connections: {error.strerror}") from error

    def fileno(self) -> int:
        """For `select`."""
        return self._listening.fileno()

    def close(self) -> None:
        self._listening.close()

    def resize(self, size: int) -> None:
        """Gives the kernel so many bytes of memory for events that have not been read yet. Raises HostError."""
        try:
            self._listening.resize(size)
        except OSError as error:
            raise HostError(f"cannot listen for connections: {error.strerror}") from error

    def read(self) -> Iterator[Event | None]:
        """What has happened since the last call; None stands for events that were lost. Does not wait."""
        try:
            for data in self._listening.read():
                if data is None:
                    yield None
                else:
                    yield from _events(data)
        except OSError as error:
            raise HostError(f"cannot read events of connections: {error.strerror}") from error


def _events(data: bytes) -> Iterator[Event]:
    for one in messages(data):
        if one.kind in {NEW, DELETE} and _is_translated(one.body) and (found := _read(one.body)) is not None:
            yield Event(one.kind == NEW, found)


def _is_translated(body: bytes) -> bool:
    status = dict(attributes(body[FAMILY_HEADER:])).get(_STATUS, b"")
    return bool(int.from_bytes(status, "big") & _DESTINATION_TRANSLATED)


def _read(body: bytes) -> Connection | None:
    """None for what is in another zone, or has no ports."""
    parts = dict(attributes(body[FAMILY_HEADER:]))
    family = _BY_NUMBER.get(body[0])
    there, back = dict(attributes(parts[_ORIGINAL])), dict(attributes(parts[_REPLY]))
    ports, ports_back = dict(attributes(there[_TUPLE_PROTO])), dict(attributes(back[_TUPLE_PROTO]))
    protocol = _PROTOCOLS.get(ports[_PROTO_NUMBER][0])
    if family is None or protocol is None or _ZONE in parts or _TUPLE_ZONE in there or _TUPLE_ZONE in back:
        return None
    number, source, destination = _FAMILIES[family]
    addresses, answering = dict(attributes(there[_TUPLE_IP])), dict(attributes(back[_TUPLE_IP]))
    return Connection(
        parts.get(_ID, b""),
        family,
        protocol,
        socket.inet_ntop(number, addresses[source]),
        _port(ports, _SOURCE_PORT),
        socket.inet_ntop(number, addresses[destination]),
        _port(ports, _DESTINATION_PORT),
        socket.inet_ntop(number, answering[source]),
        _port(ports_back, _SOURCE_PORT),
        bool(int.from_bytes(parts.get(_STATUS, b""), "big") & _SEEN_REPLY),
    )


def _port(parts: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(parts.get(kind, b""), "big")
