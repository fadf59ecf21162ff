"""Chains in the kernel's own encoding.

In: the fixed part as text, and a table that nft made of it. Out: what the kernel holds of it, or derived from a chain
that differs in one number only. So sets and rules can be sent together with elements, over netlink, in one transaction,
and it is known beforehand as what they will be listed. nft itself could not do that: version 1.0.6 refuses a rule with
`dnat to ... map @m` once the map is in the kernel. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rulegen.config import Family
from rulegen.nftables import messages
from rulegen.nftables.base_chains import BaseChains, balance_chain, balance_chain_text, is_balance_chain
from rulegen.nftables.layout import IP_KEYWORD, TABLE
from rulegen.nftables.live import LiveTable, declarations_digest, listing_digest
from rulegen.nftables.messages import Connection

SCRATCH_TABLE = f"{TABLE}-scratch"
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


@dataclass(frozen=True)
class Compiled:
    """What transactions are made of that only nft can make: chains by family and name, tables by family."""

    chains: Mapping[tuple[Family, str], CompiledChain]
    tables: Mapping[Family, CompiledTable]


def scratch_table_text(base_chains: BaseChains, names: Iterable[str]) -> str:
    """The fixed part with the balance chains among `names`, as a table of another name that hooks into nothing."""
    ip = IP_KEYWORD[base_chains.family]
    head, _, rest = base_chains.text.partition(f"table {ip} {TABLE} {{\n")
    del head
    body = rest.rpartition("}\n")[0]
    chains = {"lb-1", *names}  # the fixed part itself jumps to lb-1
    balance = "".join(balance_chain_text(base_chains.family, name) for name in sorted(chains) if is_balance_chain(name))
    return (
        f"add table {ip} {SCRATCH_TABLE}\ndelete table {ip} {SCRATCH_TABLE}\n"
        f"table {ip} {SCRATCH_TABLE} {{\n\tflags dormant\n{body}{balance}}}\n"
    )


def read_scratch_table(connection: Connection, family: Family) -> tuple[CompiledTable, dict[str, CompiledChain]]:
    """What has become of a scratch table's text. Raises InterruptedDumpError, KernelError."""
    rules: dict[str, list[bytes]] = {}
    for rule in connection.rules(family, SCRATCH_TABLE):
        rules.setdefault(rule.chain, []).append(rule.expressions)
    chains = {
        chain.name: CompiledChain(chain.declaration, tuple(rules.get(chain.name, ())))
        for chain in connection.chains(family, SCRATCH_TABLE)
    }
    table = connection.table(family, SCRATCH_TABLE)
    sets = tuple(info.declaration for info in connection.sets(family, SCRATCH_TABLE))
    return CompiledTable(table.comment_attribute if table else b"", sets), chains


def model_of(name: str) -> str | None:
    """The chain from which one of those that stand once for each number is made; None for any other."""
    kind = name.rpartition("-")[0]
    return f"{kind}-1" if kind in {"lb", "pick"} and is_balance_chain(name) else None


def live_model(table: LiveTable | None, family: Family, name: str) -> CompiledChain | None:
    """The chain `lb-1` or `pick-1`, if it is in the kernel as it should be."""
    if table is None:
        return None
    known = table.fingerprints.get(name)
    rules = table.rules.get(name, [])
    intact = known is not None and rules and known.loaded_as == table.listed_as.get(name)
    if known is None or not intact or known.loaded_from != balance_chain(family, name).digest:
        return None
    return CompiledChain(b"", tuple(rules))


def derive_chain(model: CompiledChain, name: str) -> CompiledChain:
    """The chain `lb-N` or `pick-N`, made from the one for 1."""
    first, *others = model.rules
    return CompiledChain(b"", (messages.with_modulus(first, int(name.rpartition("-")[2])), *others))


def hooks_in_front(connection: Connection, family: Family) -> list[bytearray]:
    """Messages that hook in a second time, one step earlier, all that rulegen's table hooks in, whatever that is.

    None for a hook that has its copy already, from an attempt that went no further.
    """
    chains = {chain.name: chain.declaration for chain in connection.chains(family, TABLE) if chain.declaration}
    copies = {
        name: f"{name}{_IN_FRONT}"
        for name in chains
        if not name.endswith(_IN_FRONT) and f"{name}{_IN_FRONT}" not in chains
    }
    found = [
        messages.new_chain(family, TABLE, copy, messages.one_step_earlier(chains[name]))
        for name, copy in copies.items()
    ]
    if found:
        found += (
            messages.new_rule(family, TABLE, copies[rule.chain], rule.expressions)
            for rule in connection.rules(family, TABLE)
            if rule.chain in copies
        )
    return found
