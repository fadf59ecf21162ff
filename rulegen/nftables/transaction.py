"""A Delta becomes one transaction: commands in an order in which each refers only to what is there.

In: the Delta, the live tables and the fixed parts. Out: the commands as netlink messages, and as text for people. Sends
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from rulegen.nftables import messages, text
from rulegen.nftables.elements import EntryKey, SetSpec, Value, element_text, key_text
from rulegen.nftables.live import FLOWTABLE_WORD, SET_WORDS, SETS, Live, LiveTable
from rulegen.nftables.messages import chunks
from rulegen.nftables.plain_elements import split
from rulegen.nftables.rules import Compiled
from rulegen.nftables.tables import BaseChains, Brief, Chain, Retimed, TableSpec
from rulegen.reconcile.delta import Change as EntryChange
from rulegen.reconcile.delta import Delta

Elements = list[tuple[bytes, Value]]


@dataclass(frozen=True)
class ReplaceTable:
    """Makes a table anew with all its entries; an old one goes in the same transaction.

    `plain`: of large maps whose elements have no comments, the data by key.
    """

    base_chains: BaseChains
    entries: Mapping[SetSpec, Mapping[bytes, Value]]
    plain: Mapping[SetSpec, Mapping[bytes, bytes]] = field(default_factory=dict)

    def frame(self) -> Iterator[Change]:
        """The table, its sets, and the chains that no packet meets before it meets those of `hooks`.

        Rules come before elements: one that is added while its map is full costs the kernel a walk over the map.
        """
        yield NewTable(self.base_chains, tuple(self.sets))
        yield from self._write([chain for chain in self._chains if not chain.declaration])

    def elements(self) -> Iterator[Change]:
        """All of them, in messages of bounded size."""
        for set_spec in text.sets_of(self.spec, self.sets):
            for part in chunks(self.entries.get(set_spec, {}).items()):
                yield AddElements(set_spec, part)
            for keys_and_data in chunks(self.plain.get(set_spec, {}).items()):
                yield AddPlainElements(set_spec, keys_and_data)

    def hooks(self) -> Iterator[Change]:
        """The chains that packets meet."""
        yield from self._write([chain for chain in self._chains if chain.declaration])

    @property
    def spec(self) -> TableSpec:
        """The table."""
        return self.base_chains.spec

    @property
    def all_entries(self) -> Mapping[SetSpec, Mapping[bytes, Value]]:
        """Those of large maps as well."""
        large = {
            set_spec: {key: Value(data) for key, data in elements.items()} for set_spec, elements in self.plain.items()
        }
        return {**self.entries, **large}

    @property
    def chains(self) -> list[str]:
        """The names of all its chains."""
        return [name.decode() for name in self.entries.get(self.spec.chains, {})]

    @property
    def sets(self) -> list[str]:
        """The names of its sets that are no part of the fixed text."""
        return sorted(name.decode() for name in self.entries.get(self.spec.declared, {}))

    @property
    def _chains(self) -> Iterator[Chain]:
        return map(self.base_chains.chain, self.chains)

    def _write(self, chains: Sequence[Chain]) -> Iterator[Change]:
        if chains:
            yield AddChains(self.spec, tuple(chains))
        for chain in chains:
            yield WriteRules(self.spec, chain, known=False)


@dataclass(frozen=True)
class NewTable:
    """Makes a table with its sets, all empty, and notes what they were declared from.

    `sets`: those that come and go.
    """

    base_chains: BaseChains
    sets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"add table {self.base_chains.spec}, and its sets"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        spec = self.base_chains.spec
        table = compiled.tables[spec]
        yield messages.new_table(spec.family, spec.name, table.comment)
        declarations = [*table.sets, *(compiled.sets[spec, name] for name in self.sets)]
        for number, declaration in enumerate(declarations, 1):
            yield messages.new_set(spec.family, spec.name, number, declaration)
        note = text.fingerprint(spec, SETS, self.base_chains.schema, table.listed_as)
        yield messages.add_elements(spec.fingerprints, [note])


@dataclass(frozen=True)
class DeleteTable:
    """Removes a table."""

    spec: TableSpec

    def __str__(self) -> str:
        return f"delete table {self.spec}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        yield messages.delete_table(self.spec.family, self.spec.name)


@dataclass(frozen=True)
class AddSets:
    """Declares sets that come and go, all empty."""

    spec: TableSpec
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"add set {self.spec} {', '.join(self.names)}"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        for number, name in enumerate(self.names, 1):
            yield messages.new_set(self.spec.family, self.spec.name, number, compiled.sets[self.spec, name])


@dataclass(frozen=True)
class DeleteSets:
    """Removes sets that nothing refers to, with their elements."""

    spec: TableSpec
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"delete set {self.spec} {', '.join(self.names)}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        for name in self.names:
            yield messages.delete_set(self.spec.family, self.spec.name, name)


@dataclass(frozen=True)
class AddChains:
    """Makes chains, then their rules: these may name each other."""

    spec: TableSpec
    chains: tuple[Chain, ...]

    def __str__(self) -> str:
        return f"add chain {self.spec} {', '.join(chain.name for chain in self.chains)}"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        for chain in self.chains:
            declaration = compiled.chains[self.spec, chain.name].declaration
            yield messages.new_chain(self.spec.family, self.spec.name, chain.name, declaration)


@dataclass(frozen=True)
class MoveHook:
    """Makes a chain anew, without rules, if it does not hook into the kernel where it should (`declaration`).

    Only then: a new hook comes before the old one, and a packet between the two would meet neither's rules.
    """

    spec: TableSpec
    chain: Chain
    declaration: bytes

    def __str__(self) -> str:
        hook = f" {{ {self.chain.declaration} }}" if self.chain.declaration else ""
        return f"add chain {self.spec} {self.chain.name}{hook}"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        family, table = self.spec.family, self.spec.name
        declaration = compiled.chains[self.spec, self.chain.name].declaration
        if declaration != self.declaration:
            yield messages.flush_chain(family, table, self.chain.name)
            yield messages.delete_chain(family, table, self.chain.name)
            yield messages.new_chain(family, table, self.chain.name, declaration)


@dataclass(frozen=True)
class WriteRules:
    """Replaces the rules of a chain, and notes what it was loaded from. `known`: there is such a note already."""

    spec: TableSpec
    chain: Chain
    known: bool

    def __str__(self) -> str:
        return f"flush chain {self.spec} {self.chain.name}, and add its rules"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        family, table = self.spec.family, self.spec.name
        chain = compiled.chains[self.spec, self.chain.name]
        yield messages.flush_chain(family, table, self.chain.name)
        for rule in chain.rules:
            yield messages.new_rule(family, table, self.chain.name, rule)
        note = text.fingerprint(self.spec, self.chain.name, self.chain.digest, chain.listed_as)
        if self.known:
            yield messages.delete_elements(self.spec.fingerprints, [note])
        yield messages.add_elements(self.spec.fingerprints, [note])


@dataclass(frozen=True)
class DeleteChains:
    """Removes chains that nothing refers to but, perhaps, each other. `known`: those that are noted."""

    spec: TableSpec
    names: tuple[str, ...]
    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"delete chain {self.spec} {', '.join(self.names)}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        family, table = self.spec.family, self.spec.name
        for name in self.names:
            yield messages.flush_chain(family, table, name)
        for name in self.names:
            yield messages.delete_chain(family, table, name)
        if self.known:
            notes = [text.fingerprint(self.spec, name, "") for name in self.known]
            yield messages.delete_elements(self.spec.fingerprints, notes)


@dataclass(frozen=True)
class DeleteForeign:
    """Removes what others have put into the table, and empties their `chains`, whose rules may refer to it.

    `things`: by kind and name, with the kernel's number of the kind.
    """

    spec: TableSpec
    things: tuple[tuple[str, int], ...]
    chains: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(f"delete {kind} {self.spec} {name}" for kind, name, _ in self._split())

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        """Elements of sets refer to objects, rules to all of them."""
        family, table = self.spec.family, self.spec.name
        for name in self.chains:
            yield messages.flush_chain(family, table, name)
        others = []
        for kind, name, number in self._split():
            if kind in SET_WORDS:
                yield messages.delete_set(family, table, name)
            elif kind == FLOWTABLE_WORD:
                others.append(messages.delete_flowtable(family, table, name))
            else:
                others.append(messages.delete_object(family, table, number, name))
        yield from others

    def _split(self) -> Iterator[tuple[str, str, int]]:
        for thing, number in self.things:
            kind, _, name = thing.rpartition(" ")
            yield kind, name, number


@dataclass(frozen=True)
class AddElements:
    """Adds elements to a set or map."""

    set_spec: SetSpec
    elements: Elements

    def __str__(self) -> str:
        return f"add element {_braces(self.set_spec, self.elements)}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        yield messages.add_elements(self.set_spec, self.elements)


@dataclass(frozen=True)
class AddPlainElements:
    """The same of a large map, whose elements are keys and data and nothing else."""

    set_spec: SetSpec
    elements: list[tuple[bytes, bytes]]

    def __str__(self) -> str:
        return f"add element {_braces(self.set_spec, [(key, Value(data)) for key, data in self.elements])}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        yield messages.add_plain_elements(self.set_spec, self.elements)


@dataclass(frozen=True)
class DeleteElements:
    """Removes elements from a set or map."""

    set_spec: SetSpec
    elements: Elements

    def __str__(self) -> str:
        return f"delete element {_braces(self.set_spec, self.elements)}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        yield messages.delete_elements(self.set_spec, self.elements)


def _braces(set_spec: SetSpec, elements: Elements) -> str:
    first = element_text(set_spec, *elements[0])
    more = ", ..." if len(elements) > 1 else ""
    return f"{set_spec.ip} {set_spec.table} {set_spec.name} {{ {first}{more} }}"


@dataclass(frozen=True)
class Retime:
    """Gives an element that the kernel remembers the time that it has left under another timeout."""

    element: Retimed

    def __str__(self) -> str:
        set_spec = self.element.set_spec
        key = key_text(set_spec, self.element.key)
        return f"delete element {set_spec.ip} {set_spec.table} {set_spec.name} {{ {key} }}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        set_spec, key, value, timeout, left = self.element
        yield messages.delete_elements(set_spec, [(key, value)])
        if left is not None:
            yield messages.add_expiring_element(set_spec, (key, value), (timeout, left))


@dataclass(frozen=True)
class Announce:
    """Says for a moment that something changes: the set has this element alone, whatever it had."""

    element: Brief

    def __str__(self) -> str:
        set_spec = self.element.set_spec
        key = key_text(set_spec, self.element.key)
        return (
            f"add element {set_spec.ip} {set_spec.table} {set_spec.name} {{ {key} timeout {self.element.timeout}ms }}"
        )

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        set_spec, key, timeout = self.element
        yield messages.flush_set(set_spec)
        yield messages.add_expiring_element(set_spec, (key, Value()), (timeout, timeout))


Change: TypeAlias = (
    NewTable
    | DeleteTable
    | AddSets
    | DeleteSets
    | AddChains
    | MoveHook
    | WriteRules
    | DeleteChains
    | DeleteForeign
    | AddElements
    | AddPlainElements
    | DeleteElements
    | Retime
    | Announce
)


@dataclass(frozen=True)
class Transaction:
    """What is applied together or not at all, in all tables.

    Tables to be made anew come before all other changes. Where both are needed, because only some tables can be kept,
    they are two transactions.

    A packet on its way reads a chain as it was when the packet met the first rule, and an element as it is at that
    moment. So new sets and chains come before the elements that lead to them (`additions`: nothing refers to them yet),
    and what lists that ended or moved have left behind goes after (`removals`: nothing leads there any more), both in
    transactions of their own. Most changes have neither. Before the removals one has to wait for packets on their way
    when `is_handover`: those would be led to somebody else, as when session affinity is switched.
    """

    base_chains: Mapping[TableSpec, BaseChains]
    tables: tuple[ReplaceTable, ...] = ()
    additions: tuple[Change, ...] = ()
    changes: tuple[Change, ...] = ()
    removals: tuple[Change, ...] = ()
    is_handover: bool = False

    @property
    def stages(self) -> Iterator[tuple[Change, ...]]:
        """The changes in the order in which they are committed, each stage at once."""
        return filter(None, (self.additions, self.changes, self.removals))

    @property
    def is_of_elements(self) -> bool:
        """Whether all that it writes is elements, so that nothing must be compiled for it."""
        return not self.tables and not any(
            isinstance(change, WriteRules | AddChains | MoveHook | AddSets)
            for change in (*self.additions, *self.changes)
        )

    def chains(self) -> Iterator[tuple[TableSpec, str]]:
        """The chains whose rules must be compiled for it."""
        for table in self.tables:
            yield from ((table.spec, name) for name in table.chains)
        for change in (*self.additions, *self.changes):
            if isinstance(change, WriteRules):
                yield change.spec, change.chain.name

    def sets(self) -> Iterator[tuple[TableSpec, str]]:
        """The sets that come and go whose declarations must be compiled for it."""
        for table in self.tables:
            yield from ((table.spec, name) for name in table.sets)
        for change in self.additions:
            if isinstance(change, AddSets):
                yield from ((change.spec, name) for name in change.names)


def netlink_messages(changes: Iterable[Change], compiled: Compiled) -> Iterator[tuple[Change, bytearray]]:
    """Changes as netlink messages, each with what it is part of."""
    for change in changes:
        for message in change.messages(compiled):
            yield change, message


def plan(
    delta: Delta[EntryKey, Value],
    live: Live,
    base_chains: Mapping[TableSpec, BaseChains],
    desired: Mapping[EntryKey, Value] | None = None,
    retimed: Sequence[Retimed] = (),
) -> Transaction:
    """The transaction for a Delta.

    `base_chains`: of the tables that are wanted. `desired`, all entries, is needed only where a table must be made anew
    that there was; of one that there was not, the Delta has all of them. `retimed`: what the Delta gives another
    timeout (`Kernel.retimed`).
    """
    kept = {spec: table for spec, fixed in base_chains.items() if (table := _kept(live, fixed)) is not None}
    tables: tuple[ReplaceTable, ...] = ()
    if len(kept) < len(base_chains):
        plain, entries = split(delta.added if desired is None else desired)
        groups = text.group(entries)
        tables = tuple(ReplaceTable(fixed, groups, plain) for spec, fixed in base_chains.items() if spec not in kept)
    unwanted = tuple(DeleteTable(spec) for spec in live.tables if spec not in base_chains)
    if not kept:
        # As at a first load: nothing of the Delta, which is as large as the ruleset, is looked at.
        return Transaction(base_chains, tables, (), unwanted)
    by_set = _BySet(text.group(delta.added), text.group(delta.changed), text.group(delta.removed))
    left, is_handover = _left(delta, kept)
    # Most changes are of elements alone.
    around = _around(by_set, kept, base_chains) if by_set.has_names else _Around()
    changes: list[Change] = [*unwanted, *around.before]

    def stays(set_spec: SetSpec) -> bool:
        return set_spec.spec in kept and set_spec not in around.sets

    changes += _in_parts(DeleteElements, _grouped(by_set.leaving(left), stays))
    changes += _in_parts(AddElements, _grouped(by_set.coming(), stays))
    changes += around.after
    changes += (Retime(element) for element in retimed if element.set_spec.spec in kept)
    announced = (spec.announced(delta, table.fingerprints.keys()) for spec, table in kept.items())
    changes += (Announce(element) for element in announced if element is not None)
    removals = (*_in_parts(DeleteElements, _grouped(left, stays)), *around.last)
    return Transaction(base_chains, tables, around.additions, tuple(changes), removals, is_handover)


def _kept(live: Live, base_chains: BaseChains) -> LiveTable | None:
    """The table that is there, unless its sets are declared otherwise."""
    table = live.tables.get(base_chains.spec)
    return table if table is not None and table.schema == base_chains.schema else None


Groups: TypeAlias = Mapping[SetSpec, Mapping[bytes, Value]]


class _BySet(NamedTuple):
    """A Delta whose entries are looked up by set; most changes concern one or two of them."""

    added: Groups
    changed: Mapping[SetSpec, Mapping[bytes, EntryChange[Value]]]
    removed: Groups

    @property
    def has_names(self) -> bool:
        """Whether chains, or sets that come and go, are among it, or what others have put there."""
        return any(set_spec.is_chains for groups in self for set_spec in groups)

    def leaving(self, left: Groups) -> Groups:
        """What goes at once: all but what is `left` for later. A value that changes is removed and added."""
        leaving = {
            set_spec: {key: change.before for key, change in changes.items()}
            for set_spec, changes in self.changed.items()
        }
        for set_spec, elements in self.removed.items():
            later = left.get(set_spec)
            at_once = dict(elements) if later is None else {key: elements[key] for key in elements if key not in later}
            leaving[set_spec] = {**leaving.get(set_spec, {}), **at_once}
        return leaving

    def coming(self) -> Groups:
        """What is added, values that change included."""
        coming = dict(self.added)
        for set_spec, changes in self.changed.items():
            after = {key: change.after for key, change in changes.items()}
            coming[set_spec] = {**coming.get(set_spec, {}), **after}
        return coming


class _Around(NamedTuple):
    """What is done around the elements of sets that stay: to chains, to the other `sets`, to what is others'.

    `additions`: before all else, since nothing leads there yet; `last`: after all else. `before`, `after`: in the same
    transaction as the elements.
    """

    sets: Collection[SetSpec] = ()
    additions: tuple[Change, ...] = ()
    before: tuple[Change, ...] = ()
    after: tuple[Change, ...] = ()
    last: tuple[Change, ...] = ()


def _around(
    by_set: _BySet, kept: Mapping[TableSpec, LiveTable], base_chains: Mapping[TableSpec, BaseChains]
) -> _Around:
    coming, going = _sets(by_set.added, kept), _sets(by_set.removed, kept)
    additions: list[Change] = [*_new_sets(by_set, kept, coming)]
    before: list[Change] = []
    after: list[Change] = []
    last: list[Change] = []
    for spec, table in kept.items():
        additions += _new_chains(spec, by_set, table, base_chains[spec])
        before += _changed_chains(spec, by_set, table, base_chains[spec])
        after += _foreign(spec, by_set, table)
        last += _unneeded(spec, by_set, table, going)
    return _Around(coming | going, tuple(additions), tuple(before), tuple(after), tuple(last))


def _sets(groups: Groups, kept: Iterable[TableSpec]) -> set[SetSpec]:
    """The sets that come, or go, in tables that stay; mostly none."""
    return {
        found
        for spec in kept
        for name in groups.get(spec.declared, ())
        if (found := spec.set_named(name.decode())) is not None
    }


def _names(sets: Iterable[SetSpec], spec: TableSpec) -> tuple[str, ...]:
    return tuple(sorted(set_spec.name for set_spec in sets if set_spec.spec is spec))


def _new_sets(by_set: _BySet, kept: Iterable[TableSpec], coming: Collection[SetSpec]) -> Iterator[Change]:
    """Sets that nothing looks into yet, with their elements."""
    if not coming:
        return
    for spec in kept:
        if names := _names(coming, spec):
            yield AddSets(spec, names)
    yield from _in_parts(AddElements, _grouped(by_set.added, coming.__contains__))


def _left(delta: Delta[EntryKey, Value], specs: Iterable[TableSpec]) -> tuple[Groups, bool]:
    """What stays until no packet is led there, mostly nothing, and whether packets are handed over."""
    drained = [found for spec in specs if (found := spec.drained(delta)).keys]
    if not drained:
        return {}, False
    later = {key: delta.removed[key] for found in drained for key in found.keys}
    return text.group(later), any(found.is_handover for found in drained)


def _grouped(groups: Groups, is_meant: Callable[[SetSpec], bool]) -> list[tuple[SetSpec, Elements]]:
    return [
        (set_spec, text.in_order(set_spec, groups[set_spec]))
        for set_spec in sorted(groups, key=attrgetter("place"))
        if not set_spec.is_chains and is_meant(set_spec)
    ]


def _in_parts(
    change: type[AddElements | DeleteElements], groups: Iterable[tuple[SetSpec, Elements]]
) -> Iterator[Change]:
    """Changes that fit into one message each."""
    return (change(set_spec, part) for set_spec, elements in groups for part in chunks(elements))


def _new_chains(spec: TableSpec, by_set: _BySet, table: LiveTable, base_chains: BaseChains) -> Iterator[Change]:
    """Chains that no packet meets before something leads to them; their rules may name each other."""
    chains = [chain for chain in _chains(spec, by_set.added, base_chains) if not chain.declaration]
    if chains:
        yield AddChains(spec, tuple(chains))
    for chain in chains:
        yield WriteRules(spec, chain, chain.name in table.fingerprints)


def _changed_chains(spec: TableSpec, by_set: _BySet, table: LiveTable, base_chains: BaseChains) -> Iterator[Change]:
    """The rules of chains that differ, and chains that hook into the kernel, to which nothing refers."""
    changed = _chains(spec, by_set.changed, base_chains)
    hooked = [chain for chain in _chains(spec, by_set.added, base_chains) if chain.declaration]
    for chain in changed:
        declaration = table.declarations.get(chain.name, b"")
        if chain.declaration or declaration:
            yield MoveHook(spec, chain, declaration)
    if hooked:
        yield AddChains(spec, tuple(hooked))
    for chain in sorted((*hooked, *changed), key=attrgetter("name")):
        yield WriteRules(spec, chain, chain.name in table.fingerprints)


def _chains(spec: TableSpec, groups: Mapping[SetSpec, Mapping[bytes, object]], base_chains: BaseChains) -> list[Chain]:
    return [base_chains.chain(name) for name in sorted(map(bytes.decode, groups.get(spec.chains, ())))]


def _foreign(spec: TableSpec, by_set: _BySet, table: LiveTable) -> Iterator[Change]:
    """What is in the table beside rulegen's sets and chains."""
    things = tuple(map(bytes.decode, by_set.removed.get(spec.foreign, ())))
    if things:
        chains = tuple(sorted(map(bytes.decode, by_set.removed.get(spec.chains, ()))))
        yield DeleteForeign(spec, tuple((thing, table.foreign[thing]) for thing in things), chains)


def _unneeded(spec: TableSpec, by_set: _BySet, table: LiveTable, going: Collection[SetSpec]) -> Iterator[Change]:
    """Chains that nothing refers to any more, then sets."""
    names = tuple(sorted(map(bytes.decode, by_set.removed.get(spec.chains, ()))))
    if names:
        yield DeleteChains(spec, names, tuple(name for name in names if name in table.fingerprints))
    if sets := _names(going, spec):
        yield DeleteSets(spec, sets)
