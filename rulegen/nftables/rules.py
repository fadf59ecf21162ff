"""Chains in the kernel's own encoding.

In: chains as text. Out: what the kernel holds when nft has loaded them, found out in a table that no packet meets
(dormant, and deleted at once), or derived from a chain that differs in one number only. So rules can be sent together
with elements, over netlink, in one transaction, and it is known beforehand as what they will be listed. nft itself
could not do that: version 1.0.6 refuses a rule with `dnat to ... map @m` once the map is in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.nftables import netlink
from rulegen.nftables.layout import IP_KEYWORD, TABLE
from rulegen.nftables.live import LiveTable, listing_digest
from rulegen.nftables.netlink import Connection
from rulegen.nftables.program import Program, balance_chain, balance_chain_text, is_balance_chain

WORKBENCH = f"{TABLE}-workbench"
_IN_FRONT = "-in-front"


class CompiledChain(NamedTuple):
    """A chain as the kernel lists it: the attributes of its hook (none without one), and its rules' expressions."""

    declaration: bytes
    rules: tuple[bytes, ...]

    @property
    def listed_as(self) -> str:
        """Names what the kernel holds."""
        return listing_digest(self.declaration, self.rules)


CompiledChains: TypeAlias = Mapping[tuple[Family, str], CompiledChain]


def workbench_text(program: Program, names: Iterable[str]) -> str:
    """The program with the balance chains among `names`, as a table of another name that hooks into nothing."""
    ip = IP_KEYWORD[program.family]
    head, _, rest = program.text.partition(f"table {ip} {TABLE} {{\n")
    del head
    body = rest.rpartition("}\n")[0]
    chains = {"lb-1", *names}  # the program itself jumps to lb-1
    balance = "".join(balance_chain_text(program.family, name) for name in sorted(chains) if is_balance_chain(name))
    return (
        f"add table {ip} {WORKBENCH}\ndelete table {ip} {WORKBENCH}\n"
        f"table {ip} {WORKBENCH} {{\n\tflags dormant\n{body}{balance}}}\n"
    )


def compile_chains(
    connection: Connection, run_nft: Callable[[str], None], program: Program, names: Iterable[str]
) -> dict[str, CompiledChain]:
    """What becomes of the chains of the program, and of the balance chains among `names`."""
    run_nft(workbench_text(program, names))
    try:
        rules: dict[str, list[bytes]] = {}
        for rule in connection.rules(program.family, WORKBENCH):
            rules.setdefault(rule.chain, []).append(rule.expressions)
        return {
            chain.name: CompiledChain(chain.declaration, tuple(rules.get(chain.name, ())))
            for chain in connection.chains(program.family, WORKBENCH)
        }
    finally:
        connection.commit([netlink.delete_table(program.family, WORKBENCH)])


def derive_chain(table: LiveTable | None, family: Family, name: str) -> CompiledChain | None:
    """The chain `lb-N` or `pick-N` made from `lb-1` or `pick-1`, if that is in the kernel as it should be."""
    kind, _, number = name.rpartition("-")
    model = f"{kind}-1"
    if table is None or kind not in {"lb", "pick"}:
        return None
    known = table.fingerprints.get(model)
    rules = table.rules.get(model, [])
    intact = known is not None and rules and known.loaded_as == table.listed_as.get(model)
    if known is None or not intact or known.loaded_from != balance_chain(family, model).digest:
        return None
    return CompiledChain(b"", (netlink.with_modulus(rules[0], int(number)), *rules[1:]))


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
        netlink.new_chain(family, TABLE, copy, netlink.one_step_earlier(chains[name])) for name, copy in copies.items()
    ]
    if found:
        found += (
            netlink.new_rule(family, TABLE, copies[rule.chain], rule.expressions)
            for rule in connection.rules(family, TABLE)
            if rule.chain in copies
        )
    return found
