"""The door of the nftables driver: features' tables rendered, compared, kept in the kernel, removed.

In: compilers, which bring tables (`tables.TableCompiler`). Out: text, Deltas, and a kernel that is kept equal. Never
knows what an entry is about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rulegen.config import Family
from rulegen.nftables import text
from rulegen.nftables.chain_rules import ChainOf, as_text, chain_texts, rules_of
from rulegen.nftables.diff_text import count, entry_order, shown_changes
from rulegen.nftables.drift import Notifications
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.live_rules import LiveTables, base_chains_of_all
from rulegen.nftables.packed import pack, unpack
from rulegen.nftables.plain_elements import difference
from rulegen.nftables.tables import AllEntries, TableCompiler, TableSpec, table_name
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.driver import Difference, Removal, ShownChange, compile_all

# A sync costs as much as its changes: so many take some 50 ms, and whoever comes meanwhile waits for no more.
_BATCH = 200


class OpenNftables:
    """See `OpenDriver`. `features`: all that there are; the tables of those without a compiler go."""

    variant = ""
    batch = _BATCH
    leftovers: Sequence[Removal] = ()

    def __init__(self, kernel: Kernel, features: Collection[str]) -> None:
        self.kernel = kernel
        self._features = features

    def find_leftovers(self) -> list[str]:
        """See `OpenDriver`."""
        return []

    def rules(self, compilers: CompilerSet, patience: float = 0.0) -> LiveTables:
        """See `OpenDriver`; who fights whom over a table is told by the kernel, so there is no need for patience."""
        del patience
        others = [
            TableSpec(family, table_name(feature))
            for feature in self._features
            if feature not in compilers.by_feature
            for family in Family
        ]
        return LiveTables(self.kernel, compilers, others)

    def watch(self, period: float, now: float) -> Notifications:
        """See `OpenDriver`; the kernel tells."""
        del period, now
        return Notifications(self.kernel.monitor([table_name(feature) for feature in self._features]))


class NftablesDriver:
    """See `Driver`. `features`: the names of all that there are, on or off."""

    name = "nftables"

    def __init__(self, features: Collection[str]) -> None:
        self._features = features

    def render(self, compilers: CompilerSet) -> Iterator[str]:
        """As `nft -f` takes it."""
        return text.render(base_chains_of_all(_tables(compilers)), compilers.entries())

    def compare_rendered(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], lines: Iterable[str], source: str
    ) -> Difference:
        """See `Driver`."""
        specs = [spec for tables in _tables(compilers) for spec in tables.specs]
        before = text.parse(lines, source, specs)
        compilers.adopt(before.entries, {})
        compile_all(compilers, items, contexts)
        return _difference(before.entries, before.chains.get, compilers)

    def compare_compiled(
        self, before: CompilerSet, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any]
    ) -> Difference:
        """See `Driver`."""
        # In the order of a rendered file: ids are chosen by what is met first.
        entries = dict(sorted(before.entries().items(), key=lambda entry: entry_order(entry[0])))
        compilers.adopt(entries, {})
        compile_all(compilers, items, contexts)
        return _difference(entries, chain_texts(base_chains_of_all(_tables(before))), compilers)

    def pack(self, live: AllEntries) -> list[Any]:
        """See `Driver`."""
        return pack(live)

    def compare_packed(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], packed: Any, source: str
    ) -> tuple[AllEntries, Difference]:
        """See `Driver`; of chains it is known whether they were as compiled, not what they were."""
        live = unpack(packed, [spec for tables in _tables(compilers) for spec in tables.specs], source)
        compilers.adopt(live, {})
        compile_all(compilers, items, contexts)
        return live, _difference(live, lambda _: None, compilers)

    @contextmanager
    def open(self) -> Iterator[OpenNftables]:
        """See `Driver`."""
        with Kernel() as kernel:
            yield OpenNftables(kernel, self._features)

    def find(self, features: Collection[str]) -> list[str]:
        """See `Driver`."""
        with Kernel() as kernel:
            return kernel.find_tables(_all_names(features))

    def remove(self, features: Collection[str]) -> list[str]:
        """See `Driver`; the tables of both families, and what an interrupted start may have left."""
        with Kernel() as kernel:
            return kernel.delete_tables(_all_names(features))


def _all_names(features: Collection[str]) -> list[str]:
    names = [table_name(feature) for feature in features]
    return [*names, *(f"{name}-scratch" for name in names)]


def _tables(compilers: CompilerSet) -> list[TableCompiler]:
    return list(compilers.by_feature.values())  # type: ignore[arg-type]


def _difference(entries: AllEntries, chain_of: ChainOf, compilers: CompilerSet) -> Difference:
    """What leads from entries, and chains of which the text is known, to all that is wanted."""
    delta = difference(entries, compilers.entries())
    wanted = chain_texts(base_chains_of_all(_tables(compilers)))

    def changes() -> Iterator[ShownChange]:
        rules = rules_of(delta, lambda key: as_text(chain_of(key)), lambda key: as_text(wanted(key)))
        return shown_changes(delta, compilers.owners(entries), rules)

    return Difference.of(delta, changes, lambda: count(delta))
