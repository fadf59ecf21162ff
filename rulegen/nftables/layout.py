"""The tables as data: which sets, maps and chains there are, and how an entry's bytes read as nft text.

An entry is `(container, key) -> Value`. Keys and values are the kernel's own bytes, so that what is compiled, what is
read back and what is sent need no conversion; text is made only for people and for `nft -f`. Declarations of the sets
are in `templates/nftables/program.nft.j2`; a test holds both together. No I/O.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address, ip_network, summarize_address_range
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.errors import InputError

TABLE = "rulegen"

# The scratch register (`meta priority`): bit 31 "set by rulegen", 19 bits service-port id, bit 11 Local list, 11 bits handle.
OURS = 0x80000000
ID_SHIFT = 12
LOCAL_LIST = 0x800
MAX_ID = (1 << 19) - 1
MAX_HANDLE = LOCAL_LIST - 1

# NFTNL_UDATA_COMMENT_MAXLEN, less the closing NUL.
MAX_COMMENT = 127

IP_KEYWORD: Mapping[Family, str] = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_ADDRESS_FAMILY = {Family.IPV4: AF_INET, Family.IPV6: AF_INET6}
PROTOCOL_NUMBERS: Mapping[str, int] = {"TCP": 6, "UDP": 17, "SCTP": 132}
_PROTOCOL_TEXT = {number: name.lower() for name, number in PROTOCOL_NUMBERS.items()}
_PROTOCOL_FROM_TEXT = {text: number for number, text in _PROTOCOL_TEXT.items()}


class Field(Enum):
    """One part of a key or value, as the `typeof` of its declaration says."""

    IPV4 = "ip daddr"
    IPV6 = "ip6 daddr"
    PROTOCOL = "meta l4proto"
    PORT = "th dport"
    CLASSID = "meta priority"
    NUMBER = "numgen"
    VERDICT = "verdict"

    @property
    def length(self) -> int:
        """Bytes in a concatenation, where every field is padded to a multiple of four."""
        return 16 if self is Field.IPV6 else 4


_HOST_ORDER = frozenset({Field.CLASSID, Field.NUMBER})
_LITTLE_ENDIAN = sys.byteorder == "little"


class Value(NamedTuple):
    """What an entry holds: a map's data (a verdict as text, `goto lb-3`; empty in a set) and the element's comment.

    For a chain, `data` is the digest of the text it is loaded from.
    """

    data: bytes = b""
    comment: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Container:
    """A set or map of one table, or (no fields) the table's chains. Compared by identity: there is one of each.

    `rank` orders output. In an interval set a key is the first and the last key of the range, one after the other.
    """

    family: Family
    rank: int
    name: str
    key: tuple[Field, ...] = ()
    data: tuple[Field, ...] = ()
    interval: bool = False

    @property
    def ip(self) -> str:
        """`ip` or `ip6`."""
        return IP_KEYWORD[self.family]

    @property
    def is_chains(self) -> bool:
        """True for the container of the table's chains."""
        return not self.key

    @property
    def is_verdict_map(self) -> bool:
        """True when the values are verdicts."""
        return self.data == (Field.VERDICT,)

    def sort_key(self, key: bytes) -> bytes:
        """Orders keys as their text reads, numbers in the host's byte order included."""
        if not any(field in _HOST_ORDER for field in self.key):
            return key
        parts = (key[offset : offset + 4] for offset in range(0, len(key), 4))  # such keys have only short fields
        return b"".join(
            part[::-1] if field in _HOST_ORDER and _LITTLE_ENDIAN else part
            for field, part in zip(self.key, parts, strict=True)
        )

    @property
    def key_length(self) -> int:
        """Bytes of one key in the kernel; a range has two."""
        return sum(field.length for field in self.key)

    @property
    def data_length(self) -> int:
        """Bytes of the data in the kernel; 0 for sets and verdict maps."""
        return 0 if self.is_verdict_map else sum(field.length for field in self.data)


EntryKey: TypeAlias = tuple[Container, bytes]


