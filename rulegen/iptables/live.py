"""What iptables-save prints of a table comes in, rulegen's chains as they are in the kernel go out. Pure.

Of the built-in chains, an entry holds the rules that rulegen put there, in their order; and a remark when another
program's rule before them keeps packets away.
"""

from __future__ import annotations

from collections.abc import Iterable

from rulegen.config import Family
from rulegen.iptables.base_chains import NAT, Entries, EntryKey, is_our_rule, target_of
from rulegen.iptables.names import PREFIX, escaped
from rulegen.iptables.transaction import REMARK

_VERDICTS = {"ACCEPT", "DROP", "REJECT", "RETURN", "QUEUE", "NFQUEUE"}


def parse_saved(family: Family, table: str, lines: Iterable[str]) -> Entries:
    """The entries of one table, given as its `:CHAIN ...` and `-A CHAIN ...` lines."""
    entries: dict[EntryKey, list[str]] = {}
    ahead: dict[EntryKey, str] = {}
    chains: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith(f"-A {PREFIX}"):
            chain, _, rule = line[3:].partition(" ")
            chains[chain].append(rule)
        elif line.startswith(f":{PREFIX}"):
            chain = line[1 : line.index(" ")]
            chains[chain] = entries[EntryKey(family, table, chain)] = []
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            _take_built_in(EntryKey(family, table, chain), rule, entries, ahead)
    return {key: tuple(rules) for key, rules in entries.items()}


def _take_built_in(key: EntryKey, rule: str, entries: dict[EntryKey, list[str]], ahead: dict[EntryKey, str]) -> None:
    """A rule of somebody else's chain."""
    if is_our_rule(rule):
        rules = entries.setdefault(key, [])
        if key in ahead and not rules:
            rules.append(f"{REMARK}behind: {escaped(ahead[key])}")
        rules.append(rule)
    elif key not in ahead and _keeps_packets_away(key.table, rule):
        ahead[key] = rule


def _keeps_packets_away(table: str, rule: str) -> bool:
    """A verdict on every packet; in nat also on some, which would not be sent to their Service."""
    target = target_of(rule)
    unconditional = rule.startswith(("-j ", "-g "))
    if table == NAT and target in {"ACCEPT", "RETURN"}:
        return True
    return unconditional and (target in _VERDICTS or rule.startswith("-g "))
