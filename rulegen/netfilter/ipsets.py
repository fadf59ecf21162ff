"""Sets of ipset: what `ipset save` says of them comes in, the match of iptables that looks into one goes out. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TypeAlias

from msgspec import Struct

from rulegen.errors import InputError, shown
from rulegen.netfilter.expressions import BREAK
from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.model import Result
from rulegen.netfilter.regions import DPORT, DST, PROTO, SPORT, SRC
from rulegen.netfilter.state import State, split_by_all

_ADDRESSES = frozenset({"hash:ip", "hash:net"})
_PLACES = "hash:ip,port"
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_VARIABLES = {"src": (SRC, SPORT), "dst": (DST, DPORT)}
_Tests: TypeAlias = tuple[tuple[int, Intervals], ...]


class IpSet(Struct):
    """A set, its elements as they are written."""

    name: str
    kind: str
    elements: list[str]


def parse_saved(lines: Iterable[str]) -> dict[str, IpSet]:
    """All sets by name; other lines are left out. Raises InputError for an element of a set that was not made."""
    found: dict[str, IpSet] = {}
    for line in lines:
        command, *words = line.split()[:3] or [""]
        if command not in {"create", "add"} or len(words) < 2:
            continue
        name, what = words
        if command == "create":
            found[name] = IpSet(name, what, [])
        elif name in found:
            found[name].elements.append(what)
        else:
            raise InputError(f"expected a set before its elements, got {shown(line)}")
    return found


def match_set(ipset: IpSet, words: str, negated: bool) -> MatchSet | None:
    """`-m set --match-set NAME WORDS`; None for what is not known. Raises ValueError for an element that is none."""
    ends = words.split(",")
    if any(end not in _VARIABLES for end in ends):
        return None
    if ipset.kind in _ADDRESSES and len(ends) == 1:
        address, _ = _VARIABLES[ends[0]]
        return MatchSet((((address, _addresses(ipset.elements)),),), negated)
    if ipset.kind == _PLACES and len(ends) == 2:
        return MatchSet(tuple(_places(ipset.elements, *ends)), negated)
    return None


def _addresses(texts: Iterable[str]) -> Intervals:
    networks = map(ip_network, texts)
    return Intervals.of((int(one.network_address), int(one.broadcast_address)) for one in networks)


def _places(elements: Sequence[str], first: str, second: str) -> Iterable[_Tests]:
    """For each protocol and port: packets of these, with one of the addresses."""
    (address, _), (_, port) = _VARIABLES[first], _VARIABLES[second]
    found: dict[tuple[int, int], list[str]] = defaultdict(list)
    for element in elements:
        text, _, place = element.partition(",")
        protocol, _, number = place.partition(":")
        found[_PROTOCOLS[protocol], int(number)].append(text)
    for (protocol_number, port_number), texts in sorted(found.items()):
        tests = ((PROTO, Intervals.one(protocol_number)), (port, Intervals.one(port_number)))
        yield (*tests, (address, _addresses(texts)))


@dataclass(frozen=True, slots=True)
class MatchSet:
    """What is in a set, or is not: what passes all tests of one of `elements`, each a variable and its numbers."""

    elements: tuple[_Tests, ...]
    is_negated: bool

    def __call__(self, state: State) -> Result:
        """Splits."""
        inside: list[State] = []
        others = [state]
        for tests in self.elements:
            left: list[State] = []
            for one in others:
                found, rest = split_by_all(one, [(one.fields[variable], numbers) for variable, numbers in tests])
                inside += found
                left += rest
            others = left
        if self.is_negated:
            inside, others = others, inside
        return [*((one, None) for one in inside), *((one, BREAK) for one in others)]

    def __str__(self) -> str:
        return ""
