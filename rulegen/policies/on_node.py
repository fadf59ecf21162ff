"""A packet comes in as a node has it behind DNAT and before SNAT; what the node's policies make of it goes out.

Of the pods of other nodes nothing is asked here: their own nodes do. Follows the same facts that targets compile,
without a kernel.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import ip_address, ip_network

from rulegen.config import Denial, PolicySettings
from rulegen.policies.model import Address, Direction, family_of
from rulegen.policies.simulate import Host, Packet, simulate
from rulegen.policies.store import Store


class Fate(Enum):
    """What becomes of the packet."""

    PASSED = "passed"
    DROPPED = "dropped"
    REJECTED = "rejected"


def fate_of(store: Store, settings: PolicySettings, packet: Packet, host: Host) -> Fate:
    """What becomes of the first packet of a connection on the node whose Store it is."""
    if any(_is_closed(store, settings, address) for address in _guarded(packet, host)):
        return Fate.DROPPED
    verdict = simulate(store, packet, host)
    for direction, decision in ((Direction.EGRESS, verdict.egress), (Direction.INGRESS, verdict.ingress)):
        if not decision.is_allowed and store.is_local(packet.subject(direction)):
            return Fate.DROPPED if settings.denial is Denial.DROP else Fate.REJECTED
    return Fate.PASSED


def _guarded(packet: Packet, host: Host) -> tuple[Address, ...]:
    """The ends of which failClosed wants to know who they are: of what is forwarded both, of what is received one."""
    if packet.source in host.addresses:
        return ()
    if packet.destination in host.addresses:
        return (packet.source,) if host.node_input else ()
    return packet.source, packet.destination


def _is_closed(store: Store, settings: PolicySettings, address: Address) -> bool:
    """Whether it is of this node's pod ranges, and nobody has told of a pod that has it."""
    if not settings.fail_closed or store.is_local(address):
        return False
    ranges = map(ip_network, store.pod_ranges(family_of(address)))
    return any(ip_address(address) in one for one in ranges)
