"""A Delta becomes one transaction: commands in an order in which each refers only to what is there.

In: the Delta, the live tables and the programs. Out: the commands, as text for nft and as netlink messages. Sends
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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
    data_text,
    element_text,
    key_text,
)
from rulegen.nftables.live import Live, LiveTable, listing_digest
from rulegen.nftables.program import Chain, Program, balance_chain, is_balance_chain
from rulegen.ruleset import Delta

Elements = list[tuple[bytes, Value]]


@dataclass(frozen=True)
class ReplaceTable:
    """Makes a table anew with all its entries; an old one goes in the same transaction."""

    program: Program
    entries: Mapping[Container, Mapping[bytes, Value]]

    def lines(self) -> Iterator[str]:
        """As nft reads it."""
        return text.render_table(self.program, self.entries)


@dataclass(frozen=True)
class DeleteTable:
    """Removes a table."""

    family: Family

    def lines(self) -> Iterator[str]:
        """As nft reads it."""
        yield f"delete table {IP_KEYWORD[self.family]} {TABLE}\n"


@dataclass(frozen=True)
class AddChain:
    """Makes a chain with its rules. `like`: the rules of the chain for number 1, from which this one can be made."""

    family: Family
    chain: Chain
    like: tuple[bytes, ...] = ()

    def lines(self) -> Iterator[str]:
        """As nft reads it."""
        ip = IP_KEYWORD[self.family]
        declaration = f" {{ {self.chain.declaration} }}" if self.chain.declaration else ""
        yield f"add chain {ip} {TABLE} {self.chain.name}{declaration}\n"
        for rule in self.chain.rules:
            yield f"add rule {ip} {TABLE} {self.chain.name} {rule}\n"

    @property
    def rules(self) -> list[bytes]:
        """The rules as the kernel will list them: those of the chain for number 1, the first with its own number."""
        number = int(self.chain.name.rpartition("-")[2])
        return [netlink.with_modulus(self.like[0], number), *self.like[1:]]

    def messages(self) -> Iterator[bytearray]:
        """As netlink messages; only with `like`."""
        yield netlink.new_chain(self.family, TABLE, self.chain.name)
        for rule in self.rules:
            yield netlink.new_rule(self.family, TABLE, self.chain.name, rule)


@dataclass(frozen=True)
class RewriteChain:
    """Replaces the rules of a chain; one that hooks into the kernel is made anew, as its hook may be wrong too."""

    family: Family
    chain: Chain

    def lines(self) -> Iterator[str]:
        """As nft reads it."""
        ip = IP_KEYWORD[self.family]
        if self.chain.declaration:
            yield f"delete chain {ip} {TABLE} {self.chain.name}\n"
        else:
            yield f"flush chain {ip} {TABLE} {self.chain.name}\n"
        yield from AddChain(self.family, self.chain).lines()


@dataclass(frozen=True)
class DeleteChains:
    """Removes chains that nothing refers to but, perhaps, each other."""

    family: Family
    names: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """As nft reads it."""
        ip = IP_KEYWORD[self.family]
        for name in self.names:
            yield f"flush chain {ip} {TABLE} {name}\n"
        for name in self.names:
            yield f"delete chain {ip} {TABLE} {name}\n"

    def messages(self) -> Iterator[bytearray]:
        """As netlink messages; deleting a chain that no rule refers to takes its rules along."""
        for name in self.names:
            yield netlink.delete_chain(self.family, TABLE, name)


@dataclass(frozen=True)
class AddElements:
    """Adds elements to a set or map."""

    container: Container
    elements: Elements

    def lines(self) -> Iterator[str]:
        """As nft reads it, an element a command: what the kernel refuses is then named by itself."""
        for key, value in self.elements:
            element = element_text(self.container, key, value)
            yield f"add element {self.container.ip} {TABLE} {self.container.name} {{ {element} }}\n"

    def messages(self) -> Iterator[bytearray]:
        """As netlink messages."""
        for part in netlink.chunks(self.elements):
            yield netlink.add_elements(self.container, TABLE, part)


@dataclass(frozen=True)
class DeleteElements:
    """Removes elements from a set or map."""

    container: Container
    elements: Elements

    def lines(self) -> Iterator[str]:
        """As nft reads it."""
        for key, _ in self.elements:
            element = key_text(self.container, key)
            yield f"delete element {self.container.ip} {TABLE} {self.container.name} {{ {element} }}\n"

    def messages(self) -> Iterator[bytearray]:
        """As netlink messages."""
        for part in netlink.chunks(self.elements):
            yield netlink.delete_elements(self.container, TABLE, part)


@dataclass(frozen=True)
class RetimeClients:
    """Gives remembered clients the time that they have left under another timeout."""

    clients: tuple[Client, ...]

    def lines(self) -> Iterator[str]:
        """As nft reads it."""
        for client in self.clients:
            affinity = LAYOUTS[client.family].affinity
            name = f"{affinity.ip} {TABLE} {affinity.name}"
            key, data = key_text(affinity, client.key), data_text(affinity, client.value.data)
            yield f"delete element {name} {{ {key} }}\n"
            if client.left is not None:
                times = f"timeout {client.timeout}ms expires {client.left}ms"
                yield f"add element {name} {{ {key} {times} : {data} }}\n"

    def messages(self) -> Iterator[bytearray]:
        """As netlink messages."""
        for client in self.clients:
            affinity = LAYOUTS[client.family].affinity
            entry = (client.key, client.value)
            yield netlink.delete_elements(affinity, TABLE, [entry])
            if client.left is not None:
                yield netlink.add_expiring_element(affinity, TABLE, entry, (client.timeout, client.left))


Command = (
    ReplaceTable | DeleteTable | AddChain | RewriteChain | DeleteChains | AddElements | DeleteElements | RetimeClients
)


@dataclass(frozen=True)
class Transaction:
    """Commands that are applied together or not at all."""

    commands: list[Command] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The commands as nft reads them, line by line."""
        for command in self.commands:
            yield from command.lines()

    def messages(self) -> list[tuple[Command, bytearray]] | None:
        """The commands as netlink messages, None when one of them holds rules that only nft can compile."""
        found: list[tuple[Command, bytearray]] = []
        for command in self.commands:
            if isinstance(command, ReplaceTable | DeleteTable | RewriteChain):
                return None
            if isinstance(command, AddChain) and not command.like:
                return None
            if isinstance(command, AddElements | DeleteElements) and not _fits_netlink(command.container):
                return None
            found += ((command, message) for message in command.messages())
        return found


