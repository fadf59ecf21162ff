"""The first packet of a connection comes in; whether it leaves with the node's address, and why, goes out. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from rulegen.egress.model import Side
from rulegen.egress.store import EXEMPTIONS, Store


class Decision(NamedTuple):
    """`reason`: a sentence for people."""

    is_masqueraded: bool
    reason: str


def decide(store: Store, source: str, destination: str, node_addresses: Collection[str]) -> Decision:
    """Of a packet that nobody else gives another source. Addresses are canonical.

    `destination`: where it goes behind DNAT. `node_addresses`: those that are known to be the node's.
    """
    pods = store.place(Side.PODS, source)
    if pods is None:
        return Decision(False, f"{source} is in no range of this node's pods")
    if destination in node_addresses:
        return Decision(False, f"{destination} is the node itself")
    cluster = store.place(Side.CLUSTER, destination)
    if cluster is not None:
        return Decision(False, f"{destination} is in the cluster ({cluster})")
    exempt = store.place(Side.EXEMPT, destination)
    if exempt is not None:
        return Decision(False, f"{destination} is exempt ({exempt})")
    return Decision(
        True, f"{source} is a pod's of this node ({pods}), and {destination} neither in the cluster nor in {EXEMPTIONS}"
    )
