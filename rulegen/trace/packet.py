"""Which packets are followed, and what the headers of one say. Pure; nothing is known of rules.

Headers are as the kernel's trace messages have them: the first 40 bytes of the network header at most, and the first 20
of the transport header.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from typing import NamedTuple

from rulegen.config import Family
from rulegen.errors import InputError, shown
from rulegen.kube.addresses import canonical_address
from rulegen.live.known import FrontendKey
from rulegen.networks import family_of, with_port

NODE = "node"

# By their number; the IPv6 kind of ICMP has the same name.
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
WITH_PORTS = frozenset({"tcp", "udp", "sctp"})
_NFPROTO = {2: Family.IPV4, 10: Family.IPV6}
_LENGTHS = {Family.IPV4: 20, Family.IPV6: 40}
_END = re.compile(
    r"(?:\[(?P<v6>[^]]*)\]|(?P<bare>[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*)|(?P<v4>[^]\[:/]*))"
    r"(?::(?P<port>\d{1,6}))?(?:/(?P<protocol>\w+))?"
)


class Packet(NamedTuple):
    """Addresses as a person writes them; ports are 0 for a protocol without ports."""

    family: Family
    protocol: str
    source: str
    source_port: int
    destination: str
    port: int

    @property
    def sender(self) -> str:
        """`10.128.0.9:40000`."""
        return with_port(self.source, self.source_port)

    @property
    def receiver(self) -> str:
        """`10.96.0.10:80`."""
        return with_port(self.destination, self.port)

    @property
    def frontend(self) -> FrontendKey:
        """What it asks for."""
        return self.family, self.protocol, self.destination, self.port

    def __str__(self) -> str:
        """`10.128.0.9:40000 to 10.96.0.10:80/tcp`."""
        return f"{self.sender} to {self.receiver}/{self.protocol}"


class End(NamedTuple):
    """One end of what is followed: "", 0 and "" where anything will do."""

    address: str = ""
    port: int = 0
    protocol: str = ""


class Wanted(NamedTuple):
    """Which packets are followed. `only_own`: those that this node sends. `family`: None for both."""

    source: End = End()
    destination: End = End()
    only_own: bool = False
    family: Family | None = None

    @property
    def protocol(self) -> str:
        """Empty for any."""
        return self.destination.protocol or self.source.protocol


def parse_wanted(source: str, destination: str) -> Wanted:
    """From the options --from and --to, "" where they are not given. Raises InputError."""
    start = _source(source)
    end = _parse_end("--to", destination) if destination else End()
    if start.address and end.address and family_of(start.address) is not family_of(end.address):
        raise InputError(f"--from and --to: {start.address} and {end.address} are of different IP families")
    if start.protocol and end.protocol and start.protocol != end.protocol:
        raise InputError(f"--from and --to: {start.protocol} and {end.protocol} are different protocols")
    address = start.address or end.address
    return Wanted(start, end, source == NODE, family_of(address) if address else None)


def wanted_at(source: str, frontends: Iterable[FrontendKey]) -> list[Wanted]:
    """The same to any of these frontends, of the family that the source has. Raises InputError."""
    start = _source(source)
    found = [
        Wanted(start, End(address, port, protocol), source == NODE, family)
        for family, protocol, address, port in frontends
        if not start.address or family_of(start.address) is family
    ]
    if not found:
        raise InputError(f"--from and --to: {start.address} is of another IP family than all frontends of --to")
    return found


def _source(text: str) -> End:
    return _parse_end("--from", text) if text and text != NODE else End()


def is_address(text: str) -> bool:
    """Whether an end is an address, perhaps with a port and a protocol."""
    found = _END.fullmatch(text)
    return found is not None and canonical_address(found["v6"] or found["bare"] or found["v4"] or "") is not None


def _parse_end(option: str, text: str) -> End:
    """`10.96.0.10`, `10.96.0.10:80`, `[fd00::1]:53/udp`, `10.96.0.10/icmp`."""
    found = _END.fullmatch(text)
    address = canonical_address(found["v6"] or found["bare"] or found["v4"] or "") if found else None
    if found is None or address is None:
        also = f", or {NODE}" if option == "--from" else ""
        raise InputError(f"{option}: expected ADDRESS, ADDRESS:PORT or ADDRESS:PORT/PROTOCOL{also}, got {shown(text)}")
    port, protocol = int(found["port"] or 0), (found["protocol"] or "").lower()
    if protocol and protocol not in PROTOCOLS.values():
        raise InputError(f"{option}: expected the protocol tcp, udp, sctp or icmp, got {shown(found['protocol'])}")
    if found["port"] and not 0 < port < 1 << 16:
        raise InputError(f"{option}: expected a port from 1 to 65535, got {found['port']}")
    if port and protocol == "icmp":
        raise InputError(f"{option}: icmp has no ports, got {shown(text)}")
    return End(address, port, protocol)


def read_packet(number: int, network: bytes, transport: bytes) -> Packet | None:
    """`number`: NFPROTO_*. None for what is no IP, or is cut off."""
    family = _NFPROTO.get(number)
    if family is None or len(network) < _LENGTHS[family]:
        return None
    if family is Family.IPV4:
        protocol, source, destination = network[9], network[12:16], network[16:20]
    else:
        protocol, source, destination = network[6], network[8:24], network[24:40]
    name = PROTOCOLS.get(protocol, f"protocol {protocol}")
    has_ports = name in WITH_PORTS and len(transport) >= 4
    ports = (int.from_bytes(transport[:2], "big"), int.from_bytes(transport[2:4], "big")) if has_ports else (0, 0)
    kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    return Packet(family, name, socket.inet_ntop(kind, source), ports[0], socket.inet_ntop(kind, destination), ports[1])
