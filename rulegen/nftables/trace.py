"""The entries that a packet meets: a followed packet and a ruleset's entries come in, chains and elements go out. Pure.

What becomes of the packet was decided from the Frontends (`routing.flow`); here that is found again in the tables.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.nftables.layout import (
    LAYOUTS,
    LOCAL_LIST,
    MAX_HANDLE,
    PROTOCOL_BYTES,
    Container,
    EntryKey,
    Value,
    address_bytes,
    pack_port,
    pack_register,
    unpack_register,
)
from rulegen.routing.addresses import is_loopback
from rulegen.routing.flow import Fate, Origin, Outcome, Packet


class Path(NamedTuple):
    """The chains that decide, in the order in which the packet passes them, and the entries that it meets there."""

    chains: tuple[str, ...]
    keys: tuple[EntryKey, ...]


def trace(
    entries: Mapping[EntryKey, Value],
    family: Family,
    packet: Packet,
    outcome: Outcome,
    node_addresses: Collection[str],
) -> Path:
    """Where in `entries` the `outcome` of a packet comes from; no chains and no entries for one that is untouched."""
    tracer = _Tracer(entries, family, packet, outcome.origin is Origin.NODE)
    passed = tracer.firewall()
    if outcome.fate is Fate.BALANCED:
        tracer.dispatch(outcome.origin)
        tracer.masquerade(outcome)
    elif passed:
        received = packet.destination in node_addresses or is_loopback(packet.destination)
        tracer.filters(received=received)
    return Path(tuple(tracer.chains), tuple(tracer.keys))


class _Tracer:
    """Looks up what the fixed program looks up, and remembers what it found."""

    def __init__(self, entries: Mapping[EntryKey, Value], family: Family, packet: Packet, sent: bool) -> None:
        self._entries = entries
        self._layout = LAYOUTS[family]
        self._packet = packet
        self._sent = sent
        self._source = address_bytes(family, packet.source)
        self._destination = address_bytes(family, packet.destination)
        # Without ports nothing matches but the address.
        self._protocol = PROTOCOL_BYTES.get(packet.protocol)
        self._port = b"" if self._protocol is None else self._protocol + pack_port(packet.port)
        self.chains: list[str] = []
        self.keys: dict[EntryKey, None] = {}

    def firewall(self) -> bool:
        """Whether the source may go on (rule 51)."""
        if not self._meet_frontend(self._layout.firewalled):
            return True
        self.chains += [f"{self._hook}-firewall", "firewall"]
        return self._meet_range(self._layout.source_ranges, self._destination + self._port, self._source)

    def dispatch(self, origin: Origin) -> None:
        """From the Frontend to the endpoints."""
        layout = self._layout
        self.chains += [self._hook, "services", "route"]
        for container in (layout.internal, layout.external, layout.external_local):
            if register := self._meet_frontend(container):
                self._follow(container.name, register, origin)
                return
        self._meet_range(layout.nodeport_addresses, b"", self._destination)
        self.chains.append("nodeports")
        for container, chain in ((layout.nodeports, "external"), (layout.nodeports_local, "external-local")):
            if register := self._meet(container, self._port):
                self._follow(chain, register, origin)
                return

    def masquerade(self, outcome: Outcome) -> None:
        """Where the source address is replaced."""
        if any(delivery.masquerade for delivery in outcome.deliveries):
            self.chains.append("postrouting")
        if any(delivery.backend.address == self._packet.source for delivery in outcome.deliveries):
            self._meet(self._layout.hairpin, self._source + self._source)

    def filters(self, *, received: bool) -> None:
        """Where a packet that nobody redirected is rejected or dropped; the order is that of `routing.flow`."""
        outgoing = "filter-output" if self._sent else "filter-forward"
        if (self._sent or not received) and (self._endpoints_check(outgoing) or self._cluster_ips_check(outgoing)):
            return
        if received:
            _ = self._nodeports_check() or self._endpoints_check("filter-input")

    @property
    def _hook(self) -> str:
        return "output" if self._sent else "prerouting"

    # -- from the Frontend to the endpoints --

    def _follow(self, chain: str, found: Value, origin: Origin) -> None:
        self.chains.append(chain)
        register = unpack_register(found.data)
        if chain == "external-local" and origin is Origin.OUTSIDE:
            register |= LOCAL_LIST
        self._follow_list(pack_register(register))

    def _follow_list(self, register: bytes) -> None:
        layout = self._layout
        if counted := self._meet(layout.slots, register):
            slots = unpack_register(counted.data) & MAX_HANDLE
            self.chains.append("balance")
            self._meet(layout.balancers, pack_register(slots))
            self._follow_slots(f"lb-{slots}", register)
        elif verdict := self._meet(layout.lists, register):
            chain = _target(verdict)
            if chain.startswith("lb-"):
                self._follow_slots(chain, register)
            else:
                self._follow_sticky(chain, register)

    def _follow_slots(self, chain: str, register: bytes) -> None:
        self._meet_chain(chain)
        prefix = register + (self._protocol or b"")
        for slot in range(_number(chain)):
            self._meet(self._layout.endpoints, prefix + pack_register(slot))

    def _follow_sticky(self, chain: str, register: bytes) -> None:
        layout = self._layout
        self._meet_chain(chain)
        verdict = self._meet(layout.sticky_lists, register)
        if verdict is None:
            return
        pick = _target(verdict)
        self._meet_chain(pick)
        local = chain.startswith("sticky-local-")
        endpoints = layout.sticky_local_endpoints if local else layout.sticky_endpoints
        for slot in range(_number(pick)):
            if handle := self._meet(layout.handles, register + pack_register(slot)):
                self._meet(endpoints, handle.data + (self._protocol or b""))

    # -- verdicts --

    def _endpoints_check(self, hook: str) -> bool:
        layout = self._layout
        met = self._meet_frontend(layout.no_endpoints) or self._meet_frontend(layout.no_local_endpoints)
        return self._passed(bool(met), hook, "endpoints-check")

    def _cluster_ips_check(self, hook: str) -> bool:
        layout = self._layout
        met = self._meet(layout.cluster_ips, self._destination) or self._meet_range(
            layout.service_cidrs, b"", self._destination
        )
        return self._passed(bool(met), hook, "cluster-ips-check")

    def _nodeports_check(self) -> bool:
        layout = self._layout
        if not self._port or is_loopback(self._packet.destination):
            return False
        containers = (layout.no_endpoint_nodeports, layout.no_local_endpoint_nodeports)
        if not any((container, self._port) in self._entries for container in containers):
            return False
        if not self._meet_range(layout.nodeport_addresses, b"", self._destination):
            return False
        met = any(self._meet(container, self._port) for container in containers)
        return self._passed(met, "filter-input", "nodeports-check")

    def _passed(self, met: bool, *chains: str) -> bool:
        if met:
            self.chains += chains
        return met

    # -- lookups --

    def _meet(self, container: Container, key: bytes) -> Value | None:
        value = self._entries.get((container, key))
        if value is not None:
            self.keys[container, key] = None
        return value

    def _meet_chain(self, name: str) -> None:
        self.chains.append(name)
        self._meet(self._layout.chains, name.encode())

    def _meet_frontend(self, container: Container) -> Value | None:
        return self._meet(container, self._destination + self._port) if self._port else None

    def _meet_range(self, container: Container, prefix: bytes, address: bytes) -> bool:
        """A range of an interval set, whose keys hold both ends."""
        half, start = container.key_length, len(prefix)
        for found, key in self._entries:
            if found is container and key.startswith(prefix) and key[start:half] <= address <= key[half + start :]:
                return self._meet(container, key) is not None
        return False


def _target(verdict: Value) -> str:
    """The chain that a verdict leads to."""
    return verdict.data.decode().rpartition(" ")[2]


def _number(chain: str) -> int:
    """The number of slots in a chain's name; none where somebody has put another chain."""
    number = chain.rpartition("-")[2]
    return int(number) if number.isdecimal() and len(number) < 6 else 0
