"""Rules as the evaluator knows them, whoever wrote them: tables, chains, rules, sets. Only values.

`nft` and `iptables` read them from what the kernel and iptables-save say; `machine` has packets follow them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from rulegen.netfilter.state import State
    from rulegen.netfilter.tables import KeyTable


class Family(Enum):
    """An IP family; by the words that nft and the evaluator's users have for it."""

    IPV4 = "ip"
    IPV6 = "ip6"

    @property
    def bits(self) -> int:
        """Of an address."""
        return 32 if self is Family.IPV4 else 128


class Hook(Enum):
    """Where the kernel calls chains (linux/netfilter.h)."""

    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"


class Code(IntEnum):
    """What a rule or an element says to do, as nf_tables numbers it; JUMP and GOTO with a chain."""

    DROP = 0
    ACCEPT = 1
    QUEUE = 3
    CONTINUE = -1
    BREAK = -2
    JUMP = -3
    GOTO = -4
    RETURN = -5
    # Not the kernel's: a REJECT, and a rule that nobody knows the meaning of.
    REJECT = 100
    UNKNOWN = 101


class Verdict(NamedTuple):
    """`chain`: of JUMP and GOTO."""

    code: Code
    chain: str = ""

    def __str__(self) -> str:
        """As nft writes it."""
        return f"{self.code.name.lower()} {self.chain}".rstrip()


class UnknownMeaningError(Exception):
    """A rule does what the evaluator does not know; the text says what."""


# What an instruction does: None goes on with the rule; a verdict (BREAK: the rule does not match); or the packets that
# it splits into, each with one of these.
Result: TypeAlias = "Verdict | list[tuple[State, Verdict | None]] | None"


class Instruction(Protocol):
    """One expression, match or target."""

    def __call__(self, state: State, /) -> Result:
        """Changes `state`, or returns what it splits into. Raises UnknownMeaningError."""
        ...

    def __str__(self) -> str:
        """In nft's or iptables' words."""
        ...


@dataclass(slots=True)
class Rule:
    """`place`: its number in the chain, from 1. `destination`: the one address that it is for, where it is for one.

    `text`: as people write it.
    """

    chain: Chain
    place: int
    instructions: Sequence[Instruction]
    text: str
    destination: int | None = None

    def __str__(self) -> str:
        """Where it stands, and what it says."""
        return f"{self.chain}: {self.text}"


class BaseHook(NamedTuple):
    """`kind`: nft's type of the chain. `policy`: what becomes of a packet that no rule decides about."""

    kind: str
    hook: Hook
    priority: int
    policy: Code


@dataclass(slots=True)
class Chain:
    """`hook`: None where others lead here. `skips`: see `Chain.entered`.

    `read`: reads the rules when the first packet comes here, where that is not every chain; None: they are there.
    """

    table: str
    name: str
    hook: BaseHook | None = None
    rules: list[Rule] = field(default_factory=list)
    skips: Skips | None = None
    read: Callable[[Chain], list[Rule]] | None = None
    is_indexed: bool = False

    def __str__(self) -> str:
        """Table and chain."""
        return f"{self.table} {self.name}"

    def entered(self) -> list[Rule]:
        """The rules. Notes which are for one destination only, so that packets to another one pass them at once."""
        if not self.is_indexed:
            if self.read is not None:
                self.rules = self.read(self)
            self.skips = Skips.of(self.rules)
            self.is_indexed = True
        return self.rules


class Skips(NamedTuple):
    """The places of rules, from 0: by the one destination that they are for, and of those that are for any."""

    by_destination: Mapping[int, tuple[int, ...]]
    general: tuple[int, ...]

    @classmethod
    def of(cls, rules: Sequence[Rule]) -> Skips | None:
        """None where it does not pay."""
        places: dict[int, list[int]] = {}
        general = []
        for place, rule in enumerate(rules):
            if rule.destination is None:
                general.append(place)
            else:
                places.setdefault(rule.destination, []).append(place)
        if len(rules) < 8 or len(places) < 4:
            return None
        return cls({destination: tuple(found) for destination, found in places.items()}, tuple(general))


@dataclass(slots=True)
class Set:
    """A set or map; lengths in bytes. `is_dynamic`: rules write it; `timeout`: seconds, of what they write.

    `elements`: keys and their ends in the kernel's bytes, with the data: bytes, a verdict, or None. `find`: says of one
    key by which element it is there, where the elements are too many to be listed for one packet; else None.
    """

    name: str
    key_length: int
    data_length: int
    is_map: bool
    is_interval: bool
    is_dynamic: bool
    timeout: int | None = None
    elements: list[tuple[bytes, bytes, bytes | Verdict | None]] = field(default_factory=list)
    # By the lengths of the fields of a key, as rules look it up.
    tables: dict[tuple[int, ...], KeyTable[bytes | Verdict | None]] = field(default_factory=dict)
    # Of pairs of bytes, once they were asked for: those that each second one is paired with.
    partners: Mapping[int, tuple[int, ...]] | None = None
    find: Callable[[bytes], FoundElement | None] | None = None


class FoundElement(NamedTuple):
    """An element that has a key. `key`: as who was asked names the element, which may be a range."""

    key: bytes
    data: bytes | Verdict | None


class Met(NamedTuple):
    """A packet has found an element of a set that is asked for one key at a time."""

    found_in: Set
    key: bytes


@dataclass(slots=True)
class Table:
    """`name` as it is shown; chains and sets by name."""

    name: str
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, Set] = field(default_factory=dict)


class Ruleset(NamedTuple):
    """The tables of one IP family that are judged together; whatever else there is counts as absent."""

    family: Family
    tables: tuple[Table, ...]
