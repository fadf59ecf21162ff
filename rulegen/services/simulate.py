"""A packet and the ServicePorts come in; what becomes of the packet goes out, with the rules of the spec that decided.

It follows the first packet of a connection in the order that every target keeps: source ranges, then the choice of a
Frontend and its endpoints, then the verdicts on where the packet is going by then (SVC-38, SVC-51, SVC-64, SVC-67). It
knows no target, so that explanations and tests have an answer that no target computed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from enum import Enum
from typing import NamedTuple, Protocol

from msgspec import Struct

from rulegen.config import Cidr
from rulegen.errors import shown
from rulegen.kube.addresses import canonical_address
from rulegen.networks import LOOPBACK, Network, contains, family_of, is_loopback, parse_network, port_number
from rulegen.services.model import (
    Backend,
    Frontend,
    FrontendKind,
    NodeSettings,
    PodDetector,
    ServicePort,
    TrafficPolicy,
    Verdict,
)

_NO_SERVICE = "no Service is concerned"
_DESTINATION = re.compile(
    r"(?:\[(?P<v6>[^]]*)\]|(?P<v4>[^]\[:/]*))(?::(?P<port>[0-9]+))?/(?P<protocol>tcp|udp|sctp|icmp)", re.IGNORECASE
)


class Packet(NamedTuple):
    """The first packet of a connection: canonical addresses, the destination's port (0 without ports), protocol.

    `interface`: the one that it came in by, "" when this node sends it or nobody knows.
    """

    source: str
    destination: str
    port: int
    protocol: str
    interface: str = ""


class Destination(NamedTuple):
    """Where a packet is sent: canonical address, port (0 without ports), protocol in capitals."""

    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        """As `parse_destination` reads it."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}/{self.protocol.lower()}" if self.port else f"{address}/{self.protocol.lower()}"


def parse_destination(text: str) -> Destination:
    """`10.96.0.10:80/tcp`, `[fd00::1]:53/udp`, or `10.96.0.10/icmp` for a ping; ValueError says what is wrong."""
    parts = _DESTINATION.fullmatch(text)
    if parts is None or (parts["port"] is None) != (parts["protocol"].lower() == "icmp"):
        raise ValueError(f"expected ADDRESS:PORT/tcp, udp or sctp, or ADDRESS/icmp, got {shown(text)}")
    port = 0 if parts["port"] is None else port_number(parts["port"])
    if port is None:
        raise ValueError(f"expected a port from 1 to 65535, got {shown(parts['port'])}")
    address_text = parts["v6"] or parts["v4"] or ""
    address = canonical_address(address_text)
    if address is None or (":" in address_text) is not (parts["v6"] is not None):
        raise ValueError(f"expected an IP address, in brackets if it is IPv6, got {shown(address_text)}")
    return Destination(address, port, parts["protocol"].upper())


def source_towards(destination: str, node_addresses: Collection[str]) -> str:
    """The address that the node sends from: to itself the destination's own, else its first of that family.

    A node without any has loopback.
    """
    if destination in node_addresses or is_loopback(destination):
        return destination
    family = family_of(destination)
    return next((address for address in node_addresses if family_of(address) is family), LOOPBACK[family])


class Origin(Enum):
    """Who a packet is from, as the masquerade table of spec §7 tells sources apart."""

    POD = "a pod"
    NODE = "this node"
    OUTSIDE = "outside"


class Fate(Enum):
    """What becomes of a packet. UNTOUCHED: it goes where it was going, as if there were no Services."""

    BALANCED = "balanced"
    REJECTED = "rejected"
    DROPPED = "dropped"
    UNTOUCHED = "untouched"


class Decision(NamedTuple):
    """A fate and why: the rule of the spec that decided, in words."""

    fate: Fate
    reason: str


class Delivery(Struct, frozen=True):
    """One endpoint that a balanced packet may go to.

    `masquerade`: the source address is replaced on the way (SVC-44 included); never where another's packet ends on
    this node itself.
    `decision`: UNTOUCHED normally; else what becomes of the packet on its way there, which can be the destination of
    other rules (an endpoint that is a ClusterIP).
    """

    backend: Backend
    probability: float
    masquerade: bool
    decision: Decision


