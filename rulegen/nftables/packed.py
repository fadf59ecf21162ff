"""Entries as values that JSON has, and back: what a kernel held, for those who look at it elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rulegen.errors import InputError, shown
from rulegen.nftables.elements import SetSpec, Value
from rulegen.nftables.tables import AllEntries, Entries, TableSpec


def pack(entries: AllEntries) -> list[Any]:
    """A row for each: the table, the set, key and data in hexadecimal digits, the comment."""
    return sorted(
        [str(set_spec.spec), set_spec.name, key.hex(), value.data.hex(), value.comment]
        for (set_spec, key), value in entries.items()
    )


def unpack(rows: Any, specs: Sequence[TableSpec], source: str) -> Entries:
    """The entries of these tables; those of others are left out. Raises InputError; `source` begins the message."""
    tables = {str(spec): spec for spec in specs}
    entries: Entries = {}
    for row in rows if isinstance(rows, list) else [rows]:
        if not (isinstance(row, list) and len(row) == 5 and all(isinstance(text, str) for text in row)):
            raise InputError(f"{source}: expected rows of five texts, got {shown(row)}")
        table, name, key, data, comment = row
        if table not in tables:
            continue
        set_spec = _set_named(tables[table], name)
        if set_spec is None:
            raise InputError(f"{source}: table {shown(table)} has no set {shown(name)}: it is of another version")
        try:
            entries[set_spec, bytes.fromhex(key)] = Value(bytes.fromhex(data), comment)
        except ValueError as error:
            raise InputError(f"{source}: expected hexadecimal digits, got {shown(key)} and {shown(data)}") from error
    return entries


def _set_named(spec: TableSpec, name: str) -> SetSpec | None:
    nameless: Mapping[str, SetSpec] = {one.name: one for one in (spec.chains, spec.declared, spec.foreign)}
    return nameless.get(name) or spec.set_named(name)
