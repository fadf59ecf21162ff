"""Elements of sets and maps as data, and how an entry's bytes read as nft text.

An entry is `(set, key) -> Value`. Keys and values are the kernel's own bytes, so that what is compiled, what is
read back and what is sent need no conversion; text is made only for people and for `nft -f`. Which sets there are is
said by the features' tables (`tables.TableSpec`). No I/O.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache, partial
from ipaddress import ip_address, ip_network, summarize_address_range
from itertools import accumulate
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from rulegen.config import Family
from rulegen.errors import InputError

# NFTNL_UDATA_COMMENT_MAXLEN, less the closing NUL.
MAX_COMMENT = 127

IP_KEYWORD: Mapping[Family, str] = {Family.IPV4: "ip", Family.IPV6: "ip6"}
ADDRESS_FAMILIES = {Family.IPV4: AF_INET, Family.IPV6: AF_INET6}
PROTOCOL_NUMBERS: Mapping[str, int] = {"TCP": 6, "UDP": 17, "SCTP": 132}
# What `meta protocol` is of all packets of a table.
ETHERTYPES: Mapping[Family, bytes] = {Family.IPV4: b"\x08\x00", Family.IPV6: b"\x86\xdd"}
_ETHERTYPE_TEXT = {number: IP_KEYWORD[family] for family, number in ETHERTYPES.items()}
_PROTOCOL_TEXT = {number: name.lower() for name, number in PROTOCOL_NUMBERS.items()}
_PROTOCOL_FROM_TEXT = {text: number for number, text in _PROTOCOL_TEXT.items()}


class Field(Enum):
    """One part of a key or value, as the `typeof` of its declaration says."""

    IPV4 = "ip daddr"
    IPV6 = "ip6 daddr"
    ETHERTYPE = "meta protocol"
    PROTOCOL = "meta l4proto"
    PORT = "th dport"
    CLASSID = "meta priority"
    NUMBER = "numgen"
    VERDICT = "verdict"
    BYTE = "@nh,120,8"

    @property
    def length(self) -> int:
        """Bytes in a concatenation, where a field is padded to a multiple of four; a type stands alone."""
        return {Field.IPV6: 16, Field.ETHERTYPE: 2}.get(self, 4)


_HOST_ORDER = frozenset({Field.CLASSID, Field.NUMBER})


class Value(Struct, frozen=True, gc=False):
    """What an entry holds: a map's data (a verdict as text, `goto lb-3`; empty in a set) and the element's comment.

    For a chain, `data` is the digest of the text it is loaded from.
    """

    data: bytes = b""
    comment: str = ""


FieldText: TypeAlias = Callable[[bytes], str]


@lru_cache(maxsize=256)
def _protocol_text(data: bytes) -> str:
    return _PROTOCOL_TEXT.get(data[0], str(data[0]))


def _ethertype_text(data: bytes) -> str:
    return _ETHERTYPE_TEXT.get(data, f"0x{data.hex()}")


@lru_cache(maxsize=1 << 16)
def _port_text(data: bytes) -> str:
    return str(data[0] << 8 | data[1])


@lru_cache(maxsize=256)
def _byte_text(data: bytes) -> str:
    return f"{data[0]:#x}"


# The slots of a list come one after the other.
@lru_cache(maxsize=1 << 8)
def _classid_text(data: bytes) -> str:
    number = unpack_register(data)
    return f"{number >> 16:x}:{number & 0xFFFF:x}"


@lru_cache(maxsize=1 << 13)
def _number_text(data: bytes) -> str:
    return str(unpack_register(data))


_TEXT_OF: Mapping[Field, FieldText] = {
    Field.IPV4: partial(inet_ntop, AF_INET),
    Field.IPV6: partial(inet_ntop, AF_INET6),
    Field.ETHERTYPE: _ethertype_text,
    Field.PROTOCOL: _protocol_text,
    Field.PORT: _port_text,
    Field.CLASSID: _classid_text,
    Field.NUMBER: _number_text,
    Field.BYTE: _byte_text,
}


def _parts(fields: tuple[Field, ...]) -> tuple[tuple[slice, FieldText], ...]:
    ends = accumulate(field.length for field in fields)
    return tuple((slice(end - field.length, end), _TEXT_OF[field]) for field, end in zip(fields, ends, strict=True))


def _sort_key(fields: tuple[Field, ...]) -> Callable[[bytes], Any] | None:
    """Numbers in the host's byte order occur only among fields of four bytes."""
    if not any(field in _HOST_ORDER for field in fields):
        return None
    return struct.Struct("=" + "".join("I" if field in _HOST_ORDER else "4s" for field in fields)).unpack


