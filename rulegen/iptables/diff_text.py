"""A Delta in words: a line for each chain, with the rules that come and go below it, and each element. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from rulegen.iptables.chains import IPSET, EntryKey, Rules
from rulegen.iptables.transaction import IP_KEYWORD
from rulegen.reconcile.delta import Change, Delta

# Whose a chain is, given with its rules: `default/web:http`; "" for no single one's.
Owner: TypeAlias = Callable[[EntryKey, Rules], str]


class Line(NamedTuple):
    """One chain of a Delta. `sign` is `+`, `~` or `-`; `owner` is whose it is, "" for no single one's.

    `before` and `after`: the rules that are only in one of them.
    """

    sign: str
    family: str
    table: str
    chain: str
    before: Rules
    after: Rules
    owner: str

    def __str__(self) -> str:
        """`~ ip nat RULEGEN-SVC-...  # default/web:http`, and the rules."""
        owner = f"  # {self.owner}" if self.owner else ""
        rules = [*(f"    - {rule}" for rule in self.before), *(f"    + {rule}" for rule in self.after)]
        return "\n".join([f"{self.sign} {self.family} {self.table} {self.chain}{owner}", *rules])


def diff_text(delta: Delta[EntryKey, Rules], owner: Owner) -> Iterator[Line]:
    """A line for each chain, by family, table and owner."""
    lines = [
        *(_line("-", key, Change(rules, ()), owner) for key, rules in delta.removed.items()),
        *(_line("~", key, change, owner) for key, change in delta.changed.items()),
        *(_line("+", key, Change((), rules), owner) for key, rules in delta.added.items()),
    ]
    yield from sorted(lines, key=lambda line: (line.family, line.table, line.owner, line.chain))


def _line(sign: str, key: EntryKey, change: Change[Rules], owner: Owner) -> Line:
    before, after = change
    kept = set(before) & set(after)
    return Line(
        sign,
        IP_KEYWORD[key.family],
        key.table,
        key.chain,
        tuple(rule for rule in before if rule not in kept),
        tuple(rule for rule in after if rule not in kept),
        owner(key, after or before),
    )


def count(delta: Delta[EntryKey, Rules]) -> Iterator[str]:
    """A line for each table that the Delta touches: `ip nat: 12 chains added, 3 chains changed`.

    Of the table `ipset`, which is none, it says `5 sets or elements added`.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    for word, part in (("added", delta.added), ("changed", delta.changed), ("removed", delta.removed)):
        for key in part:
            counts.setdefault((IP_KEYWORD[key.family], key.table), Counter())[word] += 1
    for (ip, table), words in sorted(counts.items()):
        things = "sets or elements" if table == IPSET else "chains"
        yield f"{ip} {table}: " + ", ".join(f"{number} {things} {word}" for word, number in words.items())
