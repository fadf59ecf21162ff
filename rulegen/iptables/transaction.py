"""A Delta comes in, texts for iptables-restore go out, in an order that leaves no wrong state in between. Pure.

A restore is atomic for one table of one family. The nat table decides where packets go; mangle and filter only close
what it leaves open. So, where nat changes as well, these first get what is new beside what is old, then nat changes,
then they lose what is old.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.errors import ApplyError
from rulegen.iptables.base_chains import FILTER, MANGLE, NAT, EntryKey, Rules, target_of
from rulegen.iptables.names import PREFIX, is_ours
from rulegen.reconcile.delta import Change, Delta

# Begins a remark that `live` puts into a built-in chain's entry; not a rule.
REMARK = "# "
# Rules of these chains contradict each other when old and new ones are mixed: they end with a verdict on everything.
_UNMIXABLE = f"{PREFIX}SRC-"


class Step(NamedTuple):
    """One restore: the lines for one table of one family, without their ends."""

    family: Family
    table: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        """`ip nat`."""
        return f"{IP_KEYWORD[self.family]} {self.table}"

    @property
    def text(self) -> str:
        """What iptables-restore reads."""
        return "\n".join((*self.lines, ""))


IP_KEYWORD = {Family.IPV4: "ip", Family.IPV6: "ip6"}


def plan(delta: Delta[EntryKey, Rules], live: Mapping[EntryKey, Rules]) -> list[Step]:
    """The steps that lead from `live` to what is wanted. Raises ApplyError when a rule would lead to no chain."""
    _check_references(delta, live)
    steps: list[Step] = []
    for family in Family:
        tables = {table: _part(delta, family, table) for table in (MANGLE, FILTER, NAT)}
        closing = [(table, tables[table]) for table in (MANGLE, FILTER) if tables[table]]
        if tables[NAT]:
            first = [(table, _mixed(part)) for table, part in closing]
            # What is only new needs no second round.
            second = [(table, _rest(part, mixed)) for (table, part), (_, mixed) in zip(closing, first, strict=True)]
            ordered = [*first, (NAT, tables[NAT]), *second]
        else:
            ordered = closing
        steps += (Step(family, table, tuple(_lines(table, part))) for table, part in ordered if part)
    return steps


def removal(entries: Mapping[EntryKey, Rules]) -> list[Step]:
    """The steps that remove all of `entries`."""
    return plan(Delta(removed=dict(entries)), entries)


def _part(delta: Delta[EntryKey, Rules], family: Family, table: str) -> Delta[EntryKey, Rules]:
    def here(key: EntryKey) -> bool:
        return key.family is family and key.table == table

    return Delta(
        {key: rules for key, rules in delta.added.items() if here(key)},
        {key: change for key, change in delta.changed.items() if here(key)},
        {key: rules for key, rules in delta.removed.items() if here(key)},
    )


def _mixed(part: Delta[EntryKey, Rules]) -> Delta[EntryKey, Rules]:
    """The new rules, with the old ones behind them; nothing goes yet."""
    changed: dict[EntryKey, Change[Rules]] = {}
    for key, change in part.changed.items():
        old = () if key.is_built_in or key.chain.startswith(_UNMIXABLE) else change.before
        mixed = (*change.after, *(rule for rule in old if rule not in change.after))
        if mixed != change.before:
            changed[key] = Change(change.before, mixed)
    return Delta(part.added, changed)


def _rest(part: Delta[EntryKey, Rules], mixed: Delta[EntryKey, Rules]) -> Delta[EntryKey, Rules]:
    """What `mixed` has left to do."""
    changed: dict[EntryKey, Change[Rules]] = {}
    for key, change in part.changed.items():
        before = mixed.changed[key].after if key in mixed.changed else change.before
        if before != change.after:
            changed[key] = Change(before, change.after)
    return Delta({}, changed, part.removed)


def _lines(table: str, part: Delta[EntryKey, Rules]) -> Iterator[str]:
    written = {**part.added, **{key: change.after for key, change in part.changed.items()}}
    live = {**part.removed, **{key: change.before for key, change in part.changed.items()}}
    yield f"*{table}"
    # Declares each chain, and empties it if it is there. In order: iptables-nft keeps a sorted list, and takes three
    # times as long for 10,000 chains that come in another.
    yield from (
        f":{chain} - [0:0]" for chain in sorted(key.chain for key in (*written, *part.removed) if not key.is_built_in)
    )
    for key, rules in live.items():
        if key.is_built_in:
            yield from (f"-D {key.chain} {rule}" for rule in rules if not rule.startswith(REMARK))
    for key, rules in written.items():
        if key.is_built_in:
            yield from (f"-I {key.chain} {number} {rule}" for number, rule in enumerate(rules, 1))
        else:
            yield from (f"-A {key.chain} {rule}" for rule in rules)
    yield from (f"-X {key.chain}" for key in part.removed if not key.is_built_in)
    yield "COMMIT"


def _check_references(delta: Delta[EntryKey, Rules], live: Mapping[EntryKey, Rules]) -> None:
    """`iptables-restore --test` of the nft variant accepts a jump to a chain that is not there."""
    for key, rules in _written(delta):
        for rule in rules:
            target = target_of(rule)
            if is_ours(target):
                wanted = EntryKey(key.family, key.table, target)
                if wanted in delta.removed or (wanted not in live and wanted not in delta.added):
                    raise ApplyError(f"nothing was changed: {key.chain} would lead to {target}, which is not there")


def _written(delta: Delta[EntryKey, Rules]) -> Iterable[tuple[EntryKey, Rules]]:
    yield from delta.added.items()
    for key, change in delta.changed.items():
        yield key, change.after
