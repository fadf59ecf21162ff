"""What iptables-save prints of a table comes in, rulegen's chains as they are in the kernel go out. Pure.

Of the built-in chains, an entry holds the rules that one feature put there, in their order; and a remark when a rule
before them keeps packets away, another program's, or stands where they should: another feature's that comes later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rulegen.config import Family
from rulegen.iptables.chains import FILTER, NAT, Entries, EntryKey, prefix_of_rule, target_of
from rulegen.iptables.names import PREFIX, escaped, prefix_of
from rulegen.iptables.transaction import REMARK, is_remark

_VERDICTS = {"ACCEPT", "DROP", "REJECT", "RETURN", "QUEUE", "NFQUEUE"}


def parse_saved(
    family: Family,
    table: str,
    lines: Iterable[str],
    prefixes: Sequence[str] = (PREFIX,),
    guards: Collection[str] = (),
    yielding: Collection[str] = (),
) -> Entries:
    """The entries of one table, given as its `:CHAIN ...` and `-A CHAIN ...` lines.

    `prefixes`: those of the features' chains, in the order in which their rules stand in a built-in chain. `guards`:
    those of them before which nothing may accept a packet; `yielding`: those before which others may do anything.
    """
    lines = list(lines)
    accepting = _accepting_chains(lines) if guards and table == FILTER else frozenset()
    entries: dict[EntryKey, list[str]] = {}
    chains: dict[str, list[str]] = {}
    built_in: dict[str, _BuiltIn] = {}
    for line in lines:
        if line.startswith(f"-A {PREFIX}"):
            chain, _, rule = line[3:].partition(" ")
            chains[chain].append(rule)
        elif line.startswith(f":{PREFIX}"):
            chain = line[1 : line.index(" ")]
            key = EntryKey(family, table, chain, prefix_of(chain, prefixes))
            chains[chain] = entries[key] = []
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            built_in.setdefault(chain, _BuiltIn(table, prefixes, yielding, guards, accepting)).take(rule)
    found = {key: tuple(rules) for key, rules in entries.items()}
    for chain, read in built_in.items():
        found |= {EntryKey(family, table, chain, prefix): tuple(rules) for prefix, rules in read.ours.items()}
    return found


class _BuiltIn:
    """Somebody else's chain, rule by rule. `ours`: what is rulegen's, by the prefix of the feature's chains."""

    def __init__(
        self,
        table: str,
        prefixes: Sequence[str],
        yielding: Collection[str],
        guards: Collection[str],
        accepting: Collection[str],
    ) -> None:
        self.ours: dict[str, list[str]] = {}
        self._table = table
        self._prefixes = prefixes
        self._yielding = yielding
        self._guards = guards
        self._accepting = accepting
        # The first rule of another program's that keeps packets away, and the first that may accept one.
        self._ahead = self._open = ""

    def take(self, rule: str) -> None:
        prefix = prefix_of_rule(rule, self._prefixes)
        if prefix:
            rules = self.ours.setdefault(prefix, [])
            shadow = self._ahead or (self._open if prefix in self._guards else "")
            ahead = self._later_feature(prefix) or ("" if rules or prefix in self._yielding else shadow)
            if ahead and not any(map(is_remark, rules[:1])):
                rules.insert(0, f"{REMARK}behind: {escaped(ahead)}")
            rules.append(rule)
            return
        if not self._ahead and _keeps_packets_away(self._table, rule):
            self._ahead = rule
        if not self._open and self._accepting and target_of(rule) in self._accepting:
            self._open = rule

    def _later_feature(self, prefix: str) -> str:
        """A rule so far of a feature whose rules belong behind those of this one."""
        later = self._prefixes[self._prefixes.index(prefix) + 1 :]
        return next((rules[-1] for other, rules in self.ours.items() if other in later), "")


def _accepting_chains(lines: Iterable[str]) -> frozenset[str]:
    """Where other programs' rules may lead a packet to be accepted: ACCEPT, and all chains from which it is reached."""
    leads: dict[str, set[str]] = {}
    for line in lines:
        if line.startswith("-A ") and not line.startswith(f"-A {PREFIX}"):
            chain, _, rule = line[3:].partition(" ")
            leads.setdefault(target_of(rule), set()).add(chain)
    found, new = set(), {"ACCEPT"}
    while new:
        found |= new
        new = {chain for target in new for chain in leads.get(target, ())} - found
    return frozenset(found)


def _keeps_packets_away(table: str, rule: str) -> bool:
    """A verdict on every packet; in nat also on some, which would not be sent on as a feature wants."""
    target = target_of(rule)
    unconditional = rule.startswith(("-j ", "-g "))
    if table == NAT and target in {"ACCEPT", "RETURN"}:
        return True
    return unconditional and (target in _VERDICTS or rule.startswith("-g "))
