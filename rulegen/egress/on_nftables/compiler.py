"""Ranges come in, the elements of the tables go out, and which of them changed. Never reads the kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import ip_network

from rulegen.config import Cidr, Family
from rulegen.egress.model import Range, Side
from rulegen.egress.on_nftables.table import TABLES
from rulegen.egress.ranges import RangeCompiler, is_wanted
from rulegen.nftables.elements import EntryKey, Value
from rulegen.nftables.tables import AllEntries, BaseChains, Entries, TableSpec
from rulegen.reference import ObjectReference

_MEMBER = Value()


class EgressTables(RangeCompiler[EntryKey, Value]):
    """See `nftables.tables.TableCompiler`. A family without pods of this node has no table."""

    def __init__(self, families: Sequence[Family]) -> None:
        """Compiles nothing yet."""
        super().__init__(families)
        self.specs: Sequence[TableSpec] = [TABLES[family] for family in families]
        # What was found in the kernel, until ranges are known.
        self._adopted: dict[Family, Entries] = {}

    @property
    def base_chains(self) -> Mapping[TableSpec, BaseChains]:
        """Of the families that have a table."""
        return {table: table.text for family, table in TABLES.items() if family in self._present}

    def adopt(self, live: AllEntries, unreadable: Collection[ObjectReference]) -> None:
        """Keeps what is live in the sets, as long as nothing else is known."""
        del unreadable
        if self._has_compiled:
            return
        for family in self._ranges:
            sets = TABLES[family].sides
            mine = {key: value for key, value in live.items() if key[0] in sets.values()}
            self._adopted[family] = mine if any(set_spec is sets[Side.PODS] for set_spec, _ in mine) else {}

    def owners(self, live: AllEntries) -> Callable[[EntryKey, Value], str]:
        """Whose a range is."""
        del live
        owners = {
            _key(family, side, cidr): owner
            for family, ranges in self._ranges.items()
            for side, cidrs in ranges.items()
            for cidr, owner in cidrs.items()
        }
        return lambda key, _: owners.get(key, "")

    def _use_adopted(self, *, is_wanted: bool) -> None:
        for family, elements in self._adopted.items():
            for key, value in elements.items():
                self._entries.set(key, value if is_wanted else None)
            self._set_table(family, is_there=is_wanted and bool(elements))
        if not is_wanted:
            self._adopted = {}

    def _write(self, family: Family, touched: set[Range]) -> None:
        """Sets hold something only where there is a table."""
        ranges = self._ranges[family]
        is_there = is_wanted(ranges)
        if is_there is not (family in self._present):
            touched |= {Range(side, family, cidr) for side, cidrs in ranges.items() for cidr in cidrs}
            self._set_table(family, is_there=is_there)
        for item in sorted(touched, key=lambda item: (item.side.value, item.cidr)):
            is_member = is_there and item.cidr in ranges[item.side]
            self._entries.set(_key(family, item.side, item.cidr), _MEMBER if is_member else None)

    def _set_table(self, family: Family, *, is_there: bool) -> None:
        if is_there:
            self._present.add(family)
        else:
            self._present.discard(family)
        table = TABLES[family]
        for name, chain in table.text.chains.items():
            self._entries.set((table.chains, name.encode()), Value(chain.digest.encode()) if is_there else None)


def _key(family: Family, side: Side, cidr: Cidr) -> EntryKey:
    network = ip_network(cidr)
    return TABLES[family].sides[side], network.network_address.packed + network.broadcast_address.packed
