"""Packets to bytes and back. Every packet carries its number where no NAT changes it, so that it is known anywhere.

The number is TCP's sequence number, the payload of UDP and of an ICMP echo, SCTP's initiate tag. Knows no kernel.
"""

from __future__ import annotations

import socket
import struct
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

NODE = "node"
IPPROTO_ICMPV6 = socket.IPPROTO_ICMPV6
PROTOCOLS = {
    "TCP": socket.IPPROTO_TCP,
    "UDP": socket.IPPROTO_UDP,
    "SCTP": socket.IPPROTO_SCTP,
    "ICMP": socket.IPPROTO_ICMP,
}
_IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct("!IHBB16s16s")
# ICMP type and code of "port unreachable" and of "communication administratively prohibited".
_UNREACHABLE = {socket.IPPROTO_ICMP: ((3, 3), (3, 13)), IPPROTO_ICMPV6: ((1, 4), (1, 1))}
_TTL = 64


class Packet(NamedTuple):
    """The first packet of a connection: TCP SYN, UDP datagram, SCTP INIT or ICMP echo request.

    `source`: an address; one of the node's own, or NODE for the one that the node would choose, makes the node send it.
    `interface`: where it arrives; None for the one that routes lead back through. `source_port` 0: the lab picks one.
    `port` means nothing for ICMP.
    """

    source: str
    destination: str
    port: int = 0
    protocol: str = "TCP"
    interface: str | None = None
    source_port: int = 0


class Fate(Enum):
    """What became of a packet."""

    DELIVERED = "delivered"
    REJECTED = "rejected"
    DROPPED = "dropped"
    PASSED = "passed"


class Outcome(NamedTuple):
    """What the kernel made of a Packet.

    DELIVERED: translated to `endpoint`, forwarded or handed to the node itself. PASSED: the same without translation.
    REJECTED: answered by ICMP port unreachable, or administratively prohibited. `endpoint`: `address:port` where it
    went, brackets for IPv6, "" for nowhere. `masqueraded`: its source was translated. `interface`: where it left the
    node, "" when it did not.
    """

    fate: Fate
    endpoint: str = ""
    masqueraded: bool = False
    interface: str = ""


class Passing(NamedTuple):
    """A Packet, wherever it is seen, by its number."""

    number: int


class Unreachable(NamedTuple):
    """The ICMP error of a rule that rejects, by the number of the Packet that it answers."""

    number: int


def is_ipv6(address: str) -> bool:
    """The family of an address, told from its text."""
    return ":" in address


def endpoint_text(address: str, port: int) -> str:
    """`address:port`, with brackets around an IPv6 address."""
    return f"[{address}]:{port}" if is_ipv6(address) else f"{address}:{port}"


def build(packet: Packet, number: int) -> bytes:
    """The bytes of `packet` from the IP header on; its source is an address and its source port is set."""
    source, destination = ip_address(packet.source).packed, ip_address(packet.destination).packed
    version_6 = len(source) == 16
    protocol = PROTOCOLS[packet.protocol]
    if protocol == socket.IPPROTO_ICMP and version_6:
        protocol = IPPROTO_ICMPV6
    pseudo_header = source + destination
    segment = _segment(protocol, packet.source_port, packet.port, number, pseudo_header)
    if version_6:
        return _IPV6_HEADER.pack(0x60000000, len(segment), protocol, _TTL, source, destination) + segment
    header = _IPV4_HEADER.pack(0x45, 0, 20 + len(segment), 0, 0x4000, _TTL, protocol, 0, source, destination)
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + segment


def _segment(protocol: int, source_port: int, port: int, number: int, pseudo_header: bytes) -> bytes:
    if protocol == socket.IPPROTO_SCTP:
        return _sctp_init(source_port, port, number)
    if protocol == socket.IPPROTO_ICMP:
        return _with_checksum(struct.pack("!BBHHHI", 8, 0, 0, source_port, 1, number), 2, b"")
    if protocol == IPPROTO_ICMPV6:
        segment, offset = struct.pack("!BBHHHI", 128, 0, 0, source_port, 1, number), 2
    elif protocol == socket.IPPROTO_UDP:
        segment, offset = struct.pack("!HHHHI", source_port, port, 12, 0, number), 6
    else:
        syn = 0x5002
        segment, offset = struct.pack("!HHIIHHHH", source_port, port, number, 0, syn, 65535, 0, 0), 16
    # In both families' pseudo-headers length and protocol add up to the same checksum in this form.
    return _with_checksum(segment, offset, pseudo_header + struct.pack("!HH", len(segment), protocol))


def _sctp_init(source_port: int, port: int, number: int) -> bytes:
    tag = number + 1  # 0 is not a valid initiate tag
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, tag, 65535, 1, 1, tag)
    common = struct.pack("!HHI", source_port, port, 0)
    checksum = struct.pack("<I", _crc32c(common + bytes(4) + chunk))
    return common + checksum + chunk


def _with_checksum(segment: bytes, offset: int, pseudo_header: bytes) -> bytes:
    checksum = struct.pack("!H", _checksum(pseudo_header + segment))
    return segment[:offset] + checksum + segment[offset + 2 :]


def _checksum(data: bytes) -> int:
    """The Internet checksum of data with an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
        table.append(remainder)
    return tuple(table)


_CRC32C_TABLE = _crc32c_table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def parse(data: bytes) -> Passing | Unreachable | None:
    """What a packet seen somewhere is; None for what is neither a Packet nor the rules' answer to one."""
    if len(data) < 20 or data[0] >> 4 not in (4, 6):
        return None
    if data[0] >> 4 == 6:
        return parse_segment(data[6], data[40:])
    return parse_segment(data[9], data[(data[0] & 0xF) * 4 :])


def parse_segment(protocol: int, segment: bytes) -> Passing | Unreachable | None:
    """The same for a packet without its IP header."""
    if protocol in _UNREACHABLE and tuple(segment[:2]) in _UNREACHABLE[protocol]:
        quoted = parse(segment[8:])
        return Unreachable(quoted.number) if isinstance(quoted, Passing) else None
    number = _number(protocol, segment)
    return None if number is None else Passing(number)


def _number(protocol: int, segment: bytes) -> int | None:
    """The Packet's number; a reply (SYN-ACK, RST, echo reply) has none."""
    if protocol == socket.IPPROTO_TCP and len(segment) >= 20 and segment[13] == 0x02:
        return _unpack_number(segment, 4)
    if protocol == socket.IPPROTO_UDP and len(segment) == 12:
        return _unpack_number(segment, 8)
    if protocol == socket.IPPROTO_SCTP and len(segment) >= 32 and segment[12] == 1:
        return _unpack_number(segment, 16) - 1
    if protocol in _UNREACHABLE and len(segment) == 12 and segment[0] in (8, 128):
        return _unpack_number(segment, 8)
    return None


def _unpack_number(segment: bytes, offset: int) -> int:
    return int.from_bytes(segment[offset : offset + 4], "big")