class Outcome(Struct, frozen=True):
    """What becomes of a packet. `matched`: the Frontend that decided. `deliveries`: in the list's order, if BALANCED.

    `is_marked`: to be masqueraded whatever the endpoint, if it leaves the node; SVC-44 is not asked then.

    With session affinity (`matched.service_port.affinity_timeout`), a client that is known goes to its endpoint
    instead, as long as it is in the list or draining.
    """

    fate: Fate
    reasons: tuple[str, ...]
    origin: Origin
    matched: Match | None = None
    deliveries: tuple[Delivery, ...] = ()
    is_marked: bool = False


class Match(NamedTuple):
    """A Frontend with the ServicePort that it belongs to."""

    service_port: ServicePort
    frontend: Frontend

    def __str__(self) -> str:
        """The Frontend and whose it is, in words."""
        frontend = self.frontend
        what = frontend.kind.value + (f" {frontend.address}" if frontend.address else "")
        return f"{what} port {frontend.port}/{self.service_port.name.protocol} of {self.service_port.name}"


class Treatment(NamedTuple):
    """What becomes of packets from one kind of source to a Frontend, and why.

    `is_local`: to the Local list and not the Cluster list. `masquerade`: to every endpoint; to itself an endpoint is
    always masqueraded (SVC-44).
    """

    decision: Decision
    is_local: bool = False
    masquerade: bool = False


class Frontends(Protocol):
    """The Frontends of one family's ServicePorts, by what a packet says."""

    def by_address(self, address: str, port: int, protocol: str) -> Match | None: ...

    def by_node_port(self, port: int, protocol: str) -> Match | None: ...

    def is_cluster_ip(self, address: str) -> bool:
        """Whether an address is a ClusterIP, whatever the port."""
        ...


class FrontendIndex:
    """`Frontends` that never change."""

    def __init__(self, service_ports: Iterable[ServicePort]) -> None:
        self._matches = {
            (frontend.address, frontend.port, service_port.name.protocol): Match(service_port, frontend)
            for service_port in service_ports
            for frontend in service_port.frontends
        }
        self._cluster_ips = {
            match.frontend.address for match in self._matches.values() if match.frontend.kind is FrontendKind.CLUSTER_IP
        }

    def by_address(self, address: str, port: int, protocol: str) -> Match | None:
        return self._matches.get((address, port, protocol))

    def by_node_port(self, port: int, protocol: str) -> Match | None:
        return self._matches.get(("", port, protocol))

    def is_cluster_ip(self, address: str) -> bool:
        """Whether an address is a ClusterIP, whatever the port."""
        return address in self._cluster_ips


class _List(NamedTuple):
    """The endpoints for one packet to one Frontend."""

    backends: tuple[Backend, ...]
    masquerade: bool
    reason: str
    is_local: bool = False


class _Node(Struct, frozen=True):
    """Where a packet is followed."""

    index: Frontends
    settings: NodeSettings
    addresses: Collection[str]

    def owns(self, address: str) -> bool:
        return address in self.addresses or is_loopback(address)


def simulate(index: Frontends, settings: NodeSettings, node_addresses: Collection[str], packet: Packet) -> Outcome:
    """What becomes of a packet on a node whose interfaces have `node_addresses` (canonical; loopback is implied).

    Everything is of one family; ValueError when the packet's addresses are not.
    """
    if {family_of(packet.source), family_of(packet.destination)} != {settings.family}:
        raise ValueError(f"{packet.source} and {packet.destination} are not both {settings.family.value}")
    node = _Node(index, settings, node_addresses)
    origin = _origin(node, packet)
    addressed = _addressed(node, packet)
    if addressed and not _allowed(addressed.frontend.allowed_sources, packet.source):
        reason = f"{packet.source} is in none of the loadBalancerSourceRanges (SVC-51)"
        return Outcome(Fate.DROPPED, (reason,), origin, addressed)
    dispatched = _dispatch(node, packet, addressed)
    if dispatched is None:
        return _undispatched(node, packet, origin, addressed)
    chosen = _choose(dispatched, settings, _is_detected(settings.detector, packet), origin)
    if not chosen.backends:
        return _undispatched(node, packet, origin, dispatched)
    reasons = (str(dispatched), chosen.reason)
    return Outcome(Fate.BALANCED, reasons, origin, dispatched, _deliveries(node, packet, chosen), chosen.masquerade)


