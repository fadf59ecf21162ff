"""The plain values of a configuration come in, field by field typed values go out, and what is wrong with each.

Every field is read by its path (`conntrack.maxPerCore`). What is null or absent has its default, and so has an empty
text, as kube-proxy cannot tell them apart. What no one has read is known at the end, so that nothing is ignored
unnoticed. No field's meaning is known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar

import msgspec

from rulegen.config import Cidr, SocketAddress
from rulegen.errors import printable, shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.faults import Fault
from rulegen.kube.objects import DnsSubdomain
from rulegen.networks import family_of, parse_network

T = TypeVar("T")
E = TypeVar("E", bound=Enum)

INT32_MAX = 2**31 - 1

_INTERFACE_NAME = re.compile(r"[A-Za-z0-9._@=-]+")
_INTERFACE_NAME_LENGTH = 15
_SOCKET_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^]]*)\]|(?P<ipv4>[^]\[:]*)):(?P<port>[0-9]{1,5})")
_DURATION_PART = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<unit>ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
# Names of Services have to fit in front: two labels, and what is around them.
_LONGEST_ZONE = 100
_ZONE_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ABSOLUTE_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
_CONTROLLER_NAME = re.compile(r"[a-z0-9.-]+/[A-Za-z0-9/._~-]+")
_LONGEST_DURATION = 2**63 - 1
_ABSURD = 1e9


class Unexpected(ValueError):  # noqa: N818 - says what was expected, not that it is an error
    """A value that cannot be used; `str()` is what was expected, as in `a CIDR`."""


class Fields:
    """The fields of one configuration. `faults` grows as they are read, one for each that cannot be used."""

    def __init__(self, document: Mapping[Any, Any]) -> None:
        self._document = document
        self._read: set[str] = set()
        self._refused_whole: set[str] = set()
        self.faults: list[Fault] = []

    def flag(self, path: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._value(path)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        return self._refused(path, value, "bool", default)

    def integer(self, path: str, low: int, high: int, default: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._value(path)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            return self._refused(path, value, "int", default)
        return value if low <= value <= high else self._refused(path, value, f"{low} to {high}", default)

    def number(self, path: str) -> float:
        """Any number that makes sense somewhere; 0 by default."""
        value = self._value(path)
        if value is None:
            return 0.0
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _ABSURD:
            return self._refused(path, value, "a number", 0.0)
        return float(value)

    def text(self, path: str, parse: Callable[[str], T], default: T) -> T:
        """What `parse` makes of a text; it raises Unexpected."""
        value = self._value(path)
        return default if value in (None, "") else self._parsed(path, value, parse, default)

    def texts(self, path: str, parse: Callable[[str], T]) -> list[T]:
        """What `parse` makes of each text of an array; without those that are unusable. Empty by default."""
        values = self._value(path)
        if values is None:
            return []
        if not isinstance(values, list):
            return self._refused(path, values, "an array", [])
        parsed = (self._parsed(f"{path}[{index}]", value, parse, None) for index, value in enumerate(values))
        return [item for item in parsed if item is not None]

    def is_stated(self, path: str) -> bool:
        """Whether the field is there, even if it is empty."""
        return self._value(path) is not None

    def unread(self) -> Iterator[tuple[str, object]]:
        """The path and value of every field that was not read, by name. A stanza's fields are told one by one."""
        for name, value in self._document.items():
            # Told already: its value is no value of this field, whatever is in it.
            if name in self._refused_whole:
                continue
            fields = [(f"{_key(name)}.{_key(key)}", item) for key, item in _items(value)]
            yield from (field for field in fields or [(_key(name), value)] if field[0] not in self._read)

    def _value(self, path: str) -> Any:
        self._read.add(path)
        stanza_name, dot, name = path.rpartition(".")
        if not dot:
            return self._document.get(name)
        stanza = self._document.get(stanza_name)
        if stanza is None or isinstance(stanza, Mapping):
            self._read |= set() if stanza else {stanza_name}
            return stanza.get(name) if stanza else None
        return self._refused_stanza(stanza_name, stanza)

    def _refused_stanza(self, name: str, value: object) -> None:
        if name not in self._read:
            self._read.add(name)
            self._refused(name, value, "an object", None)

    def _parsed(self, path: str, value: object, parse: Callable[[str], T], default: T) -> T:
        if not isinstance(value, str):
            return self._refused(path, value, "str", default)
        try:
            return parse(value)
        except Unexpected as error:
            return self._refused(path, value, str(error), default)

    def _refused(self, path: str, value: object, expected: str, default: T) -> T:
        self._refused_whole.add(path)
        self.faults.append(Fault(path, f"expected {expected}, got {shown(value)}"))
        return default


