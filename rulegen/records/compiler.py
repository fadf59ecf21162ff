"""Records of Services become the entries of the driver `dns`. See `reconcile.feature.Compiler`.

A name below a Service's belongs to that Service alone. A name of an address may be several Services': their names are
put together, as many as an address has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, TypeAlias

from rulegen.dns.record_sets import Entries, RecordKey, RecordSet, Zones
from rulegen.errors import TargetError
from rulegen.reconcile.delta import Change, Delta
from rulegen.records.schema import Reverse, ServiceRecords, first_names
from rulegen.records.store import ServiceKey
from rulegen.reference import ObjectReference

# None: there is to be nothing.
Wanted: TypeAlias = dict[RecordKey, RecordSet | None]


class RecordCompiler:
    """`zones`: of reverse ones the longest counts; an address in none of them has no name. `ttl`: seconds."""

    def __init__(self, zones: Zones, ttl: int) -> None:
        self.zones = zones
        self._ttl = ttl
        self._reverse_zones = sorted(zones.reverse, key=len, reverse=True)
        self._items: dict[ServiceKey, ServiceRecords] = {}
        self._entries: Entries = {}
        # Names of addresses: what each Service adds.
        self._pointers: dict[RecordKey, dict[ServiceKey, tuple[str, ...]]] = {}
        self._spared: frozenset[ServiceKey] = frozenset()

    def is_ours(self, key: RecordKey, records: Collection[str]) -> bool:
        """Whether records that no registry speaks of are ours: names of addresses that lead to Services."""
        end = f".svc.{self.zones.forward}"
        return key.type == "PTR" and all(record.endswith(end) for record in records)

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        """See `Compiler`; nothing can be chosen freely."""
        del live
        self._spared = frozenset((one.namespace, one.name if one.kind == "Service" else "") for one in unreadable)

    def update(
        self, items: Mapping[ServiceKey, ServiceRecords | None], context: None
    ) -> tuple[Delta[RecordKey, RecordSet], dict[ServiceKey, TargetError]]:
        """See `Compiler`; everything can be expressed."""
        del context
        wanted: Wanted = {}
        pointed: dict[RecordKey, None] = {}
        for item_id, item in items.items():
            before = self._items.pop(item_id, None)
            if item is not None:
                self._items[item_id] = item
            wanted |= self._forward(item_id, before, item)
            pointed |= dict.fromkeys(self._point(item_id, before, item))
        # Once for each address, however many Services have it.
        wanted |= {key: self._pointer_set(key) for key in pointed}
        changes: dict[RecordKey, Change[RecordSet | None]] = {}
        for key, after in wanted.items():
            changes[key] = Change(self._entries.pop(key, None), after)
            if after is not None:
                self._entries[key] = after
        return Delta.of({key: change for key, change in changes.items() if change.before != change.after}), {}

    def entries(self) -> Entries:
        """See `Compiler`."""
        return self._entries

    def entries_of(self, item_id: ServiceKey) -> Entries:
        """See `Compiler`."""
        item = self._items.get(item_id)
        if item is None:
            return {}
        keys = [self._forward_key(owner, kind) for owner, kind in item.forward]
        keys += [key for address in item.reverse if (key := self._reverse_key(address)) is not None]
        return {key: self._entries[key] for key in keys}

    def entries_without(self, item_ids: Collection[ServiceKey]) -> Entries:
        """See `Compiler`."""
        if not item_ids:
            return self._entries
        rest = RecordCompiler(self.zones, self._ttl)
        rest.update({key: item for key, item in self._items.items() if key not in item_ids}, None)
        return rest.entries()

    def spare(self, delta: Delta[RecordKey, RecordSet]) -> Delta[RecordKey, RecordSet]:
        """See `Compiler`."""
        if not self._spared:
            return delta
        removed = {key: value for key, value in delta.removed.items() if not self._is_spared(value)}
        changed = {key: one for key, one in delta.changed.items() if not self._is_spared(one.before)}
        return Delta(delta.added, changed, removed)

    def owners(self, live: Entries) -> Callable[[Any, Any], str]:
        """See `Compiler`; `default/web`."""
        del live
        return lambda _, value: ", ".join("/".join(one) for one in self._services_of(value))

    # -- one item --

    def _forward(self, item_id: ServiceKey, before: ServiceRecords | None, item: ServiceRecords | None) -> Wanted:
        """The entries below its own name that an item has or had, as they are wanted now."""
        holder = f"{item_id[1]}.{item_id[0]}" if item_id[1] else ""
        now = item.forward if item is not None else {}
        found: Wanted = {}
        for name in dict.fromkeys((*(before.forward if before is not None else ()), *now)):
            records = now.get(name)
            found[self._forward_key(*name)] = RecordSet(self._ttl, records, holder) if records else None
        return found

    def _point(
        self, item_id: ServiceKey, before: ServiceRecords | None, item: ServiceRecords | None
    ) -> Iterator[RecordKey]:
        """Notes what an item adds to the names of addresses; the keys that it adds otherwise to than before."""
        old: Reverse = before.reverse if before is not None else {}
        new: Reverse = item.reverse if item is not None else {}
        for address in dict.fromkeys((*old, *new)):
            names = new.get(address, ())
            if old.get(address, ()) != names and (key := self._reverse_key(address)) is not None:
                of_key = self._pointers.setdefault(key, {})
                if names:
                    of_key[item_id] = names
                else:
                    of_key.pop(item_id, None)
                yield key

    def _pointer_set(self, key: RecordKey) -> RecordSet | None:
        of_key = self._pointers[key]
        if not of_key:
            del self._pointers[key]
            return None
        return RecordSet(self._ttl, first_names({name for names in of_key.values() for name in names}), None)

    def _forward_key(self, owner: str, kind: str) -> RecordKey:
        return RecordKey(self.zones.forward, owner, kind)

    def _reverse_key(self, address: str) -> RecordKey | None:
        owner = f"{ip_address(address).reverse_pointer}."
        zone = next((zone for zone in self._reverse_zones if owner.endswith(f".{zone}")), None)
        return RecordKey(zone, owner, "PTR") if zone is not None else None

    # -- whose an entry is --

    def _services_of(self, value: RecordSet) -> list[ServiceKey]:
        if value.holder is not None:
            name, _, namespace = value.holder.partition(".")
            return [(namespace, name)] if name else []
        found = set()
        for record in value.records:
            labels = record.removesuffix(f".svc.{self.zones.forward}").split(".")
            if len(labels) > 1:
                found.add((labels[-1], labels[-2]))
        return sorted(found)

    def _is_spared(self, value: RecordSet) -> bool:
        # A slice does not say whose it is when it cannot be read.
        return any(one in self._spared or (one[0], "") in self._spared for one in self._services_of(value))
