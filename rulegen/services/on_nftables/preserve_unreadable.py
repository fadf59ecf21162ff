"""What stays in the kernel though nothing is known of it: Services and pods that cannot be read, and were not before.

Live entries come in, and Deltas; Deltas without the removals that would take something from one of them go out.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet

from rulegen.config import Family
from rulegen.nftables.elements import EntryKey, Value, safe_comment
from rulegen.nftables.tables import AllEntries
from rulegen.reconcile.delta import Delta
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.names import names_in
from rulegen.services.on_nftables.registers import service_port_of

# Entries that are for no single Service, or do not say for which: none of them goes meanwhile.
_UNNAMED = frozenset({"balancers", "hairpin", "cluster-ips", "source-ranges"})


class UnreadableServices:
    """What is kept. It takes no time when there is nothing, as nearly always."""

    def __init__(self, owners: Collection[str] = ()) -> None:
        """`owners`: as comments begin (`model.owner_text`)."""
        self._owners = frozenset(map(safe_comment, owners))
        # Of their service-ports.
        self.ids: AbstractSet[tuple[Family, int]] = frozenset()

    def look_at(self, live: AllEntries) -> None:
        """Finds their ids among the live entries; they are those of the kernel at that time."""
        self.ids = (
            {key for key, comment in names_in(live).items() if self._is_name(comment)} if self._owners else frozenset()
        )

    def spare(self, delta: Delta[EntryKey, Value]) -> Delta[EntryKey, Value]:
        """The Delta without what would be taken from them."""
        if not self._owners:
            return delta
        removed = {entry: value for entry, value in delta.removed.items() if not self._is_kept(entry, value)}
        return Delta(delta.added, delta.changed, removed)

    def _is_kept(self, entry: EntryKey, value: Value) -> bool:
        set_spec = entry[0]
        if set_spec.spec is not LAYOUTS[set_spec.family]:
            return False
        if set_spec.is_chains or set_spec.name in _UNNAMED or self._is_name(value.comment):
            return True
        return (set_spec.family, service_port_of(*entry)) in self.ids

    def _is_name(self, comment: str) -> bool:
        return any(comment == text or comment.startswith(f"{text}:") for text in self._owners)
