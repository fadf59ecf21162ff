"""The tables of nftables for a packet to follow: as compiled, which needs no kernel, or as the kernel has them.

Of the kernel come the chains; elements are those that the driver has read, or compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Protocol, TypeAlias

from rulegen.config import Family as HostFamily
from rulegen.follow.model import Element, Followed, Place, Sent
from rulegen.follow.walk import FAMILIES, walk
from rulegen.netfilter import nft
from rulegen.netfilter.kernel import list_tables
from rulegen.netfilter.model import Code, FoundElement, Ruleset, Set, Table, Verdict
from rulegen.netfilter.nft_text import ChainText, read_table
from rulegen.nftables.elements import EntryKey, SetSpec, Value
from rulegen.nftables.tables import BaseChains, TableSpec

_CODES = {
    "goto": Code.GOTO,
    "jump": Code.JUMP,
    "accept": Code.ACCEPT,
    "drop": Code.DROP,
    "return": Code.RETURN,
    "continue": Code.CONTINUE,
}
_Entries: TypeAlias = Mapping[EntryKey, Value]


class FollowTables(Protocol):
    """See `model.Follow`."""

    def __call__(self, sent: Sent) -> Followed:
        """The way of a packet."""
        ...

    def key(self, family: HostFamily, met: Element | Place) -> EntryKey:
        """Which entry an element is, or a chain, that a packet of this family has met."""
        ...

    def value(self, key: EntryKey) -> Value | None:
        """What an entry holds; None: it is not there."""
        ...


class Compiled(Protocol):
    """Whoever has compiled a feature; see `nftables.tables.TableCompiler`."""

    @property
    def base_chains(self) -> Mapping[Any, BaseChains]:
        """By table."""
        ...

    def entries(self) -> Mapping[EntryKey, Value]:
        """All that is wanted."""
        ...


class CompiledTables:
    """What compilers would put into the kernel; see `FollowTables`."""

    def __init__(self, compilers: Iterable[Compiled]) -> None:
        """`compilers`: of all features, which have compiled."""
        self._compilers = list(compilers)
        # What is made of them when the first packet comes: by the table's text, the compiler's entries.
        self._tables: dict[HostFamily, list[tuple[BaseChains, _Entries]]] = {}
        self._rulesets: dict[HostFamily, Ruleset] = {}

    def __call__(self, sent: Sent) -> Followed:
        """Reads the chains that the packet passes, no others."""
        family = sent.family
        if family not in self._rulesets:
            tables = tuple(_compiled_table(base_chains, entries) for base_chains, entries in self._of(family))
            self._rulesets[family] = Ruleset(FAMILIES[family], tables)
        return walk(self._rulesets[family], sent)

    def _of(self, family: HostFamily) -> list[tuple[BaseChains, _Entries]]:
        if not self._tables:
            for compiler in self._compilers:
                entries = compiler.entries()
                for base_chains in compiler.base_chains.values():
                    self._tables.setdefault(base_chains.family, []).append((base_chains, entries))
        return self._tables.get(family, [])

    def key(self, family: HostFamily, met: Element | Place) -> EntryKey:
        """See `FollowTables`."""
        return _key({str(base_chains.spec): base_chains.spec for base_chains, _ in self._of(family)}[met.table], met)

    def value(self, key: EntryKey) -> Value | None:
        """See `FollowTables`."""
        found = (
            entries.get(key) for base_chains, entries in self._of(key[0].family) if base_chains.spec is key[0].spec
        )
        return next(found, None)


def _compiled_table(base_chains: BaseChains, entries: _Entries) -> Table:
    spec = base_chains.spec
    names = {key.decode() for set_spec, key in entries if set_spec is spec.chains}
    chains = {name: _text(base_chains, name) for name in (*base_chains.chains, *sorted(names - {*base_chains.chains}))}
    return read_table(FAMILIES[spec.family], spec.name, chains, cache(partial(_set_named, spec, entries)))


def _text(base_chains: BaseChains, name: str) -> ChainText:
    fixed = base_chains.chains.get(name)
    return ChainText(fixed.declaration if fixed else "", lambda: base_chains.chain(name).rules)


def _set_named(spec: TableSpec, entries: _Entries, name: str) -> Set | None:
    found = spec.set_named(name)
    if found is None:
        return None
    # What rules write themselves is no entry.
    is_dynamic = bool(found.size)
    find = None if is_dynamic else _finder(found, entries)
    is_map = bool(found.data)
    return Set(name, found.key_length, found.data_length, is_map, found.interval, is_dynamic, find=find)


class LiveTables:
    """What the kernel holds; see `FollowTables`."""

    def __init__(self, specs: Iterable[TableSpec], entries: _Entries) -> None:
        """`specs`: of all features. `entries`: as the driver has read them."""
        self._specs: dict[tuple[HostFamily, str], TableSpec] = {(spec.family, spec.name): spec for spec in specs}
        self._entries = entries

    def __call__(self, sent: Sent) -> Followed:
        """Raises HostError when the kernel's chains cannot be read."""
        family = FAMILIES[sent.family]
        specs = {name: spec for (of, name), spec in self._specs.items() if of is sent.family}

        def is_listed(table: str, name: str) -> bool:
            return specs[table].set_named(name) is None

        def find(table: str, name: str) -> Callable[[bytes], FoundElement | None] | None:
            found = specs[table].set_named(name)
            return None if found is None or found.size else _finder(found, self._entries)

        listings = list_tables(set(specs), (family,), is_listed)
        return walk(nft.read_ruleset(family, listings, find), sent)

    def key(self, family: HostFamily, met: Element | Place) -> EntryKey:
        """See `FollowTables`."""
        return _key(self._specs[family, met.table.partition(" ")[2]], met)

    def value(self, key: EntryKey) -> Value | None:
        """See `FollowTables`."""
        return self._entries.get(key)


