"""The kernel's table of connections over netlink (ctnetlink): a filter comes in, UDP flows go out; flows are removed.

The kernel applies the filter (CTA_FILTER, CTA_STATUS_MASK), so that what is not asked for is never copied. Only the
default zone. Knows no Service and decides nothing.

pyroute2 speaks this protocol too, but takes 46 us to decode an entry and 500 us to remove one, where this takes 9 us
and 5 us, and a name server's clients are tens of thousands. Messages and attributes are those of
linux/netfilter/nfnetlink_conntrack.h; numbers in them are big-endian, except the flags of the filter.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from types import TracebackType
from typing import NamedTuple, Self

from rulegen.config import Family
from rulegen.conntrack.channel import DELETE, GET, Channel
from rulegen.conntrack.frontends import EVERYWHERE, Flow, FrontendKey
from rulegen.errors import RulegenError
from rulegen.netlink.messages import (
    ACK,
    DUMP,
    DUMP_INTERRUPTED,
    FAMILY_HEADER,
    NESTED,
    REQUEST,
    attribute,
    attributes,
    message,
)

_ORIGINAL, _REPLY, _STATUS, _ID, _ZONE, _FILTER, _STATUS_MASK = 1, 2, 3, 12, 18, 25, 26
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_FILTER_ORIGINAL = 1
_BY_DESTINATION, _BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 1, 1 << 3, 1 << 5
_SEEN_REPLY, _DESTINATION_TRANSLATED = 1 << 1, 1 << 5
_UDP = bytes([socket.IPPROTO_UDP])

_U16, _U32 = struct.Struct("!H"), struct.Struct("!I")

# Few enough that all answers fit into the smallest buffer of a socket.
REMOVED_AT_ONCE = 128


class _AddressFamily(NamedTuple):
    """A family's number, and its attributes for a source and a destination address."""

    number: int
    source: int
    destination: int


_FAMILIES = {
    Family.IPV4: _AddressFamily(socket.AF_INET, 1, 2),
    Family.IPV6: _AddressFamily(socket.AF_INET6, 3, 4),
}


class Filter(NamedTuple):
    """Which UDP flows the kernel lists: those sent to an address (canonical; "" for any) and a port (0 for any).

    `unreplied`: only those that nobody has answered yet.
    """

    family: Family
    destination: str = ""
    port: int = 0
    unreplied: bool = False


def narrowest_filter(frontend: FrontendKey) -> Filter:
    """The filter for flows to a Frontend: by address and port, for NodePorts and host ports by the port alone.

    IPv6 too is by the port alone, for the kernel has that comparison the wrong way round: it lists flows to all
    addresses but the one (`ctnetlink_filter_match_tuple`, from 5.8 to 6.18 at least).
    """
    family, address, port = frontend
    return Filter(family, address if family is Family.IPV4 and address != EVERYWHERE else "", port)


def unreplied_filter(family: Family, destination: str = "") -> Filter:
    """The filter for flows without an answer, to an address if the kernel can tell it (see `narrowest_filter`)."""
    return Filter(family, destination if family is Family.IPV4 else "", unreplied=True)


class TrackedFlow(NamedTuple):
    """A Flow with what identifies its entry: the tuple of the replies, and the kernel's number for it."""

    flow: Flow
    reply: bytes
    number: bytes

    @property
    def family(self) -> Family:
        """The flow's."""
        return self.flow.family


class TrackedConnection(NamedTuple):
    """A connection of any protocol, with what identifies its entry; addresses in network order.

    `protocol`: its number. `source`, `destination`: of its first packet. `server`, `port`: who answers it, and from
    where; 0 where the protocol has no ports.
    """

    family: Family
    protocol: int
    source: bytes
    destination: bytes
    server: bytes
    port: int
    reply: bytes
    number: bytes


class ConnectionTable:
    """The connections of the network namespace of the thread that opens it. A context manager.

    `listed`: how many entries the kernel has copied for it. `is_partial`: the table was rearranged while it was listed
    last, so that entries may be missing. Raises HostError where privileges or the kernel's support
    lack, ConntrackError for what else the kernel refuses.
    """

    def __init__(self) -> None:
        """Opens two sockets, since flows are removed while others are still being listed."""
        self.listed = 0
        self.is_partial = False
        with ExitStack() as opened:
            self._listing = opened.enter_context(closing(Channel("listing connections")))
            self._removing = opened.enter_context(closing(Channel("removing connections")))
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()

    def udp_flows(self, wanted: Filter) -> Iterator[TrackedFlow]:
        """The flows that a filter lets through; they may be removed meanwhile. `is_partial` holds after the last."""
        self.is_partial = False
        self._listing.send([message(GET, REQUEST | DUMP, _FAMILIES[wanted.family].number, _filter(wanted))])
        for flags, body in self._listing.answers_to_listing():
            self.is_partial = self.is_partial or bool(flags & DUMP_INTERRUPTED)
            if body is None:
                return
            self.listed += 1
            tracked = _parse(wanted.family, body)
            if tracked is not None:
                yield tracked

    def connections(self, family: Family, concerns: Callable[[bytes], object]) -> Iterator[TrackedConnection]:
        """All connections of a family whose entry, as the kernel sends it, `concerns` somebody; see `udp_flows`.

        What does not concern anybody is not taken apart, which would take most of the time.
        """
        self.is_partial = False
        self._listing.send([message(GET, REQUEST | DUMP, _FAMILIES[family].number, b"")])
        for flags, body in self._listing.answers_to_listing():
            self.is_partial = self.is_partial or bool(flags & DUMP_INTERRUPTED)
            if body is None:
                return
            self.listed += 1
            if concerns(body) and (found := _parse_connection(family, body)) is not None:
                yield found

    def remove(self, flows: Sequence[TrackedFlow | TrackedConnection]) -> int:
        """Removes the entries, `REMOVED_AT_ONCE` at most; returns how many were still there.

        An entry with the same client but another endpoint, which came since, is another one and stays (SVC-75).
        """
        self._removing.send([_removal(tracked) for tracked in flows])
        return sum(self._removing.acknowledgements(len(flows), errno.ENOENT))