class Layout:
    """All containers of one family's table."""

    def __init__(self, family: Family) -> None:
        """Names the containers of `family`, in the order in which they are printed."""
        self.family = family
        self.containers: list[Container] = []
        address = Field.IPV4 if family is Family.IPV4 else Field.IPV6
        frontend = (address, Field.PROTOCOL, Field.PORT)
        nodeport = (Field.PROTOCOL, Field.PORT)
        register = (Field.CLASSID,)
        endpoint = (address, Field.PORT)
        self.internal = self._container("internal", frontend, register)
        self.external = self._container("external", frontend, register)
        self.external_local = self._container("external-local", frontend, register)
        self.nodeports = self._container("nodeports", nodeport, register)
        self.nodeports_local = self._container("nodeports-local", nodeport, register)
        self.lists = self._container("lists", register, (Field.VERDICT,))
        self.endpoints = self._container("endpoints", (Field.CLASSID, Field.PROTOCOL, Field.NUMBER), endpoint)
        self.sticky_lists = self._container("sticky-lists", register, (Field.VERDICT,))
        self.handles = self._container("handles", (Field.CLASSID, Field.NUMBER), register)
        self.sticky_endpoints = self._container("sticky-endpoints", (Field.CLASSID, Field.PROTOCOL), endpoint)
        self.sticky_local_endpoints = self._container("sticky-local-endpoints", (Field.CLASSID, Field.PROTOCOL), endpoint)
        self.hairpin = self._container("hairpin", (address, address))
        self.firewalled = self._container("firewalled", frontend)
        self.source_ranges = self._container("source-ranges", (*frontend, address), interval=True)
        self.no_endpoints = self._container("no-endpoints", frontend)
        self.no_local_endpoints = self._container("no-local-endpoints", frontend)
        self.no_endpoint_nodeports = self._container("no-endpoint-nodeports", nodeport)
        self.no_local_endpoint_nodeports = self._container("no-local-endpoint-nodeports", nodeport)
        self.cluster_ips = self._container("cluster-ips", (address,))
        self.service_cidrs = self._container("service-cidrs", (address,), interval=True)
        self.nodeport_addresses = self._container("nodeport-addresses", (address,), interval=True)
        self.chains = self._container("chains", ())
        # Not entries: what `live` and `transaction` remember of the chains as they were loaded, and what the kernel
        # itself remembers of clients.
        client = (Field.IPV4,) if family is Family.IPV4 else (Field.NUMBER, Field.NUMBER)
        self.fingerprints = Container(family, len(self.containers), "fingerprints", (Field.NUMBER,))
        self.affinity = Container(family, len(self.containers) + 1, "affinity", (Field.CLASSID, *client), register)
        self.sets = [*(c for c in self.containers if not c.is_chains), self.fingerprints, self.affinity]
        self.by_name = {container.name: container for container in self.sets}

    def _container(
        self, name: str, key: tuple[Field, ...], data: tuple[Field, ...] = (), *, interval: bool = False
    ) -> Container:
        container = Container(self.family, len(self.containers), name, key, data, interval)
        self.containers.append(container)
        return container


LAYOUTS: Mapping[Family, Layout] = {family: Layout(family) for family in Family}


# ---- values to bytes ----


@lru_cache(maxsize=1 << 16)
def address_bytes(family: Family, address: str) -> bytes:
    """A canonical address as the kernel holds it."""
    return inet_pton(_ADDRESS_FAMILY[family], address)


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


def safe_comment(text: str) -> str:
    """`text` as an nft comment: no character that could end the string, and short enough, told apart by a digest."""
    safe = re.sub(r"[^A-Za-z0-9._:/~ -]", "?", text)
    if len(safe) <= MAX_COMMENT and safe == text:
        return safe
    import hashlib

    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{safe[: MAX_COMMENT - 11]}~{digest}"


# ---- bytes to text, and back ----


def _field_text(field: Field, data: bytes) -> str:
    if field is Field.IPV4:
        return inet_ntop(AF_INET, data)
    if field is Field.IPV6:
        return inet_ntop(AF_INET6, data)
    if field is Field.PROTOCOL:
        return _PROTOCOL_TEXT.get(data[0], str(data[0]))
    if field is Field.PORT:
        return str(data[0] << 8 | data[1])
    number = unpack_register(data)
    return f"{number >> 16:x}:{number & 0xFFFF:x}" if field is Field.CLASSID else str(number)


