"""Chains that another program has left, removed.

In: which chains they are. The rules are listed as `iptables-save` has them, in each variant and family. Out: one
`iptables-restore` for each table that holds such chains. All other rules stay, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from rulegen.config import Family
from rulegen.iptables import binaries
from rulegen.iptables.binaries import Variant
from rulegen.iptables.kernel import do_everywhere, remove_hidden
from rulegen.iptables.listing import list_tables
from rulegen.iptables.rules import parse_rule

_LOCK_SECONDS = 60


def remove_foreign_chains(is_chain: Callable[[str], bool], marker: str) -> list[str]:
    """Removes the chains and the jumps to them; says from which tables. `marker`: what all their names hold.

    Raises HostError without privileges, else UnseenError, after all the rest was done, when tables cannot be looked at,
    or not all could be removed.
    """

    def remove(variant: Variant, family: Family) -> Iterator[str]:
        for table in list_tables(variant, family, lambda _: False):
            remove_hidden(family, [table], lambda rule: is_chain(rule.target) and not is_chain(rule.chain))
            if commands := removal(table.lines, is_chain, marker):
                text = "\n".join([f"*{table.name}", *commands, "COMMIT", ""])
                binaries.restore(variant, family, text, wait=_LOCK_SECONDS)
                yield f"{binaries.NAME[family]}-{variant.value} {table.name}"

    return do_everywhere(Variant, is_chain, remove)


def has_foreign_chains(family: Family, is_chain: Callable[[str], bool]) -> bool:
    """Whether there are such chains in a variant whose programs are installed. Raises HostError."""
    return any(
        line.startswith(":") and is_chain(line[1:].split(" ")[0])
        for variant in Variant
        if binaries.installed(variant, family)
        for table in list_tables(variant, family, lambda _: False)
        for line in table.lines
    )


def removal(lines: list[str], is_chain: Callable[[str], bool], marker: str) -> list[str]:
    """What `iptables-restore --noflush` must be told to free one table, given as saved, of these chains."""
    chains = [line[1:].split(" ")[0] for line in lines if line.startswith(":")]
    doomed = [chain for chain in chains if is_chain(chain)]
    jumps = [line for line in lines if line.startswith("-A ") and _is_foreign_jump(line, set(doomed), marker)]
    return [
        *(f":{chain} - [0:0]" for chain in doomed),
        *(f"-D{line.removeprefix('-A')}" for line in jumps),
        *(f"-X {chain}" for chain in doomed),
    ]


def _is_foreign_jump(line: str, doomed: Collection[str], marker: str) -> bool:
    """Whether a rule of somebody else's chain leads to one of these; the text of a comment may look like it."""
    chain, _, rule = line[3:].partition(" ")
    return chain not in doomed and marker in rule and parse_rule(rule).target in doomed
