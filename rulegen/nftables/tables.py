"""What a feature says of its tables: which sets there are, the text of the chains, and who compiles the entries.

A feature has one table for each IP family. A table without its elements is text for nft, taken apart into chains, each
with a digest that names it. Chains and sets that come and go with the cluster are made from text one at a time. Only
values and protocols; never talks to the kernel, knows no feature.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

from rulegen.config import Family
from rulegen.nftables.elements import IP_KEYWORD, EntryKey, Field, SetSpec, Value
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.feature import Compiler

if TYPE_CHECKING:
    from rulegen.nftables.messages import Connection

Entries: TypeAlias = dict[EntryKey, Value]
# The same as whoever may not change them, or need not have them in one piece, has them.
AllEntries: TypeAlias = Mapping[EntryKey, Value]

_BASE_CHAIN_DECLARATION = re.compile(r"^type \w+ hook \w+ priority [^;]+; policy \w+;$")
_CHAIN = re.compile(r"^\tchain (?P<name>\S+) \{\n(?P<body>.*?)^\t\}\n", re.MULTILINE | re.DOTALL)
# Behind all sets with elements, whose ranks count from 0.
_LAST_RANKS = range(10_000, 10_004)


class Retimed(NamedTuple):
    """An element that the kernel remembers for a time, and the times in milliseconds; `left` None: it has ended."""

    set_spec: SetSpec
    key: bytes
    value: Value
    timeout: int
    left: int | None


class Drained(NamedTuple):
    """Elements that go only when no packet can be led to them any more.

    `is_handover`: packets that are on their way meanwhile would be led to somebody else, so they are waited for.
    """

    keys: frozenset[EntryKey] = frozenset()
    is_handover: bool = False


NOTHING_DRAINED = Drained()


class Brief(NamedTuple):
    """An element that a transaction adds, or adds anew, for a time in milliseconds; alone in its set."""

    set_spec: SetSpec
    key: bytes
    timeout: int


class TableSpec:
    """A feature's table in one family. Compared by identity: there is one of each.

    `set_specs`: the sets and maps whose elements are entries, in the order in which they are printed. `sets`: those and
    others that the text declares. Of the sets without fields a key is a name: `chains` (an entry's value is the digest
    of the text it is loaded from), `declared` (sets that are no part of the fixed text; the same), and `foreign` (what
    others have put into the table, as `set intruder`). `fingerprints` is no entry: what the kernel made of the texts.

    `compiles_often`: whether chains of it change with the cluster, so that nft is kept at hand.

    A table without sets stands for that of a feature that is off.
    """

    compiles_often = False
    # Of 32 bits each, by which a fingerprint is found; of thousands of chains, two may have one number.
    fingerprint_numbers = 2

    def __init__(self, family: Family, name: str) -> None:
        """A table without sets; `add_set` declares them."""
        self.family = family
        self.name = name
        self.ip = IP_KEYWORD[family]
        self.set_specs: list[SetSpec] = []
        chains, declared, fingerprints, foreign = _LAST_RANKS
        self.chains = SetSpec(self, chains, "chains", ((), ()))
        self.declared = SetSpec(self, declared, "sets", ((), ()))
        numbers = (Field.NUMBER,) * self.fingerprint_numbers
        self.fingerprints = SetSpec(self, fingerprints, "fingerprints", (numbers, ()))
        self.foreign = SetSpec(self, foreign, "foreign", ((), ()))
        self._others: list[SetSpec] = []

    def add_set(
        self,
        name: str,
        key: tuple[Field, ...],
        data: tuple[Field, ...] = (),
        *,
        interval: bool = False,
        size: int = 0,
        fixed: tuple[bytes, ...] = (),
    ) -> SetSpec:
        """Declares a set or map, as the text does. `size`: of one in which the kernel itself remembers something."""
        set_spec = SetSpec(self, len(self.set_specs), name, (key, data), interval=interval, size=size)
        set_spec.fixed = fixed
        (self._others if size else self.set_specs).append(set_spec)
        return set_spec

    def add_brief_set(self, name: str, key: Field) -> SetSpec:
        """Declares a set whose elements go by themselves after a time."""
        set_spec = SetSpec(self, len(self.set_specs), name, ((key,), ()))
        set_spec.brief = True
        self._others.append(set_spec)
        return set_spec

    @property
    def sets(self) -> list[SetSpec]:
        """All that the fixed text declares."""
        return [*self.set_specs, self.fingerprints, *self._others]

    @cached_property
    def by_name(self) -> Mapping[str, SetSpec]:
        """The same by name."""
        return {set_spec.name: set_spec for set_spec in self.sets}

    def set_named(self, name: str) -> SetSpec | None:
        """The set of a name: of the fixed text, or one that comes and goes; None: no name of this feature's.

        A feature whose sets come and go says here what a name stands for, always the same object.
        """
        return self.by_name.get(name)

    def likely_keys(self, set_spec: SetSpec, entries: AllEntries) -> list[bytes]:
        """Which keys a large set probably has, from what was read of smaller ones; none: it is listed."""
        del set_spec, entries
        return []

    def drained(self, delta: Delta[EntryKey, Value]) -> Drained:
        """What of a Delta's removals has to wait until no packet is led there; the Delta may be of other tables too."""
        del delta
        return NOTHING_DRAINED

    def announced(self, delta: Delta[EntryKey, Value], chains: Collection[str]) -> Brief | None:
        """What says to packets for a moment that a Delta is in force now; `chains`: the names of those before it."""
        del delta, chains
        return None

    def retimed(self, connection: Connection, delta: Delta[EntryKey, Value]) -> list[Retimed]:
        """What the kernel remembers and a Delta gives another time; changes nothing."""
        del connection, delta
        return []

    def meaning(self, set_spec: SetSpec, value: Value) -> str:
        """What an element says, in words, for those who follow a packet; by default whose it is."""
        del set_spec
        return value.comment

    def __repr__(self) -> str:
        """`<ip rulegen>`."""
        return f"<{self}>"

    def __str__(self) -> str:
        return f"{self.ip} {self.name}"


