"""A Delta in words: one line for each entry, or plain values for a program. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.nftables.layout import (
    LAYOUTS,
    EntryKey,
    Field,
    SetSpec,
    Value,
    data_text,
    id_of,
    key_text,
    service_port_of,
)
from rulegen.reconcile.delta import Change, Delta

Names = Mapping[tuple[Family, int], str]


class Line(NamedTuple):
    """One entry of a Delta. `sign` is `+`, `~` or `-`; `service` is "" where it belongs to no single Service."""

    sign: str
    family: str
    set_spec: str
    key: str
    before: str
    after: str
    service: str

    def __str__(self) -> str:
        """`+ ip endpoints 8000:1000 . tcp . 3 : 10.1.2.3 . 8080  # default/web:http`."""
        value = f"{self.before} -> {self.after}" if self.sign == "~" else self.before or self.after
        service = f"  # {self.service}" if self.service else ""
        return f"{self.sign} {self.family} {self.set_spec} {self.key}{' : ' if value else ''}{value}{service}"


def names_in(entries: Mapping[EntryKey, Value]) -> dict[tuple[Family, int], str]:
    """The service-ports by family and id, as the comments of their frontends say."""
    names: dict[tuple[Family, int], str] = {}
    for (set_spec, _), value in entries.items():
        if set_spec.data == (Field.CLASSID,) and _is_named(set_spec) and value.comment and id_of(value.data):
            names[set_spec.family, id_of(value.data)] = value.comment
    return names


def diff_text(delta: Delta[EntryKey, Value], names: Names) -> Iterator[Line]:
    """A line for each entry, by family and set, removals and changes beside what is added."""
    signed = [
        *(("-", key, value, None) for key, value in delta.removed.items()),
        *(("~", key, change.before, change) for key, change in delta.changed.items()),
        *(("+", key, value, None) for key, value in delta.added.items()),
    ]
    for sign, (set_spec, key), value, change in sorted(signed, key=lambda item: entry_order(item[1])):
        yield _line(sign, set_spec, key, (value, change), names)


def count(delta: Delta[EntryKey, Value]) -> Iterator[str]:
    """A line for each set that the Delta touches: `ip endpoints: 12 added, 1 changed`."""
    counts: dict[SetSpec, dict[str, int]] = {}
    for word, part in (("added", delta.added), ("changed", delta.changed), ("removed", delta.removed)):
        for set_spec, number in Counter(set_spec for set_spec, _ in part).items():
            counts.setdefault(set_spec, {})[word] = number
    for set_spec in sorted(counts, key=lambda set_spec: (set_spec.ip, set_spec.rank)):
        numbers = ", ".join(f"{number} {word}" for word, number in counts[set_spec].items())
        yield f"{set_spec.ip} {set_spec.name}: {numbers}"


def entry_order(entry: EntryKey) -> tuple[str, int, object]:
    """Sorts entries as they are printed: by table, set and key."""
    set_spec, key = entry
    sort_key = set_spec.sort_key()
    return set_spec.ip, set_spec.rank, sort_key(key) if sort_key else key


def _line(sign: str, set_spec: SetSpec, key: bytes, content: tuple[Value, Change[Value] | None], names: Names) -> Line:
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
    name = "chain" if set_spec is LAYOUTS[set_spec.family].chains else set_spec.name
    service = _service(set_spec, key, change.after if change else value, names)
    return Line(sign, set_spec.ip, name, key_text(set_spec, key), before, after, service)


def _value(set_spec: SetSpec, value: Value) -> str:
    return " ".join(filter(None, [data_text(set_spec, value.data), value.comment and f'"{value.comment}"']))


def _service(set_spec: SetSpec, key: bytes, value: Value, names: Names) -> str:
    if _is_named(set_spec) and value.comment:
        return value.comment
    return names.get((set_spec.family, service_port_of(set_spec, key)), "")


def _is_named(set_spec: SetSpec) -> bool:
    """Whether the comment of an entry is its service-port: so it is where keys end with a frontend's port."""
    return set_spec.key[-1:] == (Field.PORT,)