def load_module() -> None:
    """Has the kernel load its module, where connection tracking is one and is not loaded: being asked for flows does.

    What fails here shows where the module is needed.
    """
    with contextlib.suppress(RulegenError), ConnectionTable() as table:
        for _ in table.udp_flows(Filter(Family.IPV4, "0.0.0.0")):  # noqa: S104 - nothing is bound
            pass


def _filter(wanted: Filter) -> bytes:
    """The attributes that say it."""
    family = _FAMILIES[wanted.family]
    flags = _BY_PROTOCOL
    address, proto = b"", attribute(_PROTO_NUMBER, _UDP)
    if wanted.destination:
        flags |= _BY_DESTINATION
        packed = attribute(family.destination, socket.inet_pton(family.number, wanted.destination))
        address = attribute(_TUPLE_IP | NESTED, packed)
    if wanted.port:
        flags |= _BY_DESTINATION_PORT
        proto += attribute(_DESTINATION_PORT, _U16.pack(wanted.port))
    original = attribute(_ORIGINAL | NESTED, address + attribute(_TUPLE_PROTO | NESTED, proto))
    # The one number in these messages that is in the order of the machine.
    wanted_parts = attribute(_FILTER | NESTED, attribute(_FILTER_ORIGINAL, struct.pack("=I", flags)))
    status = attribute(_STATUS, _U32.pack(0)) + attribute(_STATUS_MASK, _U32.pack(_SEEN_REPLY))
    return original + wanted_parts + (status if wanted.unreplied else b"")


def _removal(tracked: TrackedFlow | TrackedConnection) -> bytearray:
    # The kernel looks at one tuple only, the original one if there are both. The number stands for that, and for the
    # place in memory, where the next entry may be; the endpoint is in the tuple of the replies.
    identity = attribute(_REPLY | NESTED, tracked.reply) + attribute(_ID, tracked.number)
    return message(DELETE, REQUEST | ACK, _FAMILIES[tracked.family].number, identity)


def _parse(family: Family, body: bytes) -> TrackedFlow | None:
    """What an entry says; None for one that is not UDP, or not in the default zone."""
    parts = dict(attributes(body[FAMILY_HEADER:]))
    there, back = dict(attributes(parts[_ORIGINAL])), dict(attributes(parts[_REPLY]))
    ports, ports_back = dict(attributes(there[_TUPLE_PROTO])), dict(attributes(back[_TUPLE_PROTO]))
    if _ZONE in parts or _TUPLE_ZONE in there or _TUPLE_ZONE in back or ports[_PROTO_NUMBER] != _UDP:
        return None
    number, source, destination = _FAMILIES[family]
    addresses, status = dict(attributes(there[_TUPLE_IP])), _U32.unpack(parts[_STATUS])[0]
    answering = dict(attributes(back[_TUPLE_IP]))
    flow = Flow(
        family,
        socket.inet_ntop(number, addresses[destination]),
        _U16.unpack(ports[_DESTINATION_PORT])[0],
        socket.inet_ntop(number, answering[source]),
        _U16.unpack(ports_back[_SOURCE_PORT])[0],
        bool(status & _DESTINATION_TRANSLATED),
        socket.inet_ntop(number, addresses[source]),
        bool(status & _SEEN_REPLY),
        socket.inet_ntop(number, answering[destination]),
    )
    return TrackedFlow(flow, parts[_REPLY], parts[_ID])


def _parse_connection(family: Family, body: bytes) -> TrackedConnection | None:
    """What an entry says; None for one that is not in the default zone."""
    parts = dict(attributes(body[FAMILY_HEADER:]))
    there, back = dict(attributes(parts[_ORIGINAL])), dict(attributes(parts[_REPLY]))
    if _ZONE in parts or _TUPLE_ZONE in there or _TUPLE_ZONE in back:
        return None
    protocol = dict(attributes(back[_TUPLE_PROTO]))
    addresses, answering = dict(attributes(there[_TUPLE_IP])), dict(attributes(back[_TUPLE_IP]))
    _, source, destination = _FAMILIES[family]
    port = protocol.get(_SOURCE_PORT)
    return TrackedConnection(
        family,
        protocol[_PROTO_NUMBER][0],
        addresses[source],
        addresses[destination],
        answering[source],
        _U16.unpack(port)[0] if port else 0,
        parts[_REPLY],
        parts[_ID],
    )
