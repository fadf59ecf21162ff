"""Blocked addresses on nftables: a set for each family, and one chain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.nftables.elements import EntryKey, Field, SetSpec, Value, address_bytes, safe_comment
from rulegen.nftables.tables import BaseChains, Entries, TableSpec, assembled, table_name
from rulegen.reconcile.delta import Delta, diff
from rulegen.reference import ObjectReference

_SETS = """\
	# addresses that nothing is forwarded to
	set blocked {{
		typeof {ip} daddr
	}}
"""
_CHAINS = """\
	chain forward {{
		type filter hook forward priority -5; policy accept;
		ct original {ip} daddr @blocked drop
	}}
"""


class BlockingTable(TableSpec):
    """The table of one family."""

    def __init__(self, family: Family) -> None:
        super().__init__(family, table_name("blocking"))
        self.blocked: SetSpec = self.add_set("blocked", (Field.IPV4 if family is Family.IPV4 else Field.IPV6,))
        self.text = assembled(self, _SETS.format(ip=self.ip), _CHAINS.format(ip=self.ip))


TABLES: Mapping[Family, BlockingTable] = {family: BlockingTable(family) for family in Family}


class BlockingTables:
    """See `nftables.tables.TableCompiler`; a family in which nothing is blocked has no table."""

    specs: Sequence[TableSpec] = tuple(TABLES.values())

    def __init__(self, families: Collection[Family]) -> None:
        self._families = families
        self._elements: dict[ObjectReference, Entries] = {}
        self._kept: frozenset[str] = frozenset()

    @property
    def base_chains(self) -> Mapping[TableSpec, BaseChains]:
        wanted = {key[0].spec for elements in self._elements.values() for key in elements}
        return {table: table.text for table in TABLES.values() if table in wanted}

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        del live
        self._kept = frozenset(safe_comment(f"{one.namespace}/{one.name}") for one in unreadable)

    def update(
        self, items: Mapping[ObjectReference, tuple[str, ...] | None], context: None
    ) -> tuple[Delta[EntryKey, Value], dict[ObjectReference, TargetError]]:
        del context
        before = self.entries()
        for reference, addresses in items.items():
            self._elements.pop(reference, None)
            if addresses:
                self._elements[reference] = self._compiled(reference, addresses)
        return diff(before, self.entries()), {}

    def entries(self) -> Entries:
        return self.entries_without(())

    def entries_of(self, item_id: ObjectReference) -> Entries:
        return self._elements.get(item_id, {})

    def entries_without(self, item_ids: Collection[ObjectReference]) -> Entries:
        entries: Entries = {}
        for reference, elements in self._elements.items():
            if reference not in item_ids:
                entries |= elements
        for table, fixed in self.base_chains.items():
            entries |= {(table.chains, name.encode()): Value(one.digest.encode()) for name, one in fixed.chains.items()}
        return entries

    def spare(self, delta: Delta[EntryKey, Value]) -> Delta[EntryKey, Value]:
        if not self._kept:
            return delta
        removed = {key: value for key, value in delta.removed.items() if value.comment not in self._kept}
        return Delta(delta.added, delta.changed, removed)

    def owners(self, live: Entries) -> Callable[[Any, Any], str]:
        del live
        return lambda key, value: value.comment if key[0].spec in self.specs else ""

    def _compiled(self, reference: ObjectReference, addresses: tuple[str, ...]) -> Entries:
        entries: Entries = {}
        for address in addresses:
            family = Family.IPV6 if ":" in address else Family.IPV4
            if family in self._families:
                name = safe_comment(f"{reference.namespace}/{reference.name}")
                entries[TABLES[family].blocked, address_bytes(family, address)] = Value(comment=name)
        return entries
