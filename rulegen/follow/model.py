"""A packet, and the way that it takes through rules. Only values."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.netfilter.machine import Fate


class Sent(NamedTuple):
    """The first packet of a connection, of a client that nobody remembers. Addresses are canonical.

    `port`: 0 without ports. `protocol`: TCP, UDP, SCTP or ICMP. `interface`: by which it comes in, "" for nobody knows.
    `is_sent`: by the node itself, which has `node_addresses`, and loopback, and no others.
    """

    family: Family
    source: str
    destination: str
    port: int
    protocol: str
    interface: str
    node_addresses: tuple[str, ...]
    is_sent: bool


class Place(NamedTuple):
    """A chain. `table`: as the evaluator calls it, `ip rulegen` or `iptables nat`."""

    table: str
    chain: str


class Passage(NamedTuple):
    """A chain that the packet passes, and the rules that it matches there, as they are written."""

    place: Place
    rules: tuple[str, ...]


class Element(NamedTuple):
    """An element of a set or map that the packet has found."""

    table: str
    name: str
    key: bytes


class HookPassage(NamedTuple):
    """The chains from one that the kernel calls on, in the packet's order.

    `is_decisive`: the packet is translated, masqueraded, rejected or dropped here.
    """

    passages: tuple[Passage, ...]
    elements: tuple[Element, ...]
    is_decisive: bool


class Ending(NamedTuple):
    """What becomes of some of the connections.

    `share`: of how many. `endpoint`: `address:port` where DNAT sends it, "" without. `masqueraded`: by which chain,
    None for not. `refused`: in which chain, None for not. `why`: what is not understood of a rule, for Fate.UNKNOWN.
    """

    share: Fraction
    endpoint: str
    fate: Fate
    masqueraded: Place | None
    refused: Place | None
    why: str


class Followed(NamedTuple):
    """`hooks`: in the order of the packet."""

    hooks: tuple[HookPassage, ...]
    endings: tuple[Ending, ...]


Follow: TypeAlias = Callable[[Sent], Followed]