def is_refused(index: Frontends, settings: NodeSettings, node_addresses: Collection[str], packet: Packet) -> bool:
    """Whether a packet that `simulate` would follow ends REJECTED or DROPPED, without asking to whom it may go else."""
    node = _Node(index, settings, node_addresses)
    addressed = _addressed(node, packet)
    if addressed and not _allowed(addressed.frontend.allowed_sources, packet.source):
        return True
    dispatched = _dispatch(node, packet, addressed)
    if dispatched is not None:
        origin = _origin(node, packet)
        if _choose(dispatched, settings, _is_detected(settings.detector, packet), origin).backends:
            return False
    return _verdict(node, packet).fate is not Fate.UNTOUCHED


def treat(match: Match, settings: NodeSettings, origin: Origin) -> Treatment:
    """What becomes of packets from one kind of source to a Frontend, source ranges apart.

    A pod that cannot be told from others (`settings.detector` is None) is treated as what is outside.
    """
    if _has_endpoints(match):
        detected = origin is Origin.POD and settings.detector is not None
        chosen = _choose(match, settings, detected, origin)
        if chosen.backends:
            return Treatment(Decision(Fate.BALANCED, chosen.reason), chosen.is_local, chosen.masquerade)
    return Treatment(_without_endpoints(match) or Decision(Fate.UNTOUCHED, _NO_SERVICE))


def _origin(node: _Node, packet: Packet) -> Origin:
    if node.owns(packet.source):
        return Origin.NODE
    return Origin.POD if _is_detected(node.settings.detector, packet) else Origin.OUTSIDE


def _is_detected(detector: PodDetector | None, packet: Packet) -> bool:
    """SVC-47, SVC-48."""
    if detector is None:
        return False
    if detector.cidr is not None:
        return contains(_networks([detector.cidr]), packet.source)
    if detector.interface is not None:
        return packet.interface == detector.interface
    return bool(packet.interface) and packet.interface.startswith(detector.interface_prefix or "")


def _addressed(node: _Node, packet: Packet) -> Match | None:
    """The Frontend with the packet's address; a host port's hostIP is one only where the node has it (D21)."""
    match = node.index.by_address(packet.destination, packet.port, packet.protocol)
    is_host_port = match is not None and match.frontend.kind is FrontendKind.HOST_PORT
    return None if match is None or (is_host_port and not _accepts(node, match, packet.destination)) else match


def _dispatch(node: _Node, packet: Packet, addressed: Match | None) -> Match | None:
    """The Frontend whose endpoints the packet is for (SVC-64)."""
    if addressed and _has_endpoints(addressed):
        return addressed
    # An address of the node whose own Frontend has nobody behind it is still an address for NodePorts.
    node_port = node.index.by_node_port(packet.port, packet.protocol)
    if node_port and _has_endpoints(node_port) and _accepts(node, node_port, packet.destination):
        return node_port
    return None


def _has_endpoints(match: Match) -> bool:
    """Whether anybody gets through: on an external Frontend of policy Local, pods and the node may (SVC-43)."""
    verdict = match.frontend.verdict
    short_circuit = match.frontend.kind is not FrontendKind.CLUSTER_IP and verdict is Verdict.DROP
    return verdict is Verdict.BALANCE or short_circuit


def _accepts(node: _Node, match: Match, address: str) -> bool:
    """SVC-63, without loopback (SVC-66, D1); host ports on every address that the node has (D21)."""
    if address not in node.addresses or is_loopback(address):
        return False
    is_host_port = match.frontend.kind is FrontendKind.HOST_PORT
    return is_host_port or contains(_networks(node.settings.nodeport_addresses), address)


def _choose(match: Match, settings: NodeSettings, detected: bool, origin: Origin) -> _List:
    """The list and the masquerading of spec §7, hairpin apart."""
    service_port, frontend = match
    if frontend.kind is FrontendKind.CLUSTER_IP:
        return _choose_internal(match, settings, detected)
    if frontend.policy is TrafficPolicy.CLUSTER:
        return _List(
            service_port.cluster_endpoints, True, "external policy Cluster: all endpoints, masqueraded (SVC-42)"
        )
    if detected:
        return _List(
            service_port.cluster_endpoints, False, "external policy Local, from a pod: all endpoints (SVC-43a)"
        )
    if origin is Origin.NODE:
        return _List(
            service_port.cluster_endpoints, True, "external policy Local, from this node: all, masqueraded (SVC-43b)"
        )
    return _List(
        service_port.local_endpoints, False, "external policy Local: this node's endpoints, source kept (SVC-43c)", True
    )


