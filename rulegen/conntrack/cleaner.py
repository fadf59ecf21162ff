"""Removes stale UDP flows (rules 72-76, D5): changes come in, what is to be looked at is kept until that has succeeded.

Nothing is opened and nothing listed unless a UDP Frontend is concerned; then the kernel lists the flows to that
Frontend alone, or all UDP flows where many are concerned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from rulegen.config import Family
from rulegen.conntrack.frontends import FrontendKey, Judge, UdpFrontends
from rulegen.conntrack.table import REMOVED_AT_ONCE, ConnectionTable, Filter, TrackedFlow, narrowest_filter
from rulegen.errors import ConntrackError
from rulegen.interfaces import own_addresses
from rulegen.routing.addresses import contains, is_loopback, parse_network
from rulegen.routing.model import Changes, NodeRouting

# Each listing walks the whole table in the kernel. One of all UDP flows takes as long as two narrow ones when there are
# 1,000 flows, as thirteen when there are 20,000, as forty when there are 100,000.
LISTINGS_AT_MOST = 8
_ATTEMPTS = 5


class Cleaned(NamedTuple):
    """What a clean-up did. `frontends`: how many were looked at. `listed`: entries that the kernel copied for it.

    `removed`: entries by family, for the families that were looked at.
    """

    frontends: int
    listed: int
    removed: dict[Family, int]
    seconds: float


class Cleaner:
    """Follows the Routes of one node. All calls are made by one thread at a time.

    `open_table`: opens the connections of the calling thread's network namespace.
    """

    def __init__(self, open_table: Callable[[], ConnectionTable] = ConnectionTable) -> None:
        """Knows no Route and has nothing to do."""
        self._open_table = open_table
        self._frontends = UdpFrontends()
        self._nodes: dict[Family, NodeRouting] = {}
        self._pending: set[FrontendKey] = set()

    def note(self, changes: Changes) -> None:
        """Takes each change of the cluster once, in order, before or after it is applied.

        Routes that appear count as changed, so the first changes after a start concern all UDP Frontends.
        """
        self._pending |= self._frontends.replace(changes.routes)
        for family, node in changes.node.items():
            before = self._nodes.get(family)
            if before is None or before.nodeport_addresses != node.nodeport_addresses:
                self._pending.update(self._frontends.node_ports(family))
        self._nodes |= changes.node

    def note_all(self) -> None:
        """Rules were missing or wrong for a while: flows to any Frontend may be stale."""
        self._pending.update(self._frontends.all())

    @property
    def is_pending(self) -> bool:
        """Whether `clean` has something to do."""
        return bool(self._pending)

    def clean(self) -> Cleaned:
        """Removes stale flows to all pending Frontends; call it when the rules are in force.

        Raises HostError (privileges, kernel) or ConntrackError; what had not been done by then is still pending.
        """
        started = time.monotonic()
        removed: dict[Family, int] = {}
        frontends = len(self._pending)
        listed = 0
        if frontends:
            with self._open_table() as table:
                accept = _NodePortAddresses(self._nodes).accept
                clean_up = _CleanUp(table, Judge(self._frontends, frozenset(self._pending), accept))
                for wanted, done in _listings(self._pending).items():
                    removed[wanted.family] = removed.get(wanted.family, 0) + clean_up.look_at(wanted)
                    self._pending.difference_update(done)
                listed = table.listed
        return Cleaned(frontends, listed, removed, time.monotonic() - started)


class _CleanUp:
    """One clean-up in an open table."""

    def __init__(self, table: ConnectionTable, judge: Judge) -> None:
        self._table = table
        self._judge = judge

    def look_at(self, wanted: Filter) -> int:
        """Removes the stale ones among the flows that a filter lets through; returns how many there were."""
        removed = 0
        for _ in range(_ATTEMPTS):
            flows = self._table.udp_flows(wanted)
            removed += self._remove(tracked for tracked in flows if self._judge.is_stale(tracked.flow))
            if not self._table.is_partial:
                return removed
        raise ConntrackError(f"listing connections: interrupted {_ATTEMPTS} times; what was listed is cleaned up")

    def _remove(self, stale: Iterator[TrackedFlow]) -> int:
        removed = 0
        while batch := list(islice(stale, REMOVED_AT_ONCE)):
            removed += self._table.remove(batch)
        return removed


class _NodePortAddresses:
    """The node's own addresses that accept NodePorts; the kernel is asked when the first one matters."""

    def __init__(self, nodes: Mapping[Family, NodeRouting]) -> None:
        self._nodes = nodes
        self._accepting: dict[Family, frozenset[str]] = {}

    def accept(self, family: Family, address: str) -> bool:
        """Rules 60-63, without loopback (rule 66)."""
        if family not in self._accepting:
            self._accepting[family] = frozenset(self._find(family))
        return address in self._accepting[family]

    def _find(self, family: Family) -> Iterator[str]:
        if family not in self._nodes:
            return
        networks = [network for cidr in self._nodes[family].nodeport_addresses if (network := parse_network(cidr))]
        for address in own_addresses(family):
            if not is_loopback(address) and contains(networks, address):
                yield address


def _listings(pending: Iterable[FrontendKey]) -> dict[Filter, list[FrontendKey]]:
    """What the kernel is asked for, and the Frontends that each answer is about, in a fixed order."""
    listings: dict[Filter, list[FrontendKey]] = {}
    for family in Family:
        narrow: dict[Filter, list[FrontendKey]] = {}
        for key in sorted((key for key in pending if key.family is family), key=lambda key: key[1:]):
            narrow.setdefault(narrowest_filter(key), []).append(key)
        if len(narrow) > LISTINGS_AT_MOST:
            narrow = {Filter(family): [key for keys in narrow.values() for key in keys]}
        listings |= narrow
    return listings