def _field_bytes(field: Field, text: str) -> bytes:
    """The inverse of `_field_text`. Raises ValueError or OSError."""
    if field is Field.IPV4:
        return inet_pton(AF_INET, text)
    if field is Field.IPV6:
        return inet_pton(AF_INET6, text)
    if field is Field.PROTOCOL:
        return struct.pack("B3x", _PROTOCOL_FROM_TEXT.get(text) or int(text))
    if field is Field.PORT:
        return pack_port(int(text))
    if field is Field.CLASSID:
        major, minor = text.split(":")
        return pack_register(int(major, 16) << 16 | int(minor, 16))
    return pack_register(int(text))


def _range_text(first: bytes, last: bytes) -> str:
    start, end = ip_address(first), ip_address(last)
    networks = list(summarize_address_range(start, end))  # type: ignore[type-var]
    if len(networks) > 1:
        return f"{start}-{end}"
    return str(start) if start == end else str(networks[0])


def _range_bytes(text: str) -> tuple[bytes, bytes]:
    if "-" in text:
        first, last = text.split("-")
        return ip_address(first).packed, ip_address(last).packed
    return cidr_range(text)


def _fields_text(fields: tuple[Field, ...], data: bytes) -> str:
    parts = []
    offset = 0
    for field in fields:
        parts.append(_field_text(field, data[offset : offset + field.length]))
        offset += field.length
    return " . ".join(parts)


def key_text(container: Container, key: bytes) -> str:
    """A key as nft writes it: `10.96.0.10 . tcp . 80`; a chain's is its name."""
    if container.is_chains:
        return key.decode()
    if not container.interval:
        return _fields_text(container.key, key)
    length = container.key_length
    *exact, ranged = container.key
    first, last = key[length - ranged.length : length], key[2 * length - ranged.length :]
    prefix = _fields_text(tuple(exact), key[: length - ranged.length])
    return f"{prefix} . {_range_text(first, last)}" if exact else _range_text(first, last)


def data_text(container: Container, data: bytes) -> str:
    """A map's data as nft writes it; "" for a set."""
    return data.decode() if container.is_verdict_map or container.is_chains else _fields_text(container.data, data)


def element_text(container: Container, key: bytes, value: Value) -> str:
    """An element as it stands between the braces of `elements = { }`."""
    comment = f' comment "{value.comment}"' if value.comment else ""
    data = f" : {data_text(container, value.data)}" if container.data else ""
    return f"{key_text(container, key)}{comment}{data}"


_ELEMENT = re.compile(r'(?P<key>[^"]+?)(?: comment "(?P<comment>[^"]*)")?(?: : (?P<data>[^"]+))?')


def parse_element(container: Container, text: str) -> tuple[bytes, Value]:
    """The inverse of `element_text`. Raises InputError."""
    try:
        match = _ELEMENT.fullmatch(text)
        if match is None or bool(match["data"]) != bool(container.data):
            raise ValueError(text)
        key = _parse_key(container, match["key"].split(" . "))
        if container.is_verdict_map:
            data = match["data"].encode()
        else:
            data = _parse_fields(container.data, match["data"].split(" . ") if container.data else [])
    except (ValueError, OSError, struct.error) as error:
        raise InputError(f"expected an element of {container.ip} {container.name}, got {text!r}") from error
    return key, Value(data, match["comment"] or "")


def _parse_fields(fields: tuple[Field, ...], parts: list[str]) -> bytes:
    return b"".join(_field_bytes(field, part) for field, part in zip(fields, parts, strict=True))


def _parse_key(container: Container, parts: list[str]) -> bytes:
    if not container.interval:
        return _parse_fields(container.key, parts)
    exact = _parse_fields(container.key[:-1], parts[:-1])
    first, last = _range_bytes(parts[-1])
    return exact + first + exact + last