class OfTable(Protocol):
    """The table that a set is in, as far as elements need to know it."""

    family: Family
    name: str


class SetSpec:
    """A set or map of one table, or (no fields) the table's chains. Compared by identity: there is one of each.

    `rank` orders output. `key_length` and `data_length` are in bytes as the kernel has them, the latter 0 for sets and
    verdict maps. In an interval set an entry's key is the first and the last key of the range, one after the other.
    `is_large`: its entries are a part of their own (`plain_elements`), and those of rulegen's have no comment.
    `size`: of a map in which the kernel itself remembers something for a time, how much; else 0. `brief`: elements are
    there for a time after they were added, and are no entries. `fixed`: the
    keys of a set whose declaration says all that it ever holds, and that it has room for twice as many; else none.
    `key_parts` and `data_parts`: where each field stands, and what makes it text.
    """

    def __init__(
        self,
        table: OfTable,
        rank: int,
        name: str,
        fields: tuple[tuple[Field, ...], tuple[Field, ...]],
        *,
        interval: bool = False,
        size: int = 0,
    ) -> None:
        """`fields`: those of the key and those of the data."""
        self.spec = table
        self.table = table.name
        self.family = table.family
        self.rank = rank
        self.name = name
        self.key, self.data = fields
        self.interval = interval
        self.size = size
        self.brief = False
        self.is_large = False
        self.fixed: tuple[bytes, ...] = ()
        self.ip = IP_KEYWORD[table.family]
        # Chains, or what others have put into the table: an entry's key is a name.
        self.is_chains = not self.key
        self.is_verdict_map = self.data == (Field.VERDICT,)
        self.key_length = sum(field.length for field in self.key)
        self.data_length = 0 if self.is_verdict_map else sum(field.length for field in self.data)
        self.key_parts = _parts(self.key)
        self.data_parts = () if self.is_verdict_map else _parts(self.data)
        # In lists of entries; the services' tables, which were there first, go without a name.
        self.label = self.ip if self.table == "rulegen" else f"{self.ip} {self.table}"
        # Orders sets as they are printed.
        self.place = (self.ip, self.table, rank)
        # What orders keys as their text reads; None where the bytes do that themselves.
        self.sort_key = _sort_key(self.key)

    def __repr__(self) -> str:
        """As it is called in error messages of the tests."""
        return f"<{self.ip} {self.name}>"


EntryKey: TypeAlias = tuple[SetSpec, bytes]


# ---- values to bytes ----


def address_bytes(family: Family, address: str) -> bytes:
    """A canonical address as the kernel holds it."""
    return inet_pton(ADDRESS_FAMILIES[family], address)


PROTOCOL_BYTES: Mapping[str, bytes] = {name: struct.pack("B3x", number) for name, number in PROTOCOL_NUMBERS.items()}
pack_port = struct.Struct("!H2x").pack
pack_register = struct.Struct("=I").pack  # class ids, numgen's numbers and marks are in the host's byte order


def unpack_register(data: bytes) -> int:
    """The number in a field of the host's byte order."""
    return int.from_bytes(data[:4], sys.byteorder)


def cidr_range(cidr: str) -> tuple[bytes, bytes]:
    """The first and last address of a canonical CIDR."""
    network = ip_network(cidr)
    return network.network_address.packed, network.broadcast_address.packed


_SAFE_COMMENT = re.compile(r"[A-Za-z0-9._:/~ -]*+")


def safe_comment(text: str) -> str:
    """`text` as an nft comment: no character that could end the string, and short enough, told apart by a digest."""
    if len(text) <= MAX_COMMENT and _SAFE_COMMENT.fullmatch(text):
        return text
    import hashlib

    safe = re.sub(r"[^A-Za-z0-9._:/~ -]", "?", text)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{safe[: MAX_COMMENT - 11]}~{digest}"


# ---- bytes to text, and back ----


