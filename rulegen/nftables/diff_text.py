"""A Delta in words: one line for each entry, or plain values for a program. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from rulegen.nftables.elements import EntryKey, SetSpec, Value, data_text, key_text
from rulegen.nftables.tables import feature_of_table
from rulegen.reconcile.delta import Change, Delta
from rulegen.reconcile.driver import Owned, ShownChange, shown_change

# The entry that stands for a table of which nothing is known but that it is there, and not wanted.
UNKNOWN_TABLE = b""
# Whose an entry is, as words: "" for no single one's.
Owner: TypeAlias = Callable[[EntryKey, Value], str]


class ChainRules(NamedTuple):
    """The rules of a chain that are only in one of two states, as nft reads them; see `delta.differing`."""

    before: tuple[str, ...]
    after: tuple[str, ...]


# What is known of the rules of chains in a Delta.
RulesOf: TypeAlias = Mapping[EntryKey, ChainRules]


class Line(NamedTuple):
    """One entry of a Delta. `sign` is `+`, `~` or `-`; `family` names the table, too, where it is not `rulegen`.

    `owner` is "" where it belongs to nobody alone. `table`: the name of its table. `rules`: of a chain, where they are
    known.
    """

    sign: str
    family: str
    set_spec: str
    key: str
    before: str
    after: str
    owner: str
    table: str
    rules: ChainRules | None = None

    def __str__(self) -> str:
        """`+ ip endpoints 8000:1000 . tcp . 3 : 10.1.2.3 . 8080  # default/web:http`; below a chain, its rules."""
        if self.rules is not None:
            rules = [*(f"    - {rule}" for rule in self.rules.before), *(f"    + {rule}" for rule in self.rules.after)]
            return "\n".join([self._text(""), *rules])
        value = f"{self.before} -> {self.after}" if self.sign == "~" else self.before or self.after
        return self._text(value)

    def _text(self, value: str) -> str:
        owner = f"  # {self.owner}" if self.owner else ""
        return f"{self.sign} {self.family} {self.set_spec} {self.key}{' : ' if value else ''}{value}{owner}"


def diff_text(delta: Delta[EntryKey, Value], owner: Owner, rules_of: RulesOf | None = None) -> Iterator[Line]:
    """A line for each entry, by family and set, removals and changes beside what is added."""
    known = rules_of or {}
    signed = [
        *(("-", key, value, None) for key, value in delta.removed.items()),
        *(("~", key, change.before, change) for key, change in delta.changed.items()),
        *(("+", key, value, None) for key, value in delta.added.items()),
    ]
    for sign, (set_spec, key), value, change in sorted(signed, key=lambda item: entry_order(item[1])):
        line = _line(sign, (set_spec, key), (value, change), owner)
        yield line._replace(rules=known[set_spec, key]) if (set_spec, key) in known else line


def count(delta: Delta[EntryKey, Value]) -> Iterator[str]:
    """A line for each set that the Delta touches: `ip endpoints: 12 added, 1 changed`."""
    counts: dict[SetSpec, dict[str, int]] = {}
    for word, part in (("added", delta.added), ("changed", delta.changed), ("removed", delta.removed)):
        for set_spec, number in Counter(set_spec for set_spec, _ in part).items():
            counts.setdefault(set_spec, {})[word] = number
    for set_spec in sorted(counts, key=attrgetter("place")):
        numbers = ", ".join(f"{number} {word}" for word, number in counts[set_spec].items())
        yield f"{set_spec.label} {set_spec.name}: {numbers}"


def entry_order(entry: EntryKey) -> tuple[object, object]:
    """Sorts entries as they are printed: by table, set and key."""
    set_spec, key = entry
    return set_spec.place, set_spec.sort_key(key) if set_spec.sort_key else key


def _line(sign: str, entry: EntryKey, content: tuple[Value, Change[Value] | None], owner: Owner) -> Line:
    set_spec, key = entry
    value, change = content
    before = after = ""
    if set_spec.is_chains:
        # The digests that stand for a chain's text say nothing to a person.
        before, after = ("other rules", "as compiled") if change else ("", "")
    elif change:
        before, after = _value(set_spec, change.before), _value(set_spec, change.after)
    elif sign == "-":
        before = data_text(set_spec, value.data)
    else:
        after = data_text(set_spec, value.data)
    name = _NAMES.get(set_spec.name, set_spec.name) if set_spec.is_chains else set_spec.name
    if key == UNKNOWN_TABLE and name == "foreign":
        return Line(sign, set_spec.ip, "table", set_spec.table, before, after, "", set_spec.table)
    owned_by = owner(entry, change.after if change else value)
    return Line(sign, set_spec.label, name, key_text(set_spec, key), before, after, owned_by, set_spec.table)


_NAMES = {"chains": "chain", "sets": "set"}


def _value(set_spec: SetSpec, value: Value) -> str:
    return " ".join(filter(None, [data_text(set_spec, value.data), value.comment and f'"{value.comment}"']))


def shown_changes(
    delta: Delta[EntryKey, Value], owner: Owner, rules_of: RulesOf | None = None
) -> Iterator[ShownChange]:
    """A Delta in words. `rules_of`: of those chains of which the rules are known."""
    for line in diff_text(delta, owner, rules_of):
        place = {"family": line.family, "name": line.set_spec, "key": line.key}
        content = line.rules or (line.before, line.after)
        named = (line.owner,) if line.owner else ()
        yield shown_change(line.sign, str(line), place, content, Owned(feature_of_table(line.table), line.owner, named))