def table_name(feature: str) -> str:
    """The name of a feature's tables: `rulegen` of the services, which were there first."""
    return "rulegen" if feature == "services" else f"rulegen-{feature}"


def feature_of_table(name: str) -> str:
    """The feature whose table has this name."""
    return "services" if name == "rulegen" else name.removeprefix("rulegen-")


def digest(text: str) -> str:
    """Names a text, comments and blank lines apart, in 16 hexadecimal digits."""
    lines = (line.strip() for line in text.splitlines())
    return sha256("\n".join(line for line in lines if line and not line.startswith("#")).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Chain:
    """A chain as the template has it: `text` is the block with its comments, between `chain NAME {` and `}`."""

    name: str
    text: str

    @cached_property
    def digest(self) -> str:
        """Names the chain's declaration and rules."""
        return digest(self.text)

    @cached_property
    def _lines(self) -> list[str]:
        lines = (line.strip() for line in self.text.splitlines()[1:-1])
        return [line for line in lines if line and not line.startswith("#")]

    @property
    def declaration(self) -> str:
        """`type nat hook ...; policy accept;` of a base chain, "" of any other."""
        return self._lines[0] if self._lines and _BASE_CHAIN_DECLARATION.match(self._lines[0]) else ""

    @property
    def rules(self) -> list[str]:
        """The rules, one a line, as nft reads them."""
        return self._lines[1:] if self.declaration else self._lines


class Generated(Protocol):
    """The chains and sets of a table that come and go with the cluster, as text by their names.

    `required`: those that the fixed chains lead to.
    """

    required: Sequence[str]

    def chain(self, name: str) -> Chain:
        """The chain of that name, from the line `chain NAME {` on. KeyError for a name that never was one."""
        ...

    def chain_text(self, name: str) -> str:
        """The same with a comment above it, for a rendered file."""
        ...

    def set_text(self, name: str) -> str:
        """The declaration of the set of that name, a block of lines. KeyError for a name that never was one."""
        ...

    def model(self, name: str) -> str | None:
        """The chain from which one is made by the modulus of its first `numgen`, the number at the end of its name."""
        ...


class NoneGenerated:
    """See `Generated`, where nothing comes and goes."""

    required: Sequence[str] = ()

    def chain(self, name: str) -> Chain:
        """There is none."""
        raise KeyError(name)

    def chain_text(self, name: str) -> str:
        """There is none."""
        raise KeyError(name)

    def set_text(self, name: str) -> str:
        """There is none."""
        raise KeyError(name)

    def model(self, _: str) -> str | None:
        """There is none."""
        return None


@dataclass(frozen=True)
class BaseChains:
    """One table without its elements. `text` is the whole, `chains` its chains in order."""

    spec: TableSpec
    text: str
    schema: str
    chains: Mapping[str, Chain]
    generated: Generated = field(default_factory=NoneGenerated, compare=False)

    @property
    def family(self) -> Family:
        """The table's."""
        return self.spec.family

    def chain(self, name: str) -> Chain:
        """A chain of the fixed text, or one that comes and goes."""
        fixed = self.chains.get(name)
        return self.generated.chain(name) if fixed is None else fixed

    def generated_among(self, names: Iterable[str]) -> list[str]:
        """Those that are no part of the fixed text, in order, numbers at their ends by size."""
        return sorted((name for name in names if name not in self.chains), key=_by_number)


def base_chains_of(spec: TableSpec, text: str, schema: str, generated: Generated | None = None) -> BaseChains:
    """The text of a table, taken apart. `schema`: names the declarations of its sets, also in the table's comment."""
    return BaseChains(spec, text, schema, chains_in(text), generated or NoneGenerated())


def chains_in(text: str) -> dict[str, Chain]:
    """The chains of a table's text, or of what nft lists of it."""
    return {match["name"]: Chain(match["name"], match[0]) for match in _CHAIN.finditer(text)}


def assembled(spec: TableSpec, sets: str, chains: str, generated: Generated | None = None) -> BaseChains:
    """A table of sets and chains, given as text: blocks between braces, indented by a tab."""
    schema = digest(sets)
    text = (
        f'table {spec.ip} {spec.name} {{\n\tcomment "rulegen schema {schema}"\n\n{sets}'
        "\n\t# what the chains were loaded from and what the kernel made of it, to notice what somebody changed\n"
        f"\tset fingerprints {{\n\t\ttypeof meta mark . meta mark\n\t}}\n\n{chains}}}\n"
    )
    return base_chains_of(spec, text, schema, generated)


def _by_number(name: str) -> tuple[str, int]:
    head, _, tail = name.rpartition("-")
    return (head, int(tail)) if tail.isdecimal() else (name, -1)


@runtime_checkable
class KeepsInNewTables(Protocol):
    """A TableCompiler that keeps something of what it spares where a table must be made anew."""

    def in_new_table(self, spared: Entries) -> Entries:
        """What a new table holds in place of what was spared in the old one, whose chains go."""
        ...


class TableCompiler(Compiler[AllEntries], Protocol):
    """A Compiler for this driver.

    `specs`: the feature's tables. `base_chains`: of those that are wanted; a table without goes, as that of a feature
    which has nothing to do.
    """

    specs: Sequence[TableSpec]

    @property
    def base_chains(self) -> Mapping[TableSpec, BaseChains]:
        """As the last update made them."""
        ...