def _fits_netlink(container: Container) -> bool:
    """Interval sets of one field are written as bounds; their few elements change with the node only: left to nft."""
    return not (container.interval and len(container.key) == 1)


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
    replaced = {family for family, program in programs.items() if not _has_schema(live, program)}
    commands: list[Command] = [DeleteTable(family) for family in live.tables if family not in programs]
    if replaced:
        groups = text.group(desired or {})
        commands += (ReplaceTable(programs[family], groups) for family in programs if family in replaced)
    kept = [family for family in programs if family not in replaced]
    removed, added = _elements(delta, kept)
    for family in kept:
        commands += _chain_changes(family, delta, live.tables[family], programs[family])
    commands += (DeleteElements(container, elements) for container, elements in removed)
    commands += (AddElements(container, elements) for container, elements in added)
    if clients:
        commands.append(RetimeClients(tuple(clients)))
    for family in kept:
        commands += _chain_removals(family, delta, live.tables[family])
    return Transaction(commands)


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
    groups = text.group(entries)
    return [
        (container, text.in_order(container, groups[container]))
        for container in sorted(groups, key=lambda container: (container.ip, container.rank))
        if container.family in families and not container.is_chains
    ]


def _chain_changes(
    family: Family, delta: Delta[EntryKey, Value], table: LiveTable, program: Program
) -> Iterator[Command]:
    """New chains, then the rules of those that differ: rules may jump to a new chain, and they come before elements."""
    chains = LAYOUTS[family].chains
    added = [key.decode() for container, key in delta.added if container is chains]
    changed = [key.decode() for container, key in delta.changed if container is chains]
    if not added and not changed:
        return
    found = {name: chain_of(program, name) for name in sorted([*added, *changed])}
    # Rules of two new chains may name each other, so bare chains come first, where nft compiles them.
    adds = [AddChain(family, found[name], _like(table, name)) for name in sorted(added)]
    for add in adds:
        if not add.like and not add.chain.declaration:
            yield AddChain(family, Chain(add.chain.name, f"\tchain {add.chain.name} {{\n\t}}\n"))
    yield from adds
    for name in sorted(changed):
        yield RewriteChain(family, found[name])
    known = {add.chain.name: listing_digest(b"", add.rules) for add in adds if add.like}
    for name, chain in found.items():
        yield from _remember(table, family, chain, known.get(name, ""))


def _remember(table: LiveTable, family: Family, chain: Chain, loaded_as: str) -> Iterator[Command]:
    fingerprints = LAYOUTS[family].fingerprints
    key, value = text.fingerprint(chain.name, chain.digest, loaded_as)
    if chain.name in table.fingerprints:
        yield DeleteElements(fingerprints, [(key, value)])
    yield AddElements(fingerprints, [(key, value)])


def _like(table: LiveTable, name: str) -> tuple[bytes, ...]:
    """The intact rules of `lb-1` for an `lb-N`, of `pick-1` for a `pick-N`."""
    prefix = name.rpartition("-")[0]
    model = f"{prefix}-1"
    known = table.fingerprints.get(model)
    if prefix not in {"lb", "pick"} or known is None or known.loaded_as != table.listed_as.get(model):
        return ()
    if known.loaded_from != balance_chain(Family.IPV4, model).digest:
        known_six = balance_chain(Family.IPV6, model).digest
        if known.loaded_from != known_six:
            return ()
    return tuple(table.rules.get(model, ()))


def _chain_removals(family: Family, delta: Delta[EntryKey, Value], table: LiveTable) -> Iterator[Command]:
    """Chains that nothing needs any more, after the elements that referred to them."""
    layout = LAYOUTS[family]
    names = tuple(sorted(key.decode() for container, key in delta.removed if container is layout.chains))
    if names:
        yield DeleteChains(family, names)
        known = [text.fingerprint(name, "") for name in names if name in table.fingerprints]
        if known:
            yield DeleteElements(layout.fingerprints, known)


def chain_of(program: Program, name: str) -> Chain:
    """The chain `name`, of the program or one of those that exist once for each number."""
    return balance_chain(program.family, name) if is_balance_chain(name) else program.chains[name]
