"""A Delta in words: one line for each entry, or plain values for a program. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.nftables.layout import (
    LAYOUTS,
    Container,
    EntryKey,
    Field,
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
    container: str
    key: str
    before: str
    after: str
    service: str

    def __str__(self) -> str:
        """`+ ip endpoints 8000:1000 . tcp . 3 : 10.1.2.3 . 8080  # default/web:http`."""
        value = f"{self.before} -> {self.after}" if self.sign == "~" else self.before or self.after
        service = f"  # {self.service}" if self.service else ""
        return f"{self.sign} {self.family} {self.container} {self.key}{' : ' if value else ''}{value}{service}"


def names_in(entries: Mapping[EntryKey, Value]) -> dict[tuple[Family, int], str]:
    """The service-ports by family and id, as the comments of their frontends say."""
    names: dict[tuple[Family, int], str] = {}
    for (container, _), value in entries.items():
        if container.data == (Field.CLASSID,) and _is_named(container) and value.comment and id_of(value.data):
            names[container.family, id_of(value.data)] = value.comment
    return names


def describe(delta: Delta[EntryKey, Value], names: Names) -> Iterator[Line]:
    """A line for each entry, by family and container, removals and changes beside what is added."""
    signed = [
        *(("-", key, value, None) for key, value in delta.removed.items()),
        *(("~", key, change.before, change) for key, change in delta.changed.items()),
        *(("+", key, value, None) for key, value in delta.added.items()),
    ]
    for sign, (container, key), value, change in sorted(signed, key=lambda item: entry_order(item[1])):
        yield _line(sign, container, key, (value, change), names)


def count(delta: Delta[EntryKey, Value]) -> Iterator[str]:
    """A line for each container that the Delta touches: `ip endpoints: 12 added, 1 changed`."""
    counts: dict[Container, dict[str, int]] = {}
    for word, part in (("added", delta.added), ("changed", delta.changed), ("removed", delta.removed)):
        for container, number in Counter(container for container, _ in part).items():
            counts.setdefault(container, {})[word] = number
    for container in sorted(counts, key=lambda container: (container.ip, container.rank)):
        numbers = ", ".join(f"{number} {word}" for word, number in counts[container].items())
        yield f"{container.ip} {container.name}: {numbers}"


def entry_order(entry: EntryKey) -> tuple[str, int, object]:
    """Sorts entries as they are printed: by table, container and key."""
    container, key = entry
    sort_key = container.sort_key()
    return container.ip, container.rank, sort_key(key) if sort_key else key


def _line(
    sign: str, container: Container, key: bytes, content: tuple[Value, Change[Value] | None], names: Names
) -> Line:
    value, change = content
    before = after = ""
    if container.is_chains:
        # The digests that stand for a chain's text say nothing to a person.
        before, after = ("other rules", "as compiled") if change else ("", "")
    elif change:
        before, after = _value(container, change.before), _value(container, change.after)
    elif sign == "-":
        before = data_text(container, value.data)
    else:
        after = data_text(container, value.data)
    name = "chain" if container is LAYOUTS[container.family].chains else container.name
    service = _service(container, key, change.after if change else value, names)
    return Line(sign, container.ip, name, key_text(container, key), before, after, service)


def _value(container: Container, value: Value) -> str:
    return " ".join(filter(None, [data_text(container, value.data), value.comment and f'"{value.comment}"']))


def _service(container: Container, key: bytes, value: Value, names: Names) -> str:
    if _is_named(container) and value.comment:
        return value.comment
    return names.get((container.family, service_port_of(container, key)), "")


def _is_named(container: Container) -> bool:
    """Whether the comment of an entry is its service-port: so it is where keys end with a frontend's port."""
    return container.key[-1:] == (Field.PORT,)
