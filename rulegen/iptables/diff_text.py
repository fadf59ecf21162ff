"""A Delta in words: a line for each chain, with the rules that come and go below it, and each element. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from rulegen.iptables.chains import IPSET, EntryKey, Rules
from rulegen.iptables.text import comments_of
from rulegen.iptables.transaction import IP_KEYWORD
from rulegen.reconcile.delta import Change, Delta, differing
from rulegen.reconcile.driver import Owned, ShownChange, shown_change

# Whose a chain is, given with its rules: `default/web:http`; "" for no single one's.
Owner: TypeAlias = Callable[[EntryKey, Rules], str]


class Line(NamedTuple):
    """One chain of a Delta. `sign` is `+`, `~` or `-`; `owner` is whose it is, "" for no single one's.

    `prefix`: that of its feature's chains.

    `before` and `after`: the rules that are only in one of them, or, where their order differs, all that have moved.
    """

    sign: str
    family: str
    table: str
    chain: str
    before: Rules
    after: Rules
    owner: str
    prefix: str

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
    gone, new = differing(before, after)
    return Line(
        sign,
        IP_KEYWORD[key.family],
        key.table,
        key.chain,
        tuple(before[place] for place in gone),
        tuple(after[place] for place in new),
        owner(key, after or before),
        key.prefix,
    )


def shown_changes(delta: Delta[EntryKey, Rules], owner: Owner, features: Mapping[str, str]) -> Iterator[ShownChange]:
    """A Delta in words. `owner`: whose a chain is; `features`: by the prefix of their chains."""
    for line in diff_text(delta, owner):
        place = {"family": line.family, "name": line.table, "key": line.chain}
        named = tuple(filter(None, dict.fromkeys((line.owner, *comments_of((*line.before, *line.after))))))
        owned = Owned(features.get(line.prefix, ""), line.owner, named)
        yield shown_change(line.sign, str(line), place, (line.before, line.after), owned)


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
