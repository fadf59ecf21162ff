"""The door of the iptables driver: features' chains rendered, compared, kept in the kernel, removed.

In: compilers, which bring chains (`chains.ChainCompiler`). Out: text, Deltas, and a kernel that is kept equal. Never
knows what a chain is about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from rulegen.config import IptablesLoader
from rulegen.errors import UnseenError
from rulegen.iptables import text
from rulegen.iptables.binaries import Variant
from rulegen.iptables.chains import Entries, EntryKey, Rules, by_rank, features_by_prefix, prefixes_of
from rulegen.iptables.diff_text import count, shown_changes
from rulegen.iptables.drift import PeriodicResync
from rulegen.iptables.kernel import Kernel, find_ipsets, find_rules, remove_ipsets, remove_rules
from rulegen.iptables.live_rules import LiveChains
from rulegen.iptables.loader import Loader, RestoreLoader
from rulegen.iptables.packed import pack, unpack
from rulegen.iptables.python_iptables import PythonLoader
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.delta import diff
from rulegen.reconcile.driver import Difference, Removal, compile_all

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
        self.variant = kernel.variant.value
        # What an earlier run left in the other variant.
        self._others = tuple(variant for variant in Variant if variant is not kernel.variant)
        self.leftovers: Sequence[Removal] = (partial(remove_rules, self._others),)

    def find_leftovers(self) -> list[str]:
        """See `OpenDriver`; those of the other variant."""
        return find_rules(self._others)

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

    def compare_rendered(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], lines: Iterable[str], source: str
    ) -> Difference:
        """See `Driver`."""
        return _compare(text.parse(lines, source, prefixes_of(by_rank(compilers))), compilers, items, contexts)

    def compare_compiled(
        self, before: CompilerSet, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any]
    ) -> Difference:
        """See `Driver`."""
        return _compare(before.entries(), compilers, items, contexts)

    def pack(self, live: Mapping[EntryKey, Rules]) -> list[Any]:
        """See `Driver`."""
        return pack(live)

    def compare_packed(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], packed: Any, source: str
    ) -> tuple[Entries, Difference]:
        """See `Driver`."""
        live = unpack(packed, source)
        compilers.adopt(live, {})
        difference = _compare(live, compilers, items, contexts)
        return dict(text.adopt_wording(live, compilers.entries())), difference

    @contextmanager
    def open(self) -> Iterator[OpenIptables]:
        """See `Driver`."""
        with Kernel(self._variant, make_loader=LOADERS[self._loader]) as kernel:
            yield OpenIptables(kernel)

    def find(self, features: Collection[str]) -> list[str]:
        """See `Driver`; the chains of both families, in both variants, and the sets that they look into."""
        del features
        return _all_of(partial(find_rules, Variant), find_ipsets)

    def remove(self, features: Collection[str]) -> list[str]:
        """See `Driver`; the chains of both families, in both variants, then the sets that they looked into."""
        del features
        return _all_of(partial(remove_rules, Variant), remove_ipsets)


def _all_of(*parts: Removal) -> list[str]:
    """What each has done, or found. Raises UnseenError when one of them does, after all."""
    done: list[str] = []
    unseen: list[str] = []
    for part in parts:
        try:
            done += part()
        except UnseenError as error:
            done += error.removed
            unseen.append(str(error))
    if unseen:
        raise UnseenError("; ".join(unseen), done)
    return done


def _compare(
    before: Mapping[EntryKey, Rules], compilers: CompilerSet, items: Items, contexts: Mapping[str, Any]
) -> Difference:
    compile_all(compilers, items, contexts)
    desired = compilers.entries()
    delta = diff(text.adopt_wording(before, desired), desired)
    features = features_by_prefix(compilers)
    return Difference.of(delta, lambda: shown_changes(delta, compilers.owners(before), features), lambda: count(delta))
