"""What egress masquerading says of sets of packets: ranges come in, which packets leave masqueraded goes out.

Written from docs/egress-masquerade.md, without a look at any rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from rulegen.config import Family
from rulegen.egress.model import Side
from rulegen.egress.store import Store
from rulegen.netfilter.intervals import EMPTY, Intervals
from rulegen.netfilter.machine import Fate, Outcome
from rulegen.netfilter.regions import DST, SRC
from rulegen.netfilter.state import Connection, State, split, split_local
from rulegen.verify.layers import Judged, Place


class EgressMeaning:
    """The ranges of one family; see `layers.Layer`."""

    # A pod's address is none of the node's, but one of the same range may be, as that of a bridge.
    foreign: Intervals = EMPTY

    def __init__(self, store: Store, family: Family) -> None:
        """Takes the ranges as they are."""
        sides = {side: _numbers(store.ranges(side, family)) for side in Side}
        self._pods = sides[Side.PODS]
        self._kept = sides[Side.CLUSTER] | sides[Side.EXEMPT]

    def judge(self, state: State, outcome: Outcome, connection: Connection, place: Place) -> Iterator[Judged]:
        """See `layers.Layer`. What the node receives does not leave; what has another source by then keeps it."""
        leaves = outcome.fate in {Fate.PASSED, Fate.TRANSLATED} and place is not Place.RECEIVED
        if not (leaves and connection.is_first) or outcome.masqueraded:
            yield Judged(state, outcome)
            return
        pods, others = split(state, state.fields[SRC], self._pods)
        for pod in pods:
            kept, outside = split(pod, pod.fields[DST], self._kept)
            others += kept
            for one in outside:
                for part, is_local in split_local(one, DST):
                    if is_local:
                        others.append(part)
                    else:
                        yield Judged(part, outcome._replace(masqueraded=True), "a pod's, to outside of the cluster")
        yield from (Judged(one, outcome) for one in others)


def _numbers(cidrs: list[str]) -> Intervals:
    networks = map(ip_network, cidrs)
    return Intervals.of((int(one.network_address), int(one.broadcast_address)) for one in networks)