def _key(spec: TableSpec, met: Element | Place) -> EntryKey:
    if isinstance(met, Place):
        return spec.chains, met.chain.encode()
    set_spec = spec.set_named(met.name)
    if set_spec is None:
        raise KeyError(met)
    return set_spec, met.key


def _finder(set_spec: SetSpec, entries: _Entries) -> Callable[[bytes], FoundElement | None]:
    """Says of a key by which entry it is there."""
    if set_spec.interval:
        return _RangeFinder(set_spec, entries)

    def find(key: bytes) -> FoundElement | None:
        value = entries.get((set_spec, key))
        return None if value is None else FoundElement(key, _data(set_spec, value))

    return find


class _RangeFinder:
    """The same of a set of ranges, in which the last field alone is one. The elements are looked at once."""

    def __init__(self, set_spec: SetSpec, entries: _Entries) -> None:
        self._set_spec = set_spec
        self._entries = entries
        self._ranges: list[bytes] | None = None

    def __call__(self, key: bytes) -> FoundElement | None:
        if self._ranges is None:
            self._ranges = list(self._own())
        size = len(key)
        exact = size - self._set_spec.key[-1].length
        for found in self._ranges:
            is_same = found[:exact] == key[:exact]
            if is_same and found[exact:size] <= key[exact:] <= found[size + exact :]:
                return FoundElement(found, _data(self._set_spec, self._entries[self._set_spec, found]))
        return None

    def _own(self) -> Iterator[bytes]:
        return (key for set_spec, key in self._entries if set_spec is self._set_spec)


def _data(set_spec: SetSpec, value: Value) -> bytes | Verdict | None:
    if not set_spec.is_verdict_map:
        return value.data or None
    word, _, chain = value.data.decode().partition(" ")
    known = word in _CODES
    return Verdict(_CODES[word], chain) if known else Verdict(Code.UNKNOWN, f"an element of {set_spec.name}: {word}")
