"""Entries as values that JSON has, and back: what a kernel held, for those who look at it elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rulegen.config import Family
from rulegen.errors import InputError, shown
from rulegen.iptables.chains import Entries, EntryKey, Rules


def pack(entries: Mapping[EntryKey, Rules]) -> list[Any]:
    """A row for each chain: family, table, chain, prefix, the list of rules."""
    return sorted([key.family.value, key.table, key.chain, key.prefix, list(rules)] for key, rules in entries.items())


def unpack(rows: Any, source: str) -> Entries:
    """Raises InputError; `source` begins the message."""
    entries: Entries = {}
    families = {family.value: family for family in Family}
    for row in rows if isinstance(rows, list) else [rows]:
        match row:
            case [str(family), str(table), str(chain), str(prefix), [*rules]] if family in families and all(
                isinstance(rule, str) for rule in rules
            ):
                entries[EntryKey(families[family], table, chain, prefix)] = tuple(map(str, rules))
            case _:
                raise InputError(f"{source}: expected a family, a table, a chain and its rules, got {shown(row)}")
    return entries
