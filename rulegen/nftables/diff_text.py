"""A Delta in words: one line for each entry, or plain values for a program. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from rulegen.nftables.elements import EntryKey, SetSpec, Value, data_text, key_text
from rulegen.reconcile.delta import Change, Delta
from rulegen.reconcile.driver import ShownChange, shown_change

# The entry that stands for a table of which nothing is known but that it is there, and not wanted.
UNKNOWN_TABLE = b""
# Whose an entry is, as words: "" for no single one's.
Owner: TypeAlias = Callable[[EntryKey, Value], str]


class Line(NamedTuple):
    """One entry of a Delta. `sign` is `+`, `~` or `-`; `family` names the table, too, where it is not `rulegen`.

    `owner` is "" where it belongs to nobody alone.
    """

    sign: str
    family: str
    set_spec: str
    key: str
    before: str
    after: str
    owner: str

    def __str__(self) -> str:
        """`+ ip endpoints 8000:1000 . tcp . 3 : 10.1.2.3 . 8080  # default/web:http`."""
        value = f"{self.before} -> {self.after}" if self.sign == "~" else self.before or self.after
        owner = f"  # {self.owner}" if self.owner else ""
        return f"{self.sign} {self.family} {self.set_spec} {self.key}{' : ' if value else ''}{value}{owner}"


def diff_text(delta: Delta[EntryKey, Value], owner: Owner) -> Iterator[Line]:
    """A line for each entry, by family and set, removals and changes beside what is added."""
    signed = [
        *(("-", key, value, None) for key, value in delta.removed.items()),
        *(("~", key, change.before, change) for key, change in delta.changed.items()),
        *(("+", key, value, None) for key, value in delta.added.items()),
    ]
    for sign, (set_spec, key), value, change in sorted(signed, key=lambda item: entry_order(item[1])):
        yield _line(sign, (set_spec, key), (value, change), owner)


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
    sort_key = set_spec.sort_key()
    return set_spec.place, sort_key(key) if sort_key else key


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
        return Line(sign, set_spec.ip, "table", set_spec.table, before, after, "")
    owned_by = owner(entry, change.after if change else value)
    return Line(sign, set_spec.label, name, key_text(set_spec, key), before, after, owned_by)


_NAMES = {"chains": "chain", "sets": "set"}


def _value(set_spec: SetSpec, value: Value) -> str:
    return " ".join(filter(None, [data_text(set_spec, value.data), value.comment and f'"{value.comment}"']))


def shown_changes(delta: Delta[EntryKey, Value], owner: Owner) -> Iterator[ShownChange]:
    """A Delta in words."""
    for line in diff_text(delta, owner):
        place = {"family": line.family, "name": line.set_spec, "key": line.key}
        yield shown_change(line.sign, str(line), place, (line.before, line.after), line.owner)
