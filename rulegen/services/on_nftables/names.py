"""Whose an entry is: the service-ports' names, as the comments of their frontends say, by family and id. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from rulegen.config import Family
from rulegen.nftables.elements import EntryKey, Field, SetSpec, Value
from rulegen.services.on_nftables.registers import id_of, service_port_of

Names: TypeAlias = Mapping[tuple[Family, int], str]


def names_in(entries: Mapping[EntryKey, Value]) -> dict[tuple[Family, int], str]:
    """The service-ports by family and id."""
    names: dict[tuple[Family, int], str] = {}
    for (set_spec, _), value in entries.items():
        if set_spec.data == (Field.CLASSID,) and _is_named(set_spec) and value.comment and id_of(value.data):
            names[set_spec.family, id_of(value.data)] = value.comment
    return names


def owner_among(names: Names) -> Callable[[EntryKey, Value], str]:
    """What tells which of these service-ports an entry belongs to."""

    def owner(entry: EntryKey, value: Value) -> str:
        set_spec, key = entry
        if _is_named(set_spec) and value.comment:
            return value.comment
        return names.get((set_spec.family, service_port_of(set_spec, key)), "")

    return owner


def _is_named(set_spec: SetSpec) -> bool:
    """Whether the comment of an entry is its service-port: so it is where keys end with a frontend's port."""
    return set_spec.key[-1:] == (Field.PORT,)
