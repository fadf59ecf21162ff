"""Which tracked connections must end: those of addresses that a pod has lost, those that policies now forbid. Pure.

A connection comes in as conntrack has it, behind DNAT: who began it, and who answers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from rulegen.policies.model import Address
from rulegen.policies.simulate import Host, Packet, simulate
from rulegen.policies.store import Store


class Connection(NamedTuple):
    """`client`: who began it. `destination`: where it was sent. `server`, `port`: who answers, 0 without ports.

    `protocol`: TCP, UDP, SCTP or another one's name.
    """

    protocol: str
    client: Address
    destination: Address
    server: Address
    port: int


def is_of(connection: Connection, addresses: Collection[Address]) -> bool:
    """Whether one of the addresses takes part."""
    return not {connection.client, connection.destination, connection.server}.isdisjoint(addresses)


def is_forbidden(store: Store, connection: Connection, host: Host) -> bool:
    """Whether policies forbid on this node what was allowed once: only its own pods are asked about.

    `host`: the node. What it has with its pods is judged as rarely as its packets are.
    """
    packet = Packet(connection.client, connection.server, connection.protocol, connection.port)
    verdict = simulate(store, packet, host)
    egress_here = _is_local(store, connection.client) and not verdict.egress.is_allowed
    return egress_here or (_is_local(store, connection.server) and not verdict.ingress.is_allowed)


def _is_local(store: Store, address: Address) -> bool:
    record = store.holder(address)
    return record is not None and record.is_local