def _items(value: object) -> list[tuple[object, object]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _key(key: object) -> str:
    return printable(key) if isinstance(key, str) else shown(key)


def one_of(kind: type[E]) -> Callable[[str], E]:
    """A parser of the values of an enumeration."""

    def parse(text: str) -> E:
        try:
            return kind(text)
        except ValueError as error:
            raise Unexpected(" or ".join(member.value for member in kind)) from error

    return parse


def duration(text: str) -> float:
    """Seconds, from Go's notation ("1h5m", "1.5s", "0"), never negative."""
    parts = list(_DURATION_PART.finditer(text))
    nanoseconds = sum(int(Decimal(part["number"]) * _NANOSECONDS[part["unit"]]) for part in parts)
    is_whole = "".join(part[0] for part in parts) == text.removeprefix("+")
    if (text != "0" and not (parts and is_whole)) or nanoseconds > _LONGEST_DURATION:
        raise Unexpected('a duration such as "30s" or "1h5m", not negative')
    return nanoseconds / 10**9


def address(text: str) -> str:
    """A canonical IP address."""
    canonical = canonical_address(text)
    if canonical is None:
        raise Unexpected("an IP address")
    return canonical


def socket_address(text: str, default_port: int) -> SocketAddress:
    """An address with or without a port, an IPv6 address with a port in brackets."""
    if bare := canonical_address(text):
        return SocketAddress(bare, default_port)
    parts = _SOCKET_ADDRESS.fullmatch(text)
    canonical = canonical_address(parts["ipv6"] or parts["ipv4"] or "") if parts else None
    if parts is None or canonical is None or not 1 <= int(parts["port"]) <= 65535:
        raise Unexpected("IP:PORT, or [IPv6]:PORT, the port from 1 to 65535")
    return SocketAddress(canonical, int(parts["port"]))


def cidr(text: str) -> Cidr:
    """A canonical CIDR; leading zeros are decimal (SVC-12)."""
    network = parse_network(text)
    if network is None:
        raise Unexpected("a CIDR")
    return str(network)


def one_cidr_per_family(text: str) -> tuple[Cidr, ...]:
    """One CIDR, or one of each family with a comma between (SVC-49)."""
    try:
        cidrs = tuple(cidr(part) for part in text.split(","))
    except Unexpected:
        cidrs = ()
    if not cidrs or len({family_of(item) for item in cidrs}) < len(cidrs):
        raise Unexpected("one CIDR, or an IPv4 and an IPv6 one with a comma between")
    return cidrs


def interface_name(text: str) -> str:
    """A network interface's name, in characters that mean nothing to a packet filter."""
    return _interface_name(text, _INTERFACE_NAME_LENGTH)


def interface_prefix(text: str) -> str:
    """What interfaces' names start with. Both targets need the last of the name's characters for the wildcard."""
    return _interface_name(text, _INTERFACE_NAME_LENGTH - 1)


def _interface_name(text: str, length: int) -> str:
    if not _INTERFACE_NAME.fullmatch(text) or len(text) > length or text in (".", ".."):
        raise Unexpected(f"at most {length} letters, digits or . _ - @ = of an interface's name")
    return text


def zone_name(text: str) -> str:
    """An absolute name of a zone, in lower case, short enough to have names of Services in it."""
    name = text.removesuffix(".").lower()
    labels = name.split(".")
    if len(name) > _LONGEST_ZONE or not all(_ZONE_LABEL.fullmatch(label) for label in labels):
        raise Unexpected(f"a DNS name of at most {_LONGEST_ZONE} characters")
    return f"{name}."


def reverse_zone(text: str) -> str:
    """The absolute name of a zone for addresses, from that name or from a CIDR that ends where a label does."""
    network = parse_network(text) if "/" in text else None
    if network is not None:
        bits = 8 if network.version == 4 else 4
        labels = str(network.network_address.reverse_pointer).split(".")
        count, rest = divmod(network.prefixlen, bits)
        if not rest:
            return ".".join(labels[len(labels) - 2 - count :]) + "."
    elif (name := text.removesuffix(".").lower()).endswith(("in-addr.arpa", "ip6.arpa")):
        return zone_name(name)
    raise Unexpected("a zone below in-addr.arpa or ip6.arpa, or a CIDR that ends at a label of one (/8, /16, /64)")


def node_name(text: str) -> str:
    """A Node's name, trimmed and in lower case (SVC-95)."""
    name = text.strip().lower()
    try:
        return msgspec.convert(name, DnsSubdomain)
    except msgspec.ValidationError as error:
        raise Unexpected("a node's name (a DNS subdomain name)") from error


def absolute_path(text: str) -> str:
    """A path from the root, in characters that mean nothing to whoever reads it."""
    if not _ABSOLUTE_PATH.fullmatch(text):
        raise Unexpected("an absolute path of letters, digits and . _ - /")
    return text


def published_address(text: str) -> str:
    """An address, canonical, or a host's name, by which clients reach something."""
    found = canonical_address(text)
    if found is not None:
        return found
    try:
        return msgspec.convert(text.lower(), DnsSubdomain)
    except msgspec.ValidationError as error:
        raise Unexpected("an IP address or a host's name") from error


def controller_name(text: str) -> str:
    """What an IngressClass has for a controller: a domain and a path."""
    if not _CONTROLLER_NAME.fullmatch(text):
        raise Unexpected("a controller's name such as example.org/ingress")
    return text
