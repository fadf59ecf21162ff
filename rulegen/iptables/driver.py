"""The door of the iptables driver: features' chains rendered, compared, kept in the kernel, removed.

In: compilers, which bring chains (`chains.ChainCompiler`). Out: text, Deltas, and a kernel that is kept equal. Never
knows what a chain is about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from rulegen.config import IptablesLoader
from rulegen.errors import UnseenError
from rulegen.iptables import text
from rulegen.iptables.binaries import Variant
from rulegen.iptables.chains import by_rank, prefixes_of
from rulegen.iptables.diff_text import count
from rulegen.iptables.drift import PeriodicResync
from rulegen.iptables.kernel import Kernel, remove_ipsets, remove_rules
from rulegen.iptables.live_rules import LiveChains, shown_changes
from rulegen.iptables.loader import Loader, RestoreLoader
from rulegen.iptables.python_iptables import PythonLoader
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.delta import diff
from rulegen.reconcile.driver import Difference, Removal, compile_all, read_file

# A sync costs about the same whatever it changes, a second on large nodes: smaller ones only fall behind.
_BATCH = 5000


LOADERS: Mapping[IptablesLoader, Callable[[Variant, int], Loader]] = {
    IptablesLoader.RESTORE: RestoreLoader,
    IptablesLoader.PYTHON: PythonLoader,
}


class OpenIptables:
    """See `OpenDriver`."""

    batch = _BATCH

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        # What an earlier run left in the other variant.
        self.leftovers: Sequence[Removal] = (partial(remove_rules, set(Variant) - {kernel.variant}),)

    def rules(self, compilers: CompilerSet, patience: float = 0.0) -> LiveChains:
        """See `OpenDriver`."""
        return LiveChains(self.kernel, compilers, patience)

    def watch(self, period: float, now: float) -> PeriodicResync:
        """See `OpenDriver`; nobody tells."""
        return PeriodicResync(period, now)


class IptablesDriver:
    """See `Driver`. `variant` None: the one that the host uses. `loader`: how changes get into the kernel."""

    name = "iptables"

    def __init__(self, variant: Variant | None = None, loader: IptablesLoader = IptablesLoader.RESTORE) -> None:
        self._variant = variant
        self._loader = loader

    def render(self, compilers: CompilerSet) -> Iterator[str]:
        """As `iptables-restore --noflush` takes it, a part for each family."""
        return text.render(by_rank(compilers))

    def compare_file(self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], path: str) -> Difference:
        """See `Driver`."""
        prefixes = prefixes_of(by_rank(compilers))
        live = read_file(path, lambda lines, source: text.parse(lines, source, prefixes))
        compile_all(compilers, items, contexts)
        desired = compilers.entries()
        delta = diff(text.adopt_wording(live, desired), desired)
        return Difference.of(delta, lambda: shown_changes(delta, compilers.owners(live)), lambda: count(delta))

    @contextmanager
    def open(self) -> Iterator[OpenIptables]:
        """See `Driver`."""
        with Kernel(self._variant, make_loader=LOADERS[self._loader]) as kernel:
            yield OpenIptables(kernel)

    def remove(self, features: Collection[str]) -> list[str]:
        """See `Driver`; the chains of both families, in both variants, then the sets that they looked into."""
        del features
        removed: list[str] = []
        unseen: list[str] = []
        for remove in (partial(remove_rules, Variant), remove_ipsets):
            try:
                removed += remove()
            except UnseenError as error:
                removed += error.removed
                unseen.append(str(error))
        if unseen:
            raise UnseenError("; ".join(unseen), removed)
        return removed
