"""Ends UDP flows of pods that left with their own addresses before rules were there, and that nobody has answered.

A chain of type nat sees the first packet of a flow and no other: a pod that began to send while its node had no rules
yet would go on from an address that nobody can answer, as long as it sends. Flows that somebody has answered live on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

from rulegen.config import Family
from rulegen.conntrack.frontends import Flow
from rulegen.conntrack.table import REMOVED_AT_ONCE, ConnectionTable, TrackedFlow, unreplied_filter
from rulegen.egress.model import Side
from rulegen.egress.simulate import decide
from rulegen.egress.store import Store
from rulegen.errors import ConntrackError
from rulegen.interfaces import own_addresses

_ATTEMPTS = 5


class PodFlows:
    """Those of one node. `open_table`: opens the connections of the calling thread's network namespace."""

    def __init__(self, store: Store, open_table: Callable[[], ConnectionTable] = ConnectionTable) -> None:
        self._store = store
        self._open_table = open_table

    def end(self) -> int:
        """Removes them; how many. Raises ConntrackError, HostError; what is left is found the next time."""
        families = [family for family in Family if self._store.ranges(Side.PODS, family)]
        if not families:
            return 0
        with self._open_table() as table:
            return sum(self._end_of(family, table) for family in families)

    def _end_of(self, family: Family, table: ConnectionTable) -> int:
        removed = 0
        own = frozenset(own_addresses(family))
        for _ in range(_ATTEMPTS):
            listed = table.udp_flows(unreplied_filter(family))
            for part in _parts(tracked for tracked in listed if self._must_end(tracked.flow, own)):
                removed += table.remove(part)
            if not table.is_partial:
                return removed
        raise ConntrackError(f"the connections changed during each of {_ATTEMPTS} attempts to list them")

    def _must_end(self, flow: Flow, own: Collection[str]) -> bool:
        """Whether its first packet would be masqueraded now; one that was given another source is nobody's business."""
        if flow.is_replied or flow.reply_destination != flow.source:
            return False
        return decide(self._store, flow.source, flow.reply_source, own).is_masqueraded


def _parts(found: Iterable[TrackedFlow]) -> Iterator[list[TrackedFlow]]:
    iterator = iter(found)
    while part := list(islice(iterator, REMOVED_AT_ONCE)):
        yield part
