"""Chains in the kernel's own encoding.

In: the fixed part as text, and a table that nft made of it. Out: what the kernel holds of it, or derived from a chain
that differs in one number only. So sets and rules can be sent together with elements, over netlink, in one transaction,
and it is known beforehand as what they will be listed. nft itself could not do that: version 1.0.6 refuses a rule with
`dnat to ... map @m` once the map is in the kernel. Sends nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rulegen.netlink.nf_tables import SET_ANONYMOUS
from rulegen.nftables import messages
from rulegen.nftables.live import LiveTable, declarations_digest, listing_digest
from rulegen.nftables.messages import Connection
from rulegen.nftables.tables import BaseChains, Chain, TableSpec

_LOOKUP = re.compile(r"@([A-Za-z0-9._/-]+)")
_JUMP = re.compile(r"\b(?:jump|goto) ([A-Za-z0-9._/-]+)")
_IN_FRONT = "-in-front"


class CompiledChain(NamedTuple):
    """A chain as the kernel lists it: the attributes of its hook (none without one), and its rules' expressions."""

    declaration: bytes
    rules: tuple[bytes, ...]

    @property
    def listed_as(self) -> str:
        """Names what the kernel holds."""
        return listing_digest(self.declaration, self.rules)


class CompiledTable(NamedTuple):
    """A table without its chains as the kernel lists it: the attribute of its comment, its sets' declarations."""

    comment: bytes
    sets: tuple[bytes, ...]

    @property
    def listed_as(self) -> str:
        """Names the declarations."""
        return declarations_digest(self.sets)


class Scratch(NamedTuple):
    """What has become of the text of one table; `chains` and `sets` (those that come and go) by name."""

    table: CompiledTable
    chains: dict[str, CompiledChain]
    sets: dict[str, bytes]


@dataclass(frozen=True)
class Compiled:
    """What transactions are made of that only nft can make.

    Chains and sets that come and go by table and name, tables' fixed sets by table.
    """

    chains: Mapping[tuple[TableSpec, str], CompiledChain]
    tables: Mapping[TableSpec, CompiledTable]
    sets: Mapping[tuple[TableSpec, str], bytes]


class Names(NamedTuple):
    """What of a table is to be compiled besides its fixed text."""

    chains: Collection[str] = ()
    sets: Collection[str] = ()


def scratch_name(spec: TableSpec) -> str:
    """The table in which nft compiles what is to stand in another."""
    return f"{spec.name}-scratch"


def scratch_table_text(base_chains: BaseChains, names: Names) -> str:
    """The fixed part, with what comes and goes of these names, as a table of another name that hooks into nothing.

    Chains that are led to and not among these are there without rules, and sets that are looked up, too.
    """
    spec, generated = base_chains.spec, base_chains.generated
    name = f"{spec.ip} {scratch_name(spec)}"
    body = base_chains.text.partition(f"table {spec} {{\n")[2].rpartition("}\n")[0]
    chains = base_chains.generated_among({*generated.required, *names.chains})
    blocks = [generated.chain_text(one) for one in chains]
    looked_up, led_to = _referred("".join(blocks))
    stubs = [f"\tchain {one} {{\n\t}}\n" for one in sorted(led_to.difference(chains, base_chains.chains))]
    sets = [generated.set_text(one) for one in sorted({*names.sets, *looked_up.difference(spec.by_name)})]
    return (
        f"add table {name}\ndelete table {name}\ntable {name} {{\n\tflags dormant\n{body}"
        f"{''.join((*sets, *stubs, *blocks))}}}\n"
    )


def _referred(text: str) -> tuple[set[str], set[str]]:
    """The names of the sets and of the chains in rules."""
    rules = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return set(_LOOKUP.findall(rules)), set(_JUMP.findall(rules))


def read_scratch_table(connection: Connection, spec: TableSpec) -> Scratch:
    """What has become of a scratch table's text. Raises InterruptedDumpError, KernelError."""
    family, name = spec.family, scratch_name(spec)
    rules: dict[str, list[bytes]] = {}
    for rule in connection.rules(family, name):
        rules.setdefault(rule.chain, []).append(rule.expressions)
    chains = {
        chain.name: CompiledChain(chain.declaration, tuple(rules.get(chain.name, ())))
        for chain in connection.chains(family, name)
    }
    table = connection.table(family, name)
    sets = {info.name: info.declaration for info in connection.sets(family, name) if not info.flags & SET_ANONYMOUS}
    fixed = tuple(declaration for one, declaration in sets.items() if one in spec.by_name)
    others = {one: declaration for one, declaration in sets.items() if one not in spec.by_name}
    return Scratch(CompiledTable(table.comment_attribute if table else b"", fixed), chains, others)


def live_model(table: LiveTable | None, model: Chain) -> CompiledChain | None:
    """A chain without a hook, if it is in the kernel as it should be."""
    if table is None:
        return None
    known = table.fingerprints.get(model.name)
    rules = table.rules.get(model.name, [])
    intact = known is not None and rules and known.loaded_as == table.listed_as.get(model.name)
    if known is None or not intact or known.loaded_from != model.digest:
        return None
    return CompiledChain(b"", tuple(rules))


def derive_chain(model: CompiledChain, name: str) -> CompiledChain:
    """A chain that differs from its model by the modulus of the first `numgen`, the number at the end of its name."""
    first, *others = model.rules
    return CompiledChain(b"", (messages.with_modulus(first, int(name.rpartition("-")[2])), *others))


def hooks_in_front(connection: Connection, spec: TableSpec) -> list[bytearray]:
    """Messages that hook in a second time, one step earlier, all that a table hooks in, whatever that is.

    None for a hook that has its copy already, from an attempt that went no further.
    """
    family, table = spec.family, spec.name
    chains = {chain.name: chain.declaration for chain in connection.chains(family, table) if chain.declaration}
    copies = {
        name: f"{name}{_IN_FRONT}"
        for name in chains
        if not name.endswith(_IN_FRONT) and f"{name}{_IN_FRONT}" not in chains
    }
    found = [
        messages.new_chain(family, table, copy, messages.one_step_earlier(chains[name]))
        for name, copy in copies.items()
    ]
    if found:
        found += (
            messages.new_rule(family, table, copies[rule.chain], rule.expressions)
            for rule in connection.rules(family, table)
            if rule.chain in copies
        )
    return found
