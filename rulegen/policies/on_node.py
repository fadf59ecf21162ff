"""A packet comes in as a node has it behind DNAT and before SNAT; what the node's policies make of it goes out.

Of the pods of other nodes nothing is asked here: their own nodes do. Follows the same facts that targets compile,
without a kernel.
"""

from __future__ import annotations

from enum import Enum

from rulegen.config import Denial, PolicySettings
from rulegen.policies.model import Direction
from rulegen.policies.simulate import Host, Packet, Reason, simulate
from rulegen.policies.store import Store


class Fate(Enum):
    """What becomes of the packet."""

    PASSED = "passed"
    DROPPED = "dropped"
    REJECTED = "rejected"


def fate_of(store: Store, settings: PolicySettings, packet: Packet, host: Host) -> Fate:
    """What becomes of the first packet of a connection on the node whose Store it is."""
    verdict = simulate(store, packet, host)
    if any(decision.reason is Reason.UNTOLD for decision in verdict):
        return Fate.DROPPED
    for direction, decision in ((Direction.EGRESS, verdict.egress), (Direction.INGRESS, verdict.ingress)):
        if not decision.is_allowed and store.is_local(packet.subject(direction)):
            return Fate.DROPPED if settings.denial is Denial.DROP else Fate.REJECTED
    return Fate.PASSED
