"""A Delta becomes one transaction: commands in an order in which each refers only to what is there.

In: the Delta, the live tables and the programs. Out: the commands as netlink messages, and as text for people. Sends
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

from rulegen.config import Family
from rulegen.nftables import messages as netlink
from rulegen.nftables import text
from rulegen.nftables.base_chains import Chain, Program, balance_chain, is_balance_chain
from rulegen.nftables.layout import (
    IP_KEYWORD,
    LAYOUTS,
    TABLE,
    Container,
    EntryKey,
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

    program: Program
    entries: Mapping[Container, Mapping[bytes, Value]]

    def frame(self) -> Iterator[Change]:
        """The table, its sets, and the chains that no packet meets before it meets those of `hooks`.

        Rules come before elements: one that is added while its map is full costs the kernel a walk over the map.
        """
        yield NewTable(self.program)
        yield from self._write([chain for chain in self._chains if not chain.declaration])

    def elements(self) -> Iterator[Change]:
        """All of them, in messages of bounded size."""
        for container in LAYOUTS[self.program.family].containers:
            if not container.is_chains:
                for part in chunks(list(self.entries.get(container, {}).items())):
                    yield AddElements(container, part)

    def hooks(self) -> Iterator[Change]:
        """The chains that packets meet."""
        yield from self._write([chain for chain in self._chains if chain.declaration])

    @property
    def chains(self) -> list[str]:
        """The names of all its chains."""
        return [name.decode() for name in self.entries.get(LAYOUTS[self.program.family].chains, {})]

    @property
    def _chains(self) -> Iterator[Chain]:
        return (chain_of(self.program, name) for name in self.chains)

    def _write(self, chains: Sequence[Chain]) -> Iterator[Change]:
        if chains:
            yield AddChains(self.program.family, tuple(chains))
        for chain in chains:
            yield WriteRules(self.program.family, chain, known=False)


@dataclass(frozen=True)
class NewTable:
    """Makes a table with its sets, all empty, and notes what they were declared from."""

    program: Program

    def __str__(self) -> str:
        """As nft would read it."""
        return f"add table {IP_KEYWORD[self.program.family]} {TABLE}, and its sets"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        """As netlink messages."""
        family = self.program.family
        table = compiled.tables[family]
        yield netlink.new_table(family, TABLE, table.comment)
        for number, declaration in enumerate(table.sets, 1):
            yield netlink.new_set(family, TABLE, number, declaration)
        note = text.fingerprint(SETS, self.program.schema, table.listed_as)
        yield netlink.add_elements(LAYOUTS[family].fingerprints, TABLE, [note])


@dataclass(frozen=True)
class DeleteTable:
    """Removes a table."""

    family: Family

    def __str__(self) -> str:
        """As nft would read it."""
        return f"delete table {IP_KEYWORD[self.family]} {TABLE}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        """As netlink messages."""
        yield netlink.delete_table(self.family, TABLE)


@dataclass(frozen=True)
class AddChains:
    """Makes chains, then their rules: these may name each other."""

    family: Family
    chains: tuple[Chain, ...]

    def __str__(self) -> str:
        """As nft would read it."""
        return f"add chain {IP_KEYWORD[self.family]} {TABLE} {', '.join(chain.name for chain in self.chains)}"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        """As netlink messages."""
        for chain in self.chains:
            yield netlink.new_chain(
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
        """As nft would read it."""
        hook = f" {{ {self.chain.declaration} }}" if self.chain.declaration else ""
        return f"add chain {IP_KEYWORD[self.family]} {TABLE} {self.chain.name}{hook}"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        """As netlink messages."""
        declaration = compiled.chains[self.family, self.chain.name].declaration
        if declaration != self.declaration:
            yield netlink.flush_chain(self.family, TABLE, self.chain.name)
            yield netlink.delete_chain(self.family, TABLE, self.chain.name)
            yield netlink.new_chain(self.family, TABLE, self.chain.name, declaration)


@dataclass(frozen=True)
class WriteRules:
    """Replaces the rules of a chain, and notes what it was loaded from. `known`: there is such a note already."""

    family: Family
    chain: Chain
    known: bool

    def __str__(self) -> str:
        """As nft would read it."""
        return f"flush chain {IP_KEYWORD[self.family]} {TABLE} {self.chain.name}, and add its rules"

    def messages(self, compiled: Compiled) -> Iterator[bytearray]:
        """As netlink messages."""
        chain = compiled.chains[self.family, self.chain.name]
        yield netlink.flush_chain(self.family, TABLE, self.chain.name)
        for rule in chain.rules:
            yield netlink.new_rule(self.family, TABLE, self.chain.name, rule)
        fingerprints = LAYOUTS[self.family].fingerprints
        note = text.fingerprint(self.chain.name, self.chain.digest, chain.listed_as)
        if self.known:
            yield netlink.delete_elements(fingerprints, TABLE, [note])
        yield netlink.add_elements(fingerprints, TABLE, [note])


@dataclass(frozen=True)
class DeleteChains:
    """Removes chains that nothing refers to but, perhaps, each other. `known`: those that are noted."""

    family: Family
    names: tuple[str, ...]
    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As nft would read it."""
        return f"delete chain {IP_KEYWORD[self.family]} {TABLE} {', '.join(self.names)}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        """As netlink messages."""
        for name in self.names:
            yield netlink.flush_chain(self.family, TABLE, name)
        for name in self.names:
            yield netlink.delete_chain(self.family, TABLE, name)
        if self.known:
            notes = [text.fingerprint(name, "") for name in self.known]
            yield netlink.delete_elements(LAYOUTS[self.family].fingerprints, TABLE, notes)


@dataclass(frozen=True)
class DeleteForeign:
    """Removes what others have put into the table, and empties their `chains`, whose rules may refer to it.

    `things`: by kind and name, with the kernel's number of the kind.
    """

    family: Family
    things: tuple[tuple[str, int], ...]
    chains: tuple[str, ...]

    def __str__(self) -> str:
        """As nft would read it."""
        table = f"{IP_KEYWORD[self.family]} {TABLE}"
        return ", ".join(f"delete {kind} {table} {name}" for kind, name, _ in self._split())

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        """As netlink messages: elements of sets refer to objects, rules to all of them."""
        for name in self.chains:
            yield netlink.flush_chain(self.family, TABLE, name)
        others = []
        for kind, name, number in self._split():
            if kind in SET_WORDS:
                yield netlink.delete_set(self.family, TABLE, name)
            elif kind == FLOWTABLE_WORD:
                others.append(netlink.delete_flowtable(self.family, TABLE, name))
            else:
                others.append(netlink.delete_object(self.family, TABLE, number, name))
        yield from others

    def _split(self) -> Iterator[tuple[str, str, int]]:
        for thing, number in self.things:
            kind, _, name = thing.rpartition(" ")
            yield kind, name, number


@dataclass(frozen=True)
class AddElements:
    """Adds elements to a set or map."""

    container: Container
    elements: Elements

    def __str__(self) -> str:
        """As nft would read it."""
        return f"add element {self.container.ip} {TABLE} {self.container.name} {_braces(self.container, self.elements)}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        """As netlink messages."""
        yield netlink.add_elements(self.container, TABLE, self.elements)


@dataclass(frozen=True)
class DeleteElements:
    """Removes elements from a set or map."""

    container: Container
    elements: Elements

    def __str__(self) -> str:
        """As nft would read it."""
        elements = _braces(self.container, self.elements)
        return f"delete element {self.container.ip} {TABLE} {self.container.name} {elements}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        """As netlink messages."""
        yield netlink.delete_elements(self.container, TABLE, self.elements)


def _braces(container: Container, elements: Elements) -> str:
    first = element_text(container, *elements[0])
    return f"{{ {first}{', ...' if len(elements) > 1 else ''} }}"


@dataclass(frozen=True)
class RetimeClient:
    """Gives a remembered client the time that it has left under another timeout."""

    client: Client

    def __str__(self) -> str:
        """As nft would read it."""
        affinity = LAYOUTS[self.client.family].affinity
        return f"delete element {affinity.ip} {TABLE} {affinity.name} {{ {key_text(affinity, self.client.key)} }}"

    def messages(self, _: Compiled) -> Iterator[bytearray]:
        """As netlink messages."""
        client = self.client
        affinity = LAYOUTS[client.family].affinity
        yield netlink.delete_elements(affinity, TABLE, [(client.key, client.value)])
        if client.left is not None:
            times = (client.timeout, client.left)
            yield netlink.add_expiring_element(affinity, TABLE, (client.key, client.value), times)


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

    programs: Mapping[Family, Program]
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
            yield from ((table.program.family, name) for name in table.chains)
        for change in (*self.additions, *self.changes):
            if isinstance(change, WriteRules):
                yield change.family, change.chain.name


def messages(changes: Iterable[Change], compiled: Compiled) -> Iterator[tuple[Change, bytearray]]:
    """Changes as netlink messages, each with what it is part of."""
    for change in changes:
        for message in change.messages(compiled):
            yield change, message


def plan(
    delta: Delta[EntryKey, Value],
    live: Live,
    programs: Mapping[Family, Program],
    desired: Mapping[EntryKey, Value] | None = None,
    clients: Sequence[Client] = (),
) -> Transaction:
    """The transaction for a Delta.

    `desired`, all entries, is needed only where a table must be made anew: when there is none, or one whose sets are
    declared differently. `clients`: records whose timeout the Delta changes (`Kernel.clients`).
    """
    replaced = [family for family, program in programs.items() if not _has_schema(live, program)]
    groups = text.group(desired or {}) if replaced else {}
    tables = tuple(ReplaceTable(programs[family], groups) for family in replaced)
    kept = [family for family in programs if family not in replaced]
    additions: list[Change] = []
    changes: list[Change] = [DeleteTable(family) for family in live.tables if family not in programs]
    removals: list[Change] = []
    is_handover = False
    for family in kept:
        additions += _new_chains(family, delta, live.tables[family], programs[family])
        changes += _changed_chains(family, delta, live.tables[family], programs[family])
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
    return Transaction(programs, tables, tuple(additions), tuple(changes), tuple(removals), is_handover)


def _has_schema(live: Live, program: Program) -> bool:
    table = live.tables.get(program.family)
    return table is not None and table.schema == program.schema


Groups: TypeAlias = list[tuple[Container, Elements]]


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
        (container.family, id_of(change.before.data))
        for (container, _), change in delta.changed.items()
        if container in {LAYOUTS[container.family].frontends, LAYOUTS[container.family].nodeports}
        and id_of(change.after.data)
    }
    return _service_ports((*delta.added, *delta.changed)) | led_on


def _service_ports(keys: Iterable[EntryKey]) -> set[tuple[Family, int]]:
    return {(container.family, service_port_of(container, key)) for container, key in keys}


def _moved_lists(delta: Delta[EntryKey, Value]) -> set[tuple[Family, int]]:
    """The service-ports, by family and id, of which a list ends, or is balanced in another way from now on.

    Not those of which a list gets longer or shorter: for these the chains fall back to the first slot.
    """
    ended = [
        (container, key)
        for container, key in delta.removed
        if container is LAYOUTS[container.family].endpoints and key.endswith(_FIRST_SLOT)
    ]
    moved = [
        (container, key)
        for container, key in (*delta.removed, *delta.changed)
        if container is LAYOUTS[container.family].lists
    ]
    return _service_ports((*ended, *moved))


def _added(delta: Delta[EntryKey, Value]) -> dict[EntryKey, Value]:
    return delta.added | {key: change.after for key, change in delta.changed.items()}


def _grouped(entries: Mapping[EntryKey, Value], families: Sequence[Family]) -> Groups:
    groups = text.group(entries)
    return [
        (container, text.in_order(container, groups[container]))
        for container in sorted(groups, key=lambda container: (container.ip, container.rank))
        if container.family in families and not container.is_chains
    ]


def _in_parts(change: type[AddElements | DeleteElements], groups: Groups) -> Iterator[Change]:
    """Changes that fit into one message each."""
    return (change(container, part) for container, elements in groups for part in chunks(elements))


def _new_chains(family: Family, delta: Delta[EntryKey, Value], table: LiveTable, program: Program) -> Iterator[Change]:
    """Chains that no packet meets before something leads to them; their rules may name each other."""
    chains = [chain for chain in _chains(family, delta.added, program) if not chain.declaration]
    if chains:
        yield AddChains(family, tuple(chains))
    for chain in chains:
        yield WriteRules(family, chain, chain.name in table.fingerprints)


def _changed_chains(
    family: Family, delta: Delta[EntryKey, Value], table: LiveTable, program: Program
) -> Iterator[Change]:
    """The rules of chains that differ, and chains that hook into the kernel, to which nothing refers."""
    changed = _chains(family, delta.changed, program)
    hooked = [chain for chain in _chains(family, delta.added, program) if chain.declaration]
    for chain in changed:
        declaration = table.declarations.get(chain.name, b"")
        if chain.declaration or declaration:
            yield MoveHook(family, chain, declaration)
    if hooked:
        yield AddChains(family, tuple(hooked))
    for chain in sorted((*hooked, *changed), key=attrgetter("name")):
        yield WriteRules(family, chain, chain.name in table.fingerprints)


def _chains(family: Family, keys: Iterable[EntryKey], program: Program) -> list[Chain]:
    chains = LAYOUTS[family].chains
    return [chain_of(program, name) for name in sorted(key.decode() for container, key in keys if container is chains)]


def _foreign(family: Family, delta: Delta[EntryKey, Value], table: LiveTable) -> Iterator[Change]:
    """What is in the table beside rulegen's sets and chains."""
    layout = LAYOUTS[family]
    things = tuple(key.decode() for container, key in delta.removed if container is layout.foreign)
    if things:
        chains = tuple(sorted(key.decode() for container, key in delta.removed if container is layout.chains))
        yield DeleteForeign(family, tuple((thing, table.foreign[thing]) for thing in things), chains)


def _unneeded_chains(family: Family, delta: Delta[EntryKey, Value], table: LiveTable) -> Iterator[Change]:
    """Chains that nothing refers to any more."""
    chains = LAYOUTS[family].chains
    names = tuple(sorted(key.decode() for container, key in delta.removed if container is chains))
    if names:
        yield DeleteChains(family, names, tuple(name for name in names if name in table.fingerprints))


def chain_of(program: Program, name: str) -> Chain:
    """The chain `name`, of the program or one of those that exist once for each number."""
    return balance_chain(program.family, name) if is_balance_chain(name) else program.chains[name]
