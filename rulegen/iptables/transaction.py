"""A Delta comes in, texts for iptables-restore go out, in an order that leaves no wrong state in between. Pure.

A restore is atomic for one table of one family, whosever chains it is about. The nat table decides where packets go; a
feature that changes it closes in the other tables what it leaves open. So these first get what is new beside what is
old, then nat changes, then they lose what is old. The chains of a feature that changes nothing in nat are replaced at
once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rulegen.config import Family
from rulegen.errors import ApplyError
from rulegen.iptables.chains import NAT, TABLES, Entries, EntryKey, Rules, target_of
from rulegen.iptables.names import PREFIX, is_ours
from rulegen.iptables.rules import parse_rule
from rulegen.reconcile.delta import Change, Delta

# Begins a remark that `live` puts into a built-in chain's entry; not a rule.
REMARK = "# "
_VERDICTS = {"ACCEPT", "DROP", "REJECT", "RETURN"}
# What a rule on all packets has.
_NO_MATCHES = {"-j", "--comment", "--reject-with"}


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


def is_remark(rule: str) -> bool:
    """Whether it is no rule, but what `live` says about those behind it."""
    return rule.startswith(REMARK)


def without_remarks(rules: Rules) -> Rules:
    """The rules alone."""
    return tuple(rule for rule in rules if not is_remark(rule))


def plan(
    delta: Delta[EntryKey, Rules],
    live: Mapping[EntryKey, Rules],
    prefixes: Sequence[str] = (PREFIX,),
    yielding: Collection[str] = (),
) -> list[Step]:
    """The steps that lead from `live` to what is wanted. Raises ApplyError when a rule would lead to no chain.

    `prefixes`: those of the features' chains, in the order in which their rules stand in a built-in chain. `yielding`:
    those of them, the last, whose rules stand behind other programs'.
    """
    _check_references(delta, live)
    return [step for family in Family for step in _plan(delta, _Writer(family, live, prefixes, yielding))]


def removal(entries: Mapping[EntryKey, Rules]) -> list[Step]:
    """The steps that remove all of `entries`."""
    return plan(Delta(removed=dict(entries)), entries)


def _plan(delta: Delta[EntryKey, Rules], writer: _Writer) -> Iterator[Step]:
    tables = {table: _part(delta, writer.family, table) for table in TABLES}
    nat = tables.pop(NAT)
    closing = [(table, part) for table, part in tables.items() if part]
    if not nat:
        yield from (writer.step(table, part) for table, part in closing)
        return
    translating = {key.prefix for part in (nat.added, nat.changed, nat.removed) for key in part}
    second = []
    for table, part in closing:
        first = _first(part, translating)
        if first:
            yield writer.step(table, first)
        # What is only new needs no second round.
        if rest := _rest(part, first):
            second.append((table, rest))
    yield writer.step(NAT, nat)
    yield from (writer.step(table, rest) for table, rest in second)


def _part(delta: Delta[EntryKey, Rules], family: Family, table: str) -> Delta[EntryKey, Rules]:
    def here(key: EntryKey) -> bool:
        return key.family is family and key.table == table

    return Delta(
        {key: rules for key, rules in delta.added.items() if here(key)},
        {key: change for key, change in delta.changed.items() if here(key)},
        {key: rules for key, rules in delta.removed.items() if here(key)},
    )


def _first(part: Delta[EntryKey, Rules], translating: set[str]) -> Delta[EntryKey, Rules]:
    """What comes before nat: all that is new. Of features that change nat the old rules stay behind the new ones."""
    changed: dict[EntryKey, Change[Rules]] = {}
    for key, change in part.changed.items():
        is_replaced = key.is_built_in or key.prefix not in translating or _decides_everything(change.after)
        old = () if is_replaced else change.before
        mixed = (*change.after, *(rule for rule in old if rule not in change.after))
        if mixed != change.before:
            changed[key] = Change(change.before, mixed)
    return Delta(part.added, changed)


def _decides_everything(rules: Rules) -> bool:
    """Whether the last rule has a verdict on all packets, so that none behind it would be met."""
    if not rules:
        return False
    last = parse_rule(rules[-1])
    return last.target in _VERDICTS and last.options.keys() <= _NO_MATCHES


def _rest(part: Delta[EntryKey, Rules], first: Delta[EntryKey, Rules]) -> Delta[EntryKey, Rules]:
    """What `first` has left to do."""
    changed: dict[EntryKey, Change[Rules]] = {}
    for key, change in part.changed.items():
        before = first.changed[key].after if key in first.changed else change.before
        if before != change.after:
            changed[key] = Change(before, change.after)
    return Delta({}, changed, part.removed)


class _Writer:
    """Writes a family's steps, each on top of what those before it leave in the built-in chains."""

    def __init__(
        self, family: Family, live: Mapping[EntryKey, Rules], prefixes: Sequence[str], yielding: Collection[str]
    ) -> None:
        self.family = family
        self._live = live
        self._prefixes = prefixes
        self._yielding = yielding
        # The built-in chains that steps have changed; without rules: nothing of the feature is left there.
        self._changed: Entries = {}

    def step(self, table: str, part: Delta[EntryKey, Rules]) -> Step:
        """One restore."""
        return Step(self.family, table, tuple(self._lines(table, part)))

    def _lines(self, table: str, part: Delta[EntryKey, Rules]) -> Iterator[str]:
        written = {**part.added, **{key: change.after for key, change in part.changed.items()}}
        live = {**part.removed, **{key: change.before for key, change in part.changed.items()}}
        yield f"*{table}"
        # Declares each chain, and empties it if it is there. In order: iptables-nft keeps a sorted list, and takes
        # three times as long for 10,000 chains that come in another.
        yield from (
            f":{chain} - [0:0]"
            for chain in sorted(key.chain for key in (*written, *part.removed) if not key.is_built_in)
        )
        yield from self._built_in_lines(live, written)
        for key, rules in written.items():
            if not key.is_built_in:
                yield from (f"-A {key.chain} {rule}" for rule in rules)
        yield from (f"-X {key.chain}" for key in part.removed if not key.is_built_in)
        yield "COMMIT"

    def _built_in_lines(self, live: Entries, written: Entries) -> Iterator[str]:
        """All features' rules of a chain that changes are taken out and put in front, in their features' order.

        Those of features that yield are put behind all others.
        """
        gone: Entries = dict.fromkeys(live, ())
        for chain in dict.fromkeys(key._replace(prefix=PREFIX) for key in (*live, *written) if key.is_built_in):
            keys = [chain._replace(prefix=prefix) for prefix in self._prefixes]
            before = {key: self._changed.get(key, self._live.get(key, ())) for key in keys} | _of(live, keys)
            after = before | _of(gone, keys) | _of(written, keys)
            self._changed |= after
            yield from (f"-D {chain.chain} {rule}" for rule in _rules(before))
            last = {key: rules for key, rules in after.items() if key.prefix in self._yielding}
            first = {key: rules for key, rules in after.items() if key not in last}
            yield from (f"-I {chain.chain} {number} {rule}" for number, rule in enumerate(_rules(first), 1))
            yield from (f"-A {chain.chain} {rule}" for rule in _rules(last))


def _of(entries: Entries, keys: Iterable[EntryKey]) -> Entries:
    return {key: entries[key] for key in keys if key in entries}


def _rules(entries: Entries) -> Iterator[str]:
    return (rule for rules in entries.values() for rule in rules if not is_remark(rule))


def _check_references(delta: Delta[EntryKey, Rules], live: Mapping[EntryKey, Rules]) -> None:
    """`iptables-restore --test` of the nft variant accepts a jump to a chain that is not there."""
    for key, rules in _written(delta):
        for rule in rules:
            target = target_of(rule)
            if is_ours(target):
                wanted = key._replace(chain=target)
                if wanted in delta.removed or (wanted not in live and wanted not in delta.added):
                    raise ApplyError(f"nothing was changed: {key.chain} would lead to {target}, which is not there")


def _written(delta: Delta[EntryKey, Rules]) -> Iterable[tuple[EntryKey, Rules]]:
    yield from delta.added.items()
    for key, change in delta.changed.items():
        yield key, change.after
