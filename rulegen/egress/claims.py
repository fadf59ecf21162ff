"""Ranges that several claim come in, the outermost of them go out. Pure.

Of two CIDRs one lies within the other, or they share no address. Those that lie in no other are enough to know which
addresses are claimed, and a set of intervals takes them as they are. One that comes or goes costs a look at each length
of prefix in use and at those that lie within it, and touches none of its neighbours.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Collection, Iterator
from ipaddress import ip_network

from rulegen.networks import Network
from rulegen.reconcile.tracked import Tracked


class Claims:
    """Claims of one family's networks. `outermost`: by network, who claims it, in words."""

    def __init__(self) -> None:
        self.outermost: Tracked[Network, str] = Tracked()
        self._owners: dict[Network, set[str]] = {}
        # All that are claimed, in order: those that lie within one follow it. Made when first somebody asks for these.
        self._places: list[tuple[int, int]] | None = None
        self._lengths: Counter[int] = Counter()
        self._claimed: dict[str, frozenset[Network]] = {}

    def claim(self, owner: str, networks: Collection[Network]) -> None:
        """From now on that is all that an owner claims."""
        before = self._claimed.pop(owner, frozenset())
        after = frozenset(networks)
        if after:
            self._claimed[owner] = after
        for network in after - before:
            self._add(owner, network)
        for network in before - after:
            self._remove(owner, network)

    def claimed(self, owner: str) -> frozenset[Network]:
        """What an owner claims."""
        return self._claimed.get(owner, frozenset())

    def covering(self, address: str) -> tuple[Network, str] | None:
        """The range that an address is in, and whose it is."""
        network = self._around(ip_network(address), inclusive=True)
        return None if network is None else (network, self.outermost.now[network])

    def _add(self, owner: str, network: Network) -> None:
        owners = self._owners.setdefault(network, set())
        if not owners:
            self._lengths[network.prefixlen] += 1
            if self._places is not None:
                insort(self._places, _place(network))
        owners.add(owner)
        if self._around(network) is not None:
            return
        self.outermost.set(network, min(owners))
        if len(owners) == 1:
            for inner in self._outermost_within(network):
                self.outermost.set(inner, None)

    def _remove(self, owner: str, network: Network) -> None:
        owners = self._owners[network]
        owners.discard(owner)
        is_outermost = network in self.outermost
        if owners:
            if is_outermost:
                self.outermost.set(network, min(owners))
            return
        del self._owners[network]
        self._lengths[network.prefixlen] -= 1
        if not self._lengths[network.prefixlen]:
            del self._lengths[network.prefixlen]
        if self._places is not None:
            del self._places[bisect_left(self._places, _place(network))]
        if not is_outermost:
            return
        self.outermost.set(network, None)
        for inner in self._outermost_within(network):
            self.outermost.set(inner, min(self._owners[inner]))

    def _outermost_within(self, network: Network) -> Iterator[Network]:
        """The widest of those that are claimed and lie within a range, itself left out."""
        if not any(length > network.prefixlen for length in self._lengths):
            return
        if self._places is None:
            self._places = sorted(map(_place, self._owners))
        places, last = self._places, int(network.broadcast_address)
        place = bisect_right(places, _place(network))
        while place < len(places) and places[place][0] <= last:
            inner = type(network)(places[place])
            yield inner
            place = bisect_right(places, (int(inner.broadcast_address), network.max_prefixlen), place)

    def _around(self, network: Network, *, inclusive: bool = False) -> Network | None:
        """The widest range that is claimed and that a network lies in; `inclusive`: it may be that itself."""
        return next((one for one in self._supernets(network, inclusive=inclusive) if one in self._owners), None)

    def _supernets(self, network: Network, *, inclusive: bool) -> Iterator[Network]:
        last = network.prefixlen + inclusive
        return (network.supernet(new_prefix=length) for length in sorted(self._lengths) if length < last)


def _place(network: Network) -> tuple[int, int]:
    return int(network.network_address), network.prefixlen