def _choose_internal(match: Match, settings: NodeSettings, detected: bool) -> _List:
    local = match.frontend.policy is TrafficPolicy.LOCAL
    backends = match.service_port.local_endpoints if local else match.service_port.cluster_endpoints
    whose = "this node's endpoints" if local else "all endpoints"
    if settings.masquerade_all:
        return _List(backends, True, f"ClusterIP: {whose} (SVC-41); masqueradeAll (SVC-45)", local)
    if settings.detector is not None and not detected:
        return _List(backends, True, f"ClusterIP, not from a pod: {whose} (SVC-41), masqueraded (spec §7)", local)
    return _List(backends, False, f"ClusterIP: {whose} (SVC-41)", local)


def _deliveries(node: _Node, packet: Packet, chosen: _List) -> tuple[Delivery, ...]:
    total = sum(backend.weight for backend in chosen.backends)
    return tuple(
        Delivery(
            backend,
            backend.weight / total,
            (chosen.masquerade or backend.address == packet.source) and _leaves(node, packet, backend),
            _verdict(node, packet._replace(destination=backend.address, port=backend.port)),
        )
        for backend in chosen.backends
    )


def _leaves(node: _Node, packet: Packet, backend: Backend) -> bool:
    """Whether the packet passes postrouting, where masquerading happens: what the node only receives does not."""
    return not node.owns(backend.address) or node.owns(packet.source)


def _undispatched(node: _Node, packet: Packet, origin: Origin, matched: Match | None) -> Outcome:
    """The outcome for a packet whose destination nobody changed."""
    fate, reason = _verdict(node, packet)
    node_port = node.index.by_node_port(packet.port, packet.protocol) if node.owns(packet.destination) else None
    if matched is None and node_port and _accepts(node, node_port, packet.destination):
        matched = node_port
    elif node_port and fate is Fate.UNTOUCHED:
        is_host_port = node_port.frontend.kind is FrontendKind.HOST_PORT
        what = "host ports (D21)" if is_host_port else "NodePorts (SVC-60 to SVC-66)"
        reason = f"{packet.destination} does not accept {what}"
    return Outcome(fate, (reason,), origin, matched)


def _verdict(node: _Node, packet: Packet) -> Decision:
    """What becomes of a packet on the way to where it is going now (SVC-38)."""
    for decision in _verdicts(node, packet):
        if decision is not None:
            return decision
    return Decision(Fate.UNTOUCHED, _NO_SERVICE)


def _verdicts(node: _Node, packet: Packet) -> Iterable[Decision | None]:
    """In the order in which a packet passes them: sent by this node, forwarded, or received by it."""
    received, sent = node.owns(packet.destination), node.owns(packet.source)
    addressed = _addressed(node, packet)
    if sent or not received:
        yield _without_endpoints(addressed)
        yield _unused(node, packet.destination)
    if received:
        node_port = node.index.by_node_port(packet.port, packet.protocol)
        if node_port and _accepts(node, node_port, packet.destination):
            yield _without_endpoints(node_port)
        yield _without_endpoints(addressed)


def _without_endpoints(match: Match | None) -> Decision | None:
    """SVC-36, SVC-37."""
    if match is None or match.frontend.verdict is Verdict.BALANCE:
        return None
    if match.frontend.verdict is Verdict.REJECT:
        return Decision(Fate.REJECTED, f"{match} has no endpoint (SVC-36)")
    return Decision(Fate.DROPPED, f"{match} has policy Local and no endpoint on this node (SVC-37)")


def _unused(node: _Node, address: str) -> Decision | None:
    """SVC-67, for packets sent or forwarded by the node."""
    if node.index.is_cluster_ip(address):
        return Decision(Fate.REJECTED, f"{address} is a ClusterIP without this port (SVC-67)")
    if contains(_networks(node.settings.service_cidrs), address):
        return Decision(Fate.DROPPED, f"{address} is in a ServiceCIDR, of no Service (SVC-67)")
    return None


def _allowed(sources: tuple[Cidr, ...] | None, source: str) -> bool:
    return sources is None or contains(_networks(sources), source)


def _networks(cidrs: Iterable[Cidr]) -> list[Network]:
    return [network for cidr in cidrs if (network := parse_network(cidr))]
