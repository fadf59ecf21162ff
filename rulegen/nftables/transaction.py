"""A Delta becomes one transaction: commands in an order in which each refers only to what is there.

In: the Delta, the live tables and the programs. Out: the commands, as text for nft and as netlink messages. Sends
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rulegen.config import Family
from rulegen.nftables import netlink, text
from rulegen.nftables.affinity import Client
from rulegen.nftables.layout import (
    IP_KEYWORD,
    LAYOUTS,
    TABLE,
    Container,
    EntryKey,
    Value,
    element_text,
    key_text,
)
from rulegen.nftables.live import Live, LiveTable
from rulegen.nftables.netlink import chunks
from rulegen.nftables.program import Chain, Program, balance_chain, is_balance_chain
from rulegen.nftables.rules import CompiledChains
from rulegen.ruleset import Delta

Elements = list[tuple[bytes, Value]]


@dataclass(frozen=True)
class ReplaceTable:
    """Makes a table anew with all its entries; an old one goes in the same transaction. Only nft can load it."""

    program: Program
    entries: Mapping[Container, Mapping[bytes, Value]]

    def lines(self, compiled: CompiledChains) -> Iterator[str]:
        """As nft reads it."""
        family = self.program.family
        listed_as = {name: chain.listed_as for (of_family, name), chain in compiled.items() if of_family is family}
        return text.render_table(self.program, self.entries, listed_as)


@dataclass(frozen=True)
class DeleteTable:
    """Removes a table."""

    family: Family

    def __str__(self) -> str:
        """As nft would read it."""
        return f"delete table {IP_KEYWORD[self.family]} {TABLE}"

    def messages(self, _: CompiledChains) -> Iterator[bytearray]:
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

    def messages(self, compiled: CompiledChains) -> Iterator[bytearray]:
        """As netlink messages."""
        for chain in self.chains:
            yield netlink.new_chain(self.family, TABLE, chain.name, compiled[self.family, chain.name].declaration)


@dataclass(frozen=True)
class WriteRules:
    """Replaces the rules of a chain, and notes what it was loaded from. `known`: there is such a note already."""

    family: Family
    chain: Chain
    known: bool

    def __str__(self) -> str:
        """As nft would read it."""
        return f"flush chain {IP_KEYWORD[self.family]} {TABLE} {self.chain.name}, and add its rules"

    def messages(self, compiled: CompiledChains) -> Iterator[bytearray]:
        """As netlink messages."""
        chain = compiled[self.family, self.chain.name]
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

    def messages(self, _: CompiledChains) -> Iterator[bytearray]:
        """As netlink messages."""
        for name in self.names:
            yield netlink.flush_chain(self.family, TABLE, name)
        for name in self.names:
            yield netlink.delete_chain(self.family, TABLE, name)
        if self.known:
            notes = [text.fingerprint(name, "") for name in self.known]
            yield netlink.delete_elements(LAYOUTS[self.family].fingerprints, TABLE, notes)


@dataclass(frozen=True)
class AddElements:
    """Adds elements to a set or map."""

    container: Container
    elements: Elements

    def __str__(self) -> str:
        """As nft would read it."""
        return f"add element {self.container.ip} {TABLE} {self.container.name} {_braces(self.container, self.elements)}"

    def messages(self, _: CompiledChains) -> Iterator[bytearray]:
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

    def messages(self, _: CompiledChains) -> Iterator[bytearray]:
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

    def messages(self, _: CompiledChains) -> Iterator[bytearray]:
        """As netlink messages."""
        client = self.client
        affinity = LAYOUTS[client.family].affinity
        yield netlink.delete_elements(affinity, TABLE, [(client.key, client.value)])
        if client.left is not None:
            times = (client.timeout, client.left)
            yield netlink.add_expiring_element(affinity, TABLE, (client.key, client.value), times)


Change: TypeAlias = DeleteTable | AddChains | WriteRules | DeleteChains | AddElements | DeleteElements | RetimeClient


@dataclass(frozen=True)
class Transaction:
    """What is applied together or not at all.

    Tables to be made anew are loaded by nft; all other changes are netlink messages. Where both are needed, because
    only one family's table can be kept, they are two transactions: a packet meets only one family's table. `removals`
    are chains that nothing refers to after `changes`.
    """

    programs: Mapping[Family, Program]
    tables: tuple[ReplaceTable, ...] = ()
    changes: tuple[Change, ...] = ()
    removals: tuple[Change, ...] = ()

    def chains(self) -> Iterator[tuple[Family, str]]:
        """The chains whose rules must be compiled for it."""
        for table in self.tables:
            chains = table.entries.get(LAYOUTS[table.program.family].chains, {})
            yield from ((table.program.family, name.decode()) for name in chains)
        for change in self.changes:
            if isinstance(change, WriteRules):
                yield change.family, change.chain.name

    def messages(self, compiled: CompiledChains) -> Iterator[tuple[Change, bytearray]]:
        """The changes as netlink messages, each with what it is part of."""
        return _messages(self.changes, compiled)

    def removal_messages(self, compiled: CompiledChains) -> Iterator[tuple[Change, bytearray]]:
        """The removals as netlink messages, likewise."""
        return _messages(self.removals, compiled)


def _messages(changes: Iterable[Change], compiled: CompiledChains) -> Iterator[tuple[Change, bytearray]]:
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
    changes: list[Change] = [DeleteTable(family) for family in live.tables if family not in programs]
    removed, added = _elements(delta, kept)
    for family in kept:
        changes += _chain_changes(family, delta, live.tables[family], programs[family])
    changes += (DeleteElements(container, part) for container, elements in removed for part in chunks(elements))
    changes += (AddElements(container, part) for container, elements in added for part in chunks(elements))
    changes += (RetimeClient(client) for client in clients if client.family in kept)
    removals = [removal for family in kept for removal in _chain_removals(family, delta, live.tables[family])]
    return Transaction(programs, tables, tuple(changes), tuple(removals))


def _has_schema(live: Live, program: Program) -> bool:
    table = live.tables.get(program.family)
    return table is not None and table.schema == program.schema


def _elements(
    delta: Delta[EntryKey, Value], families: Iterable[Family]
) -> tuple[list[tuple[Container, Elements]], list[tuple[Container, Elements]]]:
    """What to remove and what to add; a value that changes is removed and added."""
    wanted = set(families)
    removed = delta.removed | {key: change.before for key, change in delta.changed.items()}
    added = delta.added | {key: change.after for key, change in delta.changed.items()}
    return _grouped(removed, wanted), _grouped(added, wanted)


def _grouped(entries: Mapping[EntryKey, Value], families: set[Family]) -> list[tuple[Container, Elements]]:
    groups = text.group(entries) if families else {}
    return [
        (container, text.in_order(container, groups[container]))
        for container in sorted(groups, key=lambda container: (container.ip, container.rank))
        if container.family in families and not container.is_chains
    ]


def _chain_changes(
    family: Family, delta: Delta[EntryKey, Value], table: LiveTable, program: Program
) -> Iterator[Change]:
    """New chains, then the rules of those that differ: rules may jump to a new chain, and they come before elements.

    A chain that hooks into the kernel is made anew when it differs, as its hook may be wrong too; nothing refers to it.
    """
    chains = LAYOUTS[family].chains
    added = sorted(key.decode() for container, key in delta.added if container is chains)
    changed = sorted(key.decode() for container, key in delta.changed if container is chains)
    rehooked = tuple(name for name in changed if chain_of(program, name).declaration)
    if rehooked:
        yield DeleteChains(family, rehooked)
    if added or rehooked:
        yield AddChains(family, tuple(chain_of(program, name) for name in sorted((*added, *rehooked))))
    for name in sorted((*added, *changed)):
        yield WriteRules(family, chain_of(program, name), name in table.fingerprints)


def _chain_removals(family: Family, delta: Delta[EntryKey, Value], table: LiveTable) -> Iterator[Change]:
    """Chains that nothing needs any more, after the elements that referred to them."""
    chains = LAYOUTS[family].chains
    names = tuple(sorted(key.decode() for container, key in delta.removed if container is chains))
    if names:
        yield DeleteChains(family, names, tuple(name for name in names if name in table.fingerprints))


def chain_of(program: Program, name: str) -> Chain:
    """The chain `name`, of the program or one of those that exist once for each number."""
    return balance_chain(program.family, name) if is_balance_chain(name) else program.chains[name]
