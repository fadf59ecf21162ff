"""TCP segments of a connection to bytes: what a Packet, which is always the first of its connection, cannot say."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import TypeAlias

# Address and port.
End: TypeAlias = tuple[str, int]

SYN, PSH, ACK = 0x02, 0x08, 0x10
_WINDOW = 65535
_TTL = 64


def segment(source: End, destination: End, flags: int, sequence: int, acknowledged: int, payload: bytes = b"") -> bytes:
    """From the IP header on, with the checksums that connection tracking asks for."""
    here, there = ip_address(source[0]).packed, ip_address(destination[0]).packed
    payload += bytes(len(payload) % 2)
    length = 20 + len(payload)
    ports = struct.pack("!HH", source[1], destination[1])
    numbers = struct.pack("!IIBBHHH", sequence, acknowledged, 5 << 4, flags, _WINDOW, 0, 0)
    pseudo_header = here + there + struct.pack("!HH", length, socket.IPPROTO_TCP)
    checksum = struct.pack("!H", _checksum(pseudo_header + ports + numbers + payload))
    tcp = ports + numbers[:12] + checksum + numbers[14:] + payload
    if len(here) == 16:
        return struct.pack("!IHBB", 0x60000000, length, socket.IPPROTO_TCP, _TTL) + here + there + tcp
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, _TTL, socket.IPPROTO_TCP, 0) + here + there
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + tcp


def without_header(data: bytes) -> bytes:
    """What routers leave alone."""
    return data[40:] if data[0] >> 4 == 6 else data[(data[0] & 0xF) * 4 :]


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
