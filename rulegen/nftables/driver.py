"""The door of the nftables driver: features' tables rendered, compared, kept in the kernel, removed.

In: compilers, which bring tables (`tables.TableCompiler`). Out: text, Deltas, and a kernel that is kept equal. Never
knows what an entry is about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rulegen.config import Family
from rulegen.nftables import text
from rulegen.nftables.diff_text import count, shown_changes
from rulegen.nftables.drift import Notifications
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.live_rules import LiveTables, base_chains_of_all
from rulegen.nftables.tables import TableCompiler, TableSpec, table_name
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.delta import diff
from rulegen.reconcile.driver import Difference, Removal, compile_all, read_file

# A sync costs as much as its changes: so many take some 50 ms, and whoever comes meanwhile waits for no more.
_BATCH = 200


class OpenNftables:
    """See `OpenDriver`. `features`: all that there are; the tables of those without a compiler go."""

    batch = _BATCH
    leftovers: Sequence[Removal] = ()

    def __init__(self, kernel: Kernel, features: Collection[str]) -> None:
        self.kernel = kernel
        self._features = features

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

    def compare_file(self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], path: str) -> Difference:
        """See `Driver`."""
        specs = [spec for tables in _tables(compilers) for spec in tables.specs]
        live = read_file(path, lambda lines, source: text.parse(lines, source, specs))
        compilers.adopt(live, {})
        compile_all(compilers, items, contexts)
        delta = diff(live, compilers.entries())
        return Difference.of(delta, lambda: shown_changes(delta, compilers.owners(live)), lambda: count(delta))

    @contextmanager
    def open(self) -> Iterator[OpenNftables]:
        """See `Driver`."""
        with Kernel() as kernel:
            yield OpenNftables(kernel, self._features)

    def remove(self, features: Collection[str]) -> list[str]:
        """See `Driver`; the tables of both families, and what an interrupted start may have left."""
        with Kernel() as kernel:
            names = [table_name(feature) for feature in features]
            return kernel.delete_tables([*names, *(f"{name}-scratch" for name in names)])


def _tables(compilers: CompilerSet) -> list[TableCompiler]:
    return list(compilers.by_feature.values())  # type: ignore[arg-type]
