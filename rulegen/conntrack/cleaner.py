"""Removes stale UDP flows (SVC-72 to SVC-76, D5): changes come in, what is to be looked at is kept until that succeeds.

Nothing is opened and nothing listed unless a UDP Frontend is concerned, or an address that nobody has any more; then
the kernel lists the flows to that alone, or all UDP flows where many are concerned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from rulegen.config import Family
from rulegen.conntrack.frontends import Flow, FrontendKey, Judge, UdpFrontends
from rulegen.conntrack.refusals import Closed, ClusterIps, Refusals
from rulegen.conntrack.table import (
    REMOVED_AT_ONCE,
    ConnectionTable,
    Filter,
    TrackedFlow,
    narrowest_filter,
    unreplied_filter,
)
from rulegen.errors import ConntrackError
from rulegen.interfaces import own_addresses
from rulegen.networks import contains, is_loopback, parse_network
from rulegen.services.model import Changes, NodeSettings

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
    """Follows the ServicePorts of one node. All calls are made by one thread at a time.

    `open_table`: opens the connections of the calling thread's network namespace.
    """

    def __init__(self, open_table: Callable[[], ConnectionTable] = ConnectionTable) -> None:
        """Knows no ServicePort and has nothing to do."""
        self._open_table = open_table
        self._frontends = UdpFrontends()
        self._cluster_ips = ClusterIps()
        self._pending: set[FrontendKey] = set()
        self._closed: set[Closed] = set()

    def note(self, changes: Changes) -> None:
        """Takes each change of the cluster once, in order, before or after it is applied.

        ServicePorts that appear count as changed, so the first changes after a start concern all UDP Frontends.
        """
        self._pending |= self._frontends.replace(changes.service_ports)
        for family, node in changes.node.items():
            before = self._cluster_ips.nodes.get(family)
            if before is None or before.nodeport_addresses != node.nodeport_addresses:
                self._pending.update(self._frontends.node_ports(family))
        self._closed |= self._cluster_ips.note(changes)

    def note_all(self) -> None:
        """Rules were missing or wrong for a while: flows to any Frontend may be stale."""
        self._pending.update(self._frontends.all())
        self._closed.update(Closed(family) for family, node in self._cluster_ips.nodes.items() if node.service_cidrs)

    @property
    def is_pending(self) -> bool:
        """Whether `clean` has something to do."""
        return bool(self._pending or self._closed)

    def clean(self) -> Cleaned:
        """Removes stale flows to all pending Frontends; call it when the rules are in force.

        Raises HostError (privileges, kernel) or ConntrackError; what had not been done by then is still pending.
        """
        started = time.monotonic()
        removed: dict[Family, int] = {}
        frontends = len(self._pending)
        listed = 0
        if self.is_pending:
            with self._open_table() as table:
                clean_up = _CleanUp(table, *self._verdicts())
                for wanted, done in _listings(self._pending, self._closed).items():
                    removed[wanted.family] = removed.get(wanted.family, 0) + clean_up.look_at(wanted)
                    self._pending.difference_update(done.frontends)
                    self._closed.difference_update(done.closed)
                listed = table.listed
        return Cleaned(frontends, listed, removed, time.monotonic() - started)

    def _verdicts(self) -> tuple[Judge, Refusals]:
        """On the flows to all that is pending now."""
        addresses = _Addresses(self._cluster_ips.nodes)
        frontends, closed = frozenset(self._pending), frozenset(self._closed)
        return (
            Judge(self._frontends, frontends, addresses.accept_node_ports, addresses.is_own),
            Refusals(
                self._frontends,
                self._cluster_ips,
                (frontends, closed),
                addresses.own,
                addresses.accept_node_ports,
            ),
        )


class _CleanUp:
    """One clean-up in an open table."""

    def __init__(self, table: ConnectionTable, judge: Judge, refusals: Refusals) -> None:
        self._table = table
        self._judge = judge
        self._refusals = refusals

    def look_at(self, wanted: Filter) -> int:
        """Removes the stale ones among the flows that a filter lets through; returns how many there were."""
        removed = 0
        for _ in range(_ATTEMPTS):
            flows = self._table.udp_flows(wanted)
            removed += self._remove(tracked for tracked in flows if self._is_to_go(tracked.flow))
            if not self._table.is_partial:
                return removed
        raise ConntrackError(f"listing connections: interrupted {_ATTEMPTS} times; what was listed is cleaned up")

    def _is_to_go(self, flow: Flow) -> bool:
        return self._judge.is_stale(flow) or self._refusals.refuses(flow)

    def _remove(self, stale: Iterator[TrackedFlow]) -> int:
        removed = 0
        while batch := list(islice(stale, REMOVED_AT_ONCE)):
            removed += self._table.remove(batch)
        return removed


class _Addresses:
    """The node's own, and those that accept NodePorts; the kernel is asked when the first one matters."""

    def __init__(self, nodes: Mapping[Family, NodeSettings]) -> None:
        self._nodes = nodes
        self._own: dict[Family, frozenset[str]] = {}
        self._accepting: dict[Family, frozenset[str]] = {}

    def own(self, family: Family) -> frozenset[str]:
        """Those on interfaces."""
        if family not in self._own:
            self._own[family] = frozenset(own_addresses(family))
        return self._own[family]

    def is_own(self, family: Family, address: str) -> bool:
        """Whether it is on an interface, and no loopback."""
        return address in self.own(family) and not is_loopback(address)

    def accept_node_ports(self, family: Family, address: str) -> bool:
        """SVC-60 to SVC-63, without loopback (SVC-66)."""
        if family not in self._accepting:
            self._accepting[family] = frozenset(self._find(family))
        return address in self._accepting[family]

    def _find(self, family: Family) -> Iterator[str]:
        if family not in self._nodes:
            return
        networks = [network for cidr in self._nodes[family].nodeport_addresses if (network := parse_network(cidr))]
        for address in self.own(family):
            if not is_loopback(address) and contains(networks, address):
                yield address


class _Answered(NamedTuple):
    """What of the pending a listing is about."""

    frontends: list[FrontendKey]
    closed: list[Closed]


def _listings(pending: Iterable[FrontendKey], closed: Iterable[Closed]) -> dict[Filter, _Answered]:
    """What the kernel is asked for, and what each answer is about, in a fixed order."""
    listings: dict[Filter, _Answered] = {}
    for family in Family:
        frontends = sorted((key for key in pending if key.family is family), key=lambda key: key[1:])
        addresses = sorted((one for one in closed if one.family is family), key=lambda one: one.address)
        listings |= _narrow_listings(frontends, addresses) or {Filter(family): _Answered(frontends, addresses)}
    return {wanted: answered for wanted, answered in listings.items() if any(answered)}


def _narrow_listings(frontends: Iterable[FrontendKey], closed: Sequence[Closed]) -> dict[Filter, _Answered]:
    """Of one family; none where it is better to look at all flows at once."""
    narrow: dict[Filter, _Answered] = {}
    for key in frontends:
        narrow.setdefault(narrowest_filter(key), _Answered([], [])).frontends.append(key)
    if len(narrow) > LISTINGS_AT_MOST:
        return {}
    everywhere = len(closed) > LISTINGS_AT_MOST
    for one in closed:
        wanted = unreplied_filter(one.family, "" if everywhere else one.address)
        narrow.setdefault(wanted, _Answered([], [])).closed.append(one)
    return narrow