def _field_bytes(field: Field, text: str) -> bytes:
    """The inverse of `_TEXT_OF`. Raises ValueError or OSError."""
    if field is Field.IPV4:
        return inet_pton(AF_INET, text)
    if field is Field.IPV6:
        return inet_pton(AF_INET6, text)
    if field in {Field.PROTOCOL, Field.BYTE}:
        return struct.pack("B3x", _PROTOCOL_FROM_TEXT.get(text) or int(text, 0))
    if field is Field.PORT:
        return pack_port(int(text))
    if field is Field.CLASSID:
        major, minor = text.split(":")
        return pack_register(int(major, 16) << 16 | int(minor, 16))
    return pack_register(int(text))


def _range_text(first: bytes, last: bytes) -> str:
    start, end = ip_address(first), ip_address(last)
    networks = list(summarize_address_range(start, end))
    if len(networks) > 1:
        return f"{start}-{end}"
    return str(start) if start == end else str(networks[0])


def _port_range_text(first: bytes, last: bytes) -> str:
    return _port_text(first) if first == last else f"{_port_text(first)}-{_port_text(last)}"


def _range_bytes(field: Field, text: str) -> tuple[bytes, bytes]:
    if field is Field.PORT:
        low, _, high = text.partition("-")
        return pack_port(int(low)), pack_port(int(high or low))
    if "-" in text:
        first, last = text.split("-")
        return ip_address(first).packed, ip_address(last).packed
    return cidr_range(text)


def _text(parts: tuple[tuple[slice, FieldText], ...], data: bytes) -> str:
    return " . ".join([text(data[where]) for where, text in parts])


def key_text(set_spec: SetSpec, key: bytes) -> str:
    """A key as nft writes it: `10.96.0.10 . tcp . 80`; a chain's is its name."""
    if set_spec.is_chains:
        return key.decode()
    if not set_spec.interval:
        return _text(set_spec.key_parts, key)
    length = set_spec.key_length
    *exact, ranged = set_spec.key
    first, last = key[length - ranged.length : length], key[2 * length - ranged.length :]
    between = _port_range_text(first, last) if ranged is Field.PORT else _range_text(first, last)
    return f"{_text(set_spec.key_parts[:-1], key)} . {between}" if exact else between


def data_text(set_spec: SetSpec, data: bytes) -> str:
    """A map's data as nft writes it; "" for a set."""
    return data.decode() if set_spec.is_verdict_map or set_spec.is_chains else _text(set_spec.data_parts, data)


def element_text(set_spec: SetSpec, key: bytes, value: Value) -> str:
    """An element as it stands between the braces of `elements = { }`."""
    comment = f' comment "{value.comment}"' if value.comment else ""
    data = f" : {data_text(set_spec, value.data)}" if set_spec.data else ""
    return f"{key_text(set_spec, key)}{comment}{data}"


_VERDICT = re.compile(r"(?:goto|jump) [A-Za-z0-9._/-]+")
_ELEMENT = re.compile(r'(?P<key>[^"]+?)(?: comment "(?P<comment>[^"]*)")?(?: : (?P<data>[^"]+))?')


def parse_element(set_spec: SetSpec, text: str) -> tuple[bytes, Value]:
    """The inverse of `element_text`. Raises InputError."""
    try:
        match = _ELEMENT.fullmatch(text)
        if match is None or bool(match["data"]) != bool(set_spec.data):
            raise ValueError(text)
        key = _parse_key(set_spec, match["key"].split(" . "))
        if set_spec.is_verdict_map:
            data = _parse_verdict(match["data"])
        else:
            data = _parse_fields(set_spec.data, match["data"].split(" . ") if set_spec.data else [])
    except (ValueError, OSError, struct.error) as error:
        raise InputError(f"expected an element of {set_spec.ip} {set_spec.name}, got {text!r}") from error
    return key, Value(data, match["comment"] or "")


def _parse_fields(fields: tuple[Field, ...], parts: list[str]) -> bytes:
    return b"".join(_field_bytes(field, part) for field, part in zip(fields, parts, strict=True))


def _parse_key(set_spec: SetSpec, parts: list[str]) -> bytes:
    if not set_spec.interval:
        return _parse_fields(set_spec.key, parts)
    exact = _parse_fields(set_spec.key[:-1], parts[:-1])
    first, last = _range_bytes(set_spec.key[-1], parts[-1])
    if len(first) != set_spec.key[-1].length or first > last:
        raise ValueError(parts[-1])
    return exact + first + exact + last


def _parse_verdict(text: str) -> bytes:
    if _VERDICT.fullmatch(text) is None:
        raise ValueError(text)
    return text.encode()
