"""A Delta becomes one transaction: commands in an order in which each refers only to what is there.

In: the Delta, the live tables and the fixed parts. Out: the commands as netlink messages, and as text for people. Sends
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

from rulegen.config import Family
from rulegen.nftables import messages, text
from rulegen.nftables.base_chains import BaseChains, Chain, balance_chain, is_balance_chain
from rulegen.nftables.layout import (
    IP_KEYWORD,
    LAYOUTS,
    TABLE,
    EntryKey,
    SetSpec,
    Value,
    element_text,
    id_of,
    key_text,
    pack_register,
    service_port_of,
)
from rulegen.nftables.live import FLOWTABLE_WORD, SET_WORDS, SETS, Live, LiveTable
from rulegen.nftables.messages import chunks
from rulegen.nftables.rules import Compiled
from rulegen.reconcile.delta import Delta
from rulegen.services.on_nftables.affinity import Client

Elements = list[tuple[bytes, Value]]

# A list that there is has it.
_FIRST_SLOT = pack_register(0)


@dataclass(frozen=True)
class ReplaceTable:
    """Makes a table anew with all its entries; an old one goes in the same transaction."""

    base_chains: BaseChains
    entries: Mapping[SetSpec, Mapping[bytes, Value]]

    def frame(self) -> Iterator[Change]:
        """The table, its sets, and the chains that no packet meets before it meets those of `hooks`.

        Rules come before elements: one that is added while its map is full costs the kernel a walk over the map.
        """
        yield NewTable(self.base_chains)
        yield from self._write([chain for chain in self._chains if not chain.declaration])

    def elements(self) -> Iterator[Change]:
        """All of them, in messages of bounded size."""
        for set_spec in LAYOUTS[self.base_chains.family].set_specs:
            if not set_spec.is_chains:
                for part in chunks(list(self.entries.get(set_spec, {}).items())):
                    yield AddElements(set_spec, part)

    def hooks(self) -> Iterator[Change]:
        """The chains that packets meet."""
        yield from self._write([chain for chain in self._chains if chain.declaration])

    @property
    def chains(self) -> list[str]:
        """The names of all its chains."""
        return [name.decode() for name in self.entries.get(LAYOUTS[self.base_chains.family].chains, {})]

    @property
    def _chains(self) -> Iterator[Chain]:
        return (chain_of(self.base_chains, name) for name in self.chains)

    def _write(self, chains: Sequence[Chain]) -> Iterator[Change]:
        if chains:
            yield AddChains(self.base_chains.family, tuple(chains))
        for chain in chains:
            yield WriteRules(self.base_chains.family, chain, known=False)


@dataclass(frozen=True)
class NewTable:
    """Makes a table with its sets, all empty, and notes what they were declared from."""

    base_chains: BaseChains

    def __str__(self) -> str:
        return f"add table {IP_KEYWORD[self.base_chains.family]} {TABLE}, and its sets"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        family = self.base_chains.family
        table = compiled.tables[family]
        yield messages.new_table(family, TABLE, table.comment)
        for number, declaration in enumerate(table.sets, 1):
            yield messages.new_set(family, TABLE, number, declaration)
        note = text.fingerprint(SETS, self.base_chains.schema, table.listed_as)
        yield messages.add_elements(LAYOUTS[family].fingerprints, TABLE, [note])


@dataclass(frozen=True)
class DeleteTable:
    """Removes a table."""

    family: Family

    def __str__(self) -> str:
        return f"delete table {IP_KEYWORD[self.family]} {TABLE}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        yield messages.delete_table(self.family, TABLE)


@dataclass(frozen=True)
class AddChains:
    """Makes chains, then their rules: these may name each other."""

    family: Family
    chains: tuple[Chain, ...]

    def __str__(self) -> str:
        return f"add chain {IP_KEYWORD[self.family]} {TABLE} {', '.join(chain.name for chain in self.chains)}"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        for chain in self.chains:
            yield messages.new_chain(
                self.family, TABLE, chain.name, compiled.chains[self.family, chain.name].declaration
            )


@dataclass(frozen=True)
class MoveHook:
    """Makes a chain anew, without rules, if it does not hook into the kernel where it should (`declaration`).

    Only then: a new hook comes before the old one, and a packet between the two would meet neither's rules.
    """

    family: Family
    chain: Chain
    declaration: bytes

    def __str__(self) -> str:
        hook = f" {{ {self.chain.declaration} }}" if self.chain.declaration else ""
        return f"add chain {IP_KEYWORD[self.family]} {TABLE} {self.chain.name}{hook}"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        declaration = compiled.chains[self.family, self.chain.name].declaration
        if declaration != self.declaration:
            yield messages.flush_chain(self.family, TABLE, self.chain.name)
            yield messages.delete_chain(self.family, TABLE, self.chain.name)
            yield messages.new_chain(self.family, TABLE, self.chain.name, declaration)


@dataclass(frozen=True)
class WriteRules:
    """Replaces the rules of a chain, and notes what it was loaded from. `known`: there is such a note already."""

    family: Family
    chain: Chain
    known: bool

    def __str__(self) -> str:
        return f"flush chain {IP_KEYWORD[self.family]} {TABLE} {self.chain.name}, and add its rules"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        chain = compiled.chains[self.family, self.chain.name]
        yield messages.flush_chain(self.family, TABLE, self.chain.name)
        for rule in chain.rules:
            yield messages.new_rule(self.family, TABLE, self.chain.name, rule)
        fingerprints = LAYOUTS[self.family].fingerprints
        note = text.fingerprint(self.chain.name, self.chain.digest, chain.listed_as)
        if self.known:
            yield messages.delete_elements(fingerprints, TABLE, [note])
        yield messages.add_elements(fingerprints, TABLE, [note])


@dataclass(frozen=True)
class DeleteChains:
    """Removes chains that nothing refers to but, perhaps, each other. `known`: those that are noted."""

    family: Family
    names: tuple[str, ...]
    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"delete chain {IP_KEYWORD[self.family]} {TABLE} {', '.join(self.names)}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        for name in self.names:
            yield messages.flush_chain(self.family, TABLE, name)
        for name in self.names:
            yield messages.delete_chain(self.family, TABLE, name)
        if self.known:
            notes = [text.fingerprint(name, "") for name in self.known]
            yield messages.delete_elements(LAYOUTS[self.family].fingerprints, TABLE, notes)


@dataclass(frozen=True)
class DeleteForeign:
    """Removes what others have put into the table, and empties their `chains`, whose rules may refer to it.

    `things`: by kind and name, with the kernel's number of the kind.
    """

    family: Family
    things: tuple[tuple[str, int], ...]
    chains: tuple[str, ...]

    def __str__(self) -> str:
        table = f"{IP_KEYWORD[self.family]} {TABLE}"
        return ", ".join(f"delete {kind} {table} {name}" for kind, name, _ in self._split())

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        """As netlink messages: elements of sets refer to objects, rules to all of them."""
        for name in self.chains:
            yield messages.flush_chain(self.family, TABLE, name)
        others = []
        for kind, name, number in self._split():
            if kind in SET_WORDS:
                yield messages.delete_set(self.family, TABLE, name)
            elif kind == FLOWTABLE_WORD:
                others.append(messages.delete_flowtable(self.family, TABLE, name))
            else:
                others.append(messages.delete_object(self.family, TABLE, number, name))
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
        return f"add element {self.set_spec.ip} {TABLE} {self.set_spec.name} {_braces(self.set_spec, self.elements)}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        yield messages.add_elements(self.set_spec, TABLE, self.elements)


@dataclass(frozen=True)
class DeleteElements:
    """Removes elements from a set or map."""

    set_spec: SetSpec
    elements: Elements

    def __str__(self) -> str:
        elements = _braces(self.set_spec, self.elements)
        return f"delete element {self.set_spec.ip} {TABLE} {self.set_spec.name} {elements}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        yield messages.delete_elements(self.set_spec, TABLE, self.elements)


def _braces(set_spec: SetSpec, elements: Elements) -> str:
    first = element_text(set_spec, *elements[0])
    return f"{{ {first}{', ...' if len(elements) > 1 else ''} }}"


@dataclass(frozen=True)
class RetimeClient:
    """Gives a remembered client the time that it has left under another timeout."""

    client: Client

    def __str__(self) -> str:
        affinity = LAYOUTS[self.client.family].affinity
        return f"delete element {affinity.ip} {TABLE} {affinity.name} {{ {key_text(affinity, self.client.key)} }}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        client = self.client
        affinity = LAYOUTS[client.family].affinity
        yield messages.delete_elements(affinity, TABLE, [(client.key, client.value)])
        if client.left is not None:
            times = (client.timeout, client.left)
            yield messages.add_expiring_element(affinity, TABLE, (client.key, client.value), times)


Change: TypeAlias = (
    NewTable
    | DeleteTable
    | AddChains
    | MoveHook
    | WriteRules
    | DeleteChains
    | DeleteForeign
    | AddElements
    | DeleteElements
    | RetimeClient
)


@dataclass(frozen=True)
class Transaction:
    """What is applied together or not at all.

    Tables to be made anew come before all other changes. Where both are needed, because only one family's table can be
    kept, they are two transactions: a packet meets only one family's table.

    A packet on its way reads a chain as it was when the packet met the first rule, and an element as it is at that
    moment. So new chains come before the elements that lead to them (`additions`: nothing refers to them yet), and what
    lists that ended or moved have left behind goes after (`removals`: nothing leads there any more), both in
    transactions of their own. Most changes have neither. Before the removals one has to wait for packets on their way
    when `is_handover`: frontends that are still answered get another list, as when session affinity is switched.
    """

    base_chains: Mapping[Family, BaseChains]
    tables: tuple[ReplaceTable, ...] = ()
    additions: tuple[Change, ...] = ()
    changes: tuple[Change, ...] = ()
    removals: tuple[Change, ...] = ()
    is_handover: bool = False

    @property
    def stages(self) -> Iterator[tuple[Change, ...]]:
        """The changes in the order in which they are committed, each stage at once."""
        return filter(None, (self.additions, self.changes, self.removals))

    def chains(self) -> Iterator[tuple[Family, str]]:
        """The chains whose rules must be compiled for it."""
        for table in self.tables:
            yield from ((table.base_chains.family, name) for name in table.chains)
        for change in (*self.additions, *self.changes):
            if isinstance(change, WriteRules):
                yield change.family, change.chain.name


def netlink_messages(changes: Iterable[Change], compiled: Compiled) -> Iterator[tuple[Change, bytearray]]:
    """Changes as netlink messages, each with what it is part of."""
    for change in changes:
        for message in change.messages(compiled):
            yield change, message


def plan(
    delta: Delta[EntryKey, Value],
    live: Live,
    base_chains: Mapping[Family, BaseChains],
    desired: Mapping[EntryKey, Value] | None = None,
    clients: Sequence[Client] = (),
) -> Transaction:
    """The transaction for a Delta.

    `desired`, all entries, is needed only where a table must be made anew: when there is none, or one whose sets are
    declared differently. `clients`: records whose timeout the Delta changes (`Kernel.clients`).
    """
    replaced = [family for family, base_chains in base_chains.items() if not _has_schema(live, base_chains)]
    groups = text.group(desired or {}) if replaced else {}
    tables = tuple(ReplaceTable(base_chains[family], groups) for family in replaced)
    kept = [family for family in base_chains if family not in replaced]
    additions: list[Change] = []
    changes: list[Change] = [DeleteTable(family) for family in live.tables if family not in base_chains]
    removals: list[Change] = []
    is_handover = False
    for family in kept:
        additions += _new_chains(family, delta, live.tables[family], base_chains[family])
        changes += _changed_chains(family, delta, live.tables[family], base_chains[family])
    if kept:
        leaving, left = _removed(delta, kept)
        changes += _in_parts(DeleteElements, leaving)
        changes += _in_parts(AddElements, _grouped(_added(delta), kept))
        removals += _in_parts(DeleteElements, _grouped(left, kept))
        is_handover = bool(left) and not _handed_over(delta).isdisjoint(_service_ports(left))
    for family in kept:
        changes += _foreign(family, delta, live.tables[family])
    changes += (RetimeClient(client) for client in clients if client.family in kept)
    for family in kept:
        removals += _unneeded_chains(family, delta, live.tables[family])
    return Transaction(base_chains, tables, tuple(additions), tuple(changes), tuple(removals), is_handover)


def _has_schema(live: Live, base_chains: BaseChains) -> bool:
    table = live.tables.get(base_chains.family)
    return table is not None and table.schema == base_chains.schema


Groups: TypeAlias = list[tuple[SetSpec, Elements]]


def _removed(delta: Delta[EntryKey, Value], families: Sequence[Family]) -> tuple[Groups, dict[EntryKey, Value]]:
    """What goes at once (a value that changes is removed and added), and what stays until no packet can lead there."""
    moved = _moved_lists(delta)
    at_once: dict[EntryKey, Value] = {key: change.before for key, change in delta.changed.items()}
    later: dict[EntryKey, Value] = {}
    for key, value in delta.removed.items():
        (later if (key[0].family, service_port_of(*key)) in moved else at_once)[key] = value
    return _grouped(at_once, families), later


def _handed_over(delta: Delta[EntryKey, Value]) -> set[tuple[Family, int]]:
    """The service-ports whose lists get something, and those that a frontend was led to which has another one now."""
    led_on = {
        (set_spec.family, id_of(change.before.data))
        for (set_spec, _), change in delta.changed.items()
        if set_spec in {LAYOUTS[set_spec.family].frontends, LAYOUTS[set_spec.family].nodeports}
        and id_of(change.after.data)
    }
    return _service_ports((*delta.added, *delta.changed)) | led_on


def _service_ports(keys: Iterable[EntryKey]) -> set[tuple[Family, int]]:
    return {(set_spec.family, service_port_of(set_spec, key)) for set_spec, key in keys}


def _moved_lists(delta: Delta[EntryKey, Value]) -> set[tuple[Family, int]]:
    """The service-ports, by family and id, of which a list ends, or is balanced in another way from now on.

    Not those of which a list gets longer or shorter: for these the chains fall back to the first slot.
    """
    ended = [
        (set_spec, key)
        for set_spec, key in delta.removed
        if set_spec is LAYOUTS[set_spec.family].endpoints and key.endswith(_FIRST_SLOT)
    ]
    moved = [
        (set_spec, key)
        for set_spec, key in (*delta.removed, *delta.changed)
        if set_spec is LAYOUTS[set_spec.family].lists
    ]
    return _service_ports((*ended, *moved))


def _added(delta: Delta[EntryKey, Value]) -> dict[EntryKey, Value]:
    return delta.added | {key: change.after for key, change in delta.changed.items()}


def _grouped(entries: Mapping[EntryKey, Value], families: Sequence[Family]) -> Groups:
    groups = text.group(entries)
    return [
        (set_spec, text.in_order(set_spec, groups[set_spec]))
        for set_spec in sorted(groups, key=lambda set_spec: (set_spec.ip, set_spec.rank))
        if set_spec.family in families and not set_spec.is_chains
    ]


def _in_parts(change: type[AddElements | DeleteElements], groups: Groups) -> Iterator[Change]:
    """Changes that fit into one message each."""
    return (change(set_spec, part) for set_spec, elements in groups for part in chunks(elements))


def _new_chains(
    family: Family, delta: Delta[EntryKey, Value], table: LiveTable, base_chains: BaseChains
) -> Iterator[Change]:
    """Chains that no packet meets before something leads to them; their rules may name each other."""
    chains = [chain for chain in _chains(family, delta.added, base_chains) if not chain.declaration]
    if chains:
        yield AddChains(family, tuple(chains))
    for chain in chains:
        yield WriteRules(family, chain, chain.name in table.fingerprints)


def _changed_chains(
    family: Family, delta: Delta[EntryKey, Value], table: LiveTable, base_chains: BaseChains
) -> Iterator[Change]:
    """The rules of chains that differ, and chains that hook into the kernel, to which nothing refers."""
    changed = _chains(family, delta.changed, base_chains)
    hooked = [chain for chain in _chains(family, delta.added, base_chains) if chain.declaration]
    for chain in changed:
        declaration = table.declarations.get(chain.name, b"")
        if chain.declaration or declaration:
            yield MoveHook(family, chain, declaration)
    if hooked:
        yield AddChains(family, tuple(hooked))
    for chain in sorted((*hooked, *changed), key=attrgetter("name")):
        yield WriteRules(family, chain, chain.name in table.fingerprints)


def _chains(family: Family, keys: Iterable[EntryKey], base_chains: BaseChains) -> list[Chain]:
    chains = LAYOUTS[family].chains
    return [
        chain_of(base_chains, name) for name in sorted(key.decode() for set_spec, key in keys if set_spec is chains)
    ]


def _foreign(family: Family, delta: Delta[EntryKey, Value], table: LiveTable) -> Iterator[Change]:
    """What is in the table beside rulegen's sets and chains."""
    layout = LAYOUTS[family]
    things = tuple(key.decode() for set_spec, key in delta.removed if set_spec is layout.foreign)
    if things:
        chains = tuple(sorted(key.decode() for set_spec, key in delta.removed if set_spec is layout.chains))
        yield DeleteForeign(family, tuple((thing, table.foreign[thing]) for thing in things), chains)


def _unneeded_chains(family: Family, delta: Delta[EntryKey, Value], table: LiveTable) -> Iterator[Change]:
    """Chains that nothing refers to any more."""
    chains = LAYOUTS[family].chains
    names = tuple(sorted(key.decode() for set_spec, key in delta.removed if set_spec is chains))
    if names:
        yield DeleteChains(family, names, tuple(name for name in names if name in table.fingerprints))


def chain_of(base_chains: BaseChains, name: str) -> Chain:
    """The chain `name`, of the fixed part or one of those that exist once for each number."""
    return balance_chain(base_chains.family, name) if is_balance_chain(name) else base_chains.chains[name]
