"""Netlink messages of netfilter's subsystems, as bytes: attributes in and out, a message with its headers.

What nf_tables and conntrack have in common; what a message means is theirs. Constants are those of linux/netlink.h and
linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

NETLINK_NETFILTER = 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP = 0x001, 0x004, 0x300
DUMP_INTERRUPTED = 0x10
NESTED = 0x8000

# nfgenmsg, at the beginning of each body: one byte for the family, one for the version, two for the subsystem.
FAMILY_HEADER = 4
NF_TABLES = 10

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_BATCH_GENERATION = 1
_COMMENT = 0


class Message(NamedTuple):
    """One message of a datagram: its type (NLMSG_*), flags, sequence number, and what follows the header."""

    kind: int
    flags: int
    sequence: int
    body: bytes

    def error(self) -> int:
        """The errno of a message NLMSG_ERROR or NLMSG_DONE; 0 for success."""
        return -int.from_bytes(self.body[:4], sys.byteorder, signed=True)


def open_socket() -> socket.socket:
    """To netfilter, in the network namespace of the calling thread. Raises OSError, as on another system than Linux."""
    if sys.platform != "linux":
        raise OSError(errno.EAFNOSUPPORT, "only Linux has it")
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = len(payload) + 4
    return ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def text_attribute(kind: int, text: str) -> bytes:
    """One attribute that holds a string."""
    return attribute(kind, text.encode("utf-8", "surrogateescape") + b"\0")


def text_of(data: bytes) -> str:
    """The string that an attribute's payload holds; what is not UTF-8 becomes what `text_attribute` makes it from."""
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def number_of(parts: Mapping[int, bytes], kind: int) -> int:
    """The number that the attribute `kind` among `parts` holds; 0 without it."""
    return int.from_bytes(parts.get(kind, b""), "big")


def comment_data(comment: str) -> bytes:
    """User data as nft and iptables write it, with a comment of at most 128 bytes: type, length, text."""
    text = comment.encode() + b"\0"
    return bytes((_COMMENT, len(text))) + text


def comment_in(data: bytes) -> str:
    """The comment in user data; "" without one."""
    while len(data) > 2:
        kind, length = data[:2]
        if kind == _COMMENT:
            return text_of(data[2 : 2 + length])
        data = data[2 + length :]
    return ""


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


def messages(datagram: bytes) -> Iterator[Message]:
    """What was received at once, taken apart."""
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        yield Message(kind, flags, sequence, datagram[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3


def batch_begin(generation: int | None = None) -> bytearray:
    """The message before those of a transaction of nf_tables.

    `generation`: the kernel takes it only if nobody has committed anything since then; else the error is ERESTART.
    """
    return _batch_mark(
        _BATCH_BEGIN, b"" if generation is None else attribute(_BATCH_GENERATION, struct.pack("!I", generation))
    )


def batch_end() -> bytearray:
    """The message after those of a transaction."""
    return _batch_mark(_BATCH_END, b"")


def numbered(batch: Iterable[bytearray], first: int) -> bytes:
    """The messages as one datagram, with sequence numbers from `first` on."""
    joined = bytearray()
    for sequence, part in enumerate(batch, first):
        struct.pack_into("=I", part, 8, sequence)
        joined += part
    return bytes(joined)


def _batch_mark(kind: int, payload: bytes) -> bytearray:
    mark = message(kind, REQUEST, 0, payload)
    struct.pack_into("!H", mark, HEADER.size + 2, NF_TABLES)  # nfgenmsg.res_id
    return mark
