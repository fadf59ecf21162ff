"""Netlink messages of netfilter's subsystems, as bytes: attributes in and out, a message with its headers.

What nf_tables and conntrack have in common; what a message means is theirs. Opens nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP = 0x001, 0x004, 0x300
DUMP_INTERRUPTED = 0x10
NESTED = 0x8000

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = len(payload) + 4
    return ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def text_attribute(kind: int, text: str) -> bytes:
    """One attribute that holds a string."""
    return attribute(kind, text.encode() + b"\0")


def text_of(data: bytes) -> str:
    """The string that an attribute's payload holds."""
    return data.rstrip(b"\0").decode("utf-8", "replace")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kinds and payloads of attributes that follow each other."""
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def message(kind: int, flags: int, family: int, payload: bytes) -> bytearray:
    """A message without its sequence number, which whoever sends it fills in."""
    body = struct.pack("!BBH", family, 0, 0) + payload
    return bytearray(HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body)
