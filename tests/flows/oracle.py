"""A World and a packet come in, what must become of the packet goes out: docs/service-proxy.md, read literally.

Simple on purpose: for each packet everything is worked out again, in the order and with the words of the numbered
rules. Imports nothing of rulegen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network
from itertools import product
from typing import NamedTuple

from tests.flows.world import HERE, Endpoint, Port, Service, World, family_of


class Sent(NamedTuple):
    """The first packet of a connection. `interface`: where it arrives, "" when the node sends it itself."""

    source: str
    destination: str
    port: int
    protocol: str
    interface: str


@dataclass(frozen=True)
class Expected:
    """`fate`: delivered, rejected, dropped or passed. `shares`: the endpoints as `address:port`, and how often each.

    `masqueraded`: those on the way to which the source is replaced. `why`: the rule that decided.
    """

    fate: str
    why: str
    shares: dict[str, float] = field(default_factory=dict)
    masqueraded: frozenset[str] = frozenset()
    affinity: bool = False


class Frontend(NamedTuple):
    """What a client connects to, and whose it is."""

    kind: str
    service: Service
    port: Port


class Lists(NamedTuple):
    """SVC-25 to SVC-29, without endpoints of weight 0 (D9)."""

    any: bool
    cluster: list[Endpoint]
    local: list[Endpoint]


class Oracle:
    """What the specification says of a World."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._by_address: dict[tuple[str, int, str], Frontend] = {}
        self._by_node_port: dict[tuple[str, int, str], Frontend] = {}
        # The first one owns (D2): ClusterIPs before the others, then the oldest Service.
        by_age = sorted(world.services, key=lambda service: (service.created, f"{service.namespace}/{service.name}"))
        for service in by_age:
            self._add(service, {"ClusterIP": service.cluster_ips})
        for service in by_age:
            self._add(service, {"externalIP": service.external_ips, "VIP": service.vips})
            self._add_node_ports(service)

    def _add(self, service: Service, addresses: dict[str, tuple[str, ...]]) -> None:
        """SVC-9, for those with an address."""
        for kind, port in product(addresses, service.ports):
            for address in addresses[kind]:
                if exists(service, family_of(address)):
                    key = (address, port.number, port.protocol)
                    self._by_address.setdefault(key, Frontend(kind, service, port))

    def _add_node_ports(self, service: Service) -> None:
        for port, family in product(service.ports, ("IPv4", "IPv6")):
            if port.node_port and exists(service, family):
                key = (family, port.node_port, port.protocol)
                self._by_node_port.setdefault(key, Frontend("NodePort", service, port))

    def expect(self, packet: Sent) -> Expected:
        """What must become of `packet`."""
        world, family = self._world, family_of(packet.destination)
        if family == "IPv6" and not world.ipv6_enabled:
            return Expected("dropped", "the node has no IPv6")
        if family not in world.families:
            return Expected("passed", "no rules for this family")
        # SVC-64: an address comes before a NodePort.
        frontend = self._by_address.get((packet.destination, packet.port, packet.protocol))
        if frontend is None and accepts_node_ports(world, packet.destination):
            frontend = self._by_node_port.get((family, packet.port, packet.protocol))
        if frontend is None:
            return _without_frontend(world, packet)
        if frontend.kind == "VIP" and not source_allowed(world, frontend.service, packet):
            return Expected("dropped", "SVC-51")
        return _at_frontend(world, frontend, packet)


def exists(service: Service, family: str) -> bool:
    """SVC-4 and SVC-5."""
    if service.kind == "ExternalName" or service.cluster_ips[:1] in ((), ("None",)):
        return False
    return any(family_of(address) == family for address in service.cluster_ips)


def accepts_node_ports(world: World, destination: str) -> bool:
    """SVC-60 to SVC-63, and no localhost NodePorts (D1)."""
    if destination not in world.own_addresses or ip_address(destination).is_loopback:
        return False
    family = family_of(destination)
    if world.nodeport_addresses == ("primary",):
        cidrs = [address for address in world.internal_ips if family_of(address) == family][:1]
    else:
        cidrs = [cidr for cidr in world.nodeport_addresses if family_of(cidr) == family]
    return not cidrs or _inside(destination, cidrs)


def _inside(address: str, cidrs: Iterable[str]) -> bool:
    number = ip_address(address)
    return any(number in _network(cidr) for cidr in cidrs)


_network = cache(ip_network)


def source_allowed(world: World, service: Service, packet: Sent) -> bool:
    """SVC-13 and SVC-51 to SVC-53."""
    family = family_of(packet.destination)
    ranges = [cidr for cidr in service.ranges if family_of(cidr) == family]
    if not ranges or any(ip_network(cidr).prefixlen == 0 for cidr in ranges):
        return True
    if _inside(packet.source, ranges):
        return True
    node_ips = [address for address in world.internal_ips if family_of(address) == family]
    return bool(node_ips) and _inside(node_ips[0], ranges) and packet.source in service.vips


# -- which endpoints: SVC-15, SVC-16, SVC-22 to SVC-35, D9 --


def _externally_accessible(service: Service, port: Port, family: str) -> bool:
    addresses = (*service.external_ips, *service.vips)
    return bool(port.node_port) or any(family_of(address) == family for address in addresses)


def _external_local(service: Service) -> bool:
    """SVC-15: where the external policy Local counts."""
    effective = service.kind in ("LoadBalancer", "NodePort") or bool(service.external_ips)
    return service.external == "Local" and effective


def lists(world: World, service: Service, port: Port, family: str) -> Lists:
    """The two lists of a service-port."""
    endpoints = [endpoint for endpoint in _merged(service, family) if endpoint.weight]
    ready = [endpoint for endpoint in endpoints if endpoint.state.ready]
    draining = [endpoint for endpoint in endpoints if endpoint.state.draining]
    cluster: list[Endpoint] = []
    if service.internal != "Local" or _externally_accessible(service, port, family):
        cluster = _by_topology(world, ready) or draining
    local: list[Endpoint] = []
    if service.internal == "Local" or (_external_local(service) and _externally_accessible(service, port, family)):
        local = [endpoint for endpoint in ready if endpoint.node == HERE]
        local = local or [endpoint for endpoint in draining if endpoint.node == HERE]
    return Lists(bool(ready or draining), cluster, local)


def _merged(service: Service, family: str) -> Iterable[Endpoint]:
    """SVC-22."""
    merged: dict[str, Endpoint] = {}
    for endpoint in service.endpoints:
        if family_of(endpoint.address) != family:
            continue
        terminating = endpoint.state.value[2] is True
        if endpoint.address not in merged or not terminating:
            merged[endpoint.address] = endpoint
    return merged.values()


def _by_topology(world: World, ready: list[Endpoint]) -> list[Endpoint]:
    """SVC-31 to SVC-33."""
    if all(endpoint.nodes for endpoint in ready) and any(HERE in endpoint.nodes for endpoint in ready):
        return [endpoint for endpoint in ready if HERE in endpoint.nodes]
    if all(endpoint.zones for endpoint in ready) and any(world.zone in endpoint.zones for endpoint in ready):
        return [endpoint for endpoint in ready if world.zone in endpoint.zones]
    return ready


# -- what happens at a Frontend: SVC-36 to SVC-46 --


def _at_frontend(world: World, frontend: Frontend, packet: Sent) -> Expected:
    found = lists(world, frontend.service, frontend.port, family_of(packet.destination))
    if not found.any:
        return Expected("rejected", "SVC-36")
    detector = has_detector(world, packet)
    pod = detector and is_detected(world, packet)
    if frontend.kind == "ClusterIP":
        endpoints = found.local if frontend.service.internal == "Local" else found.cluster
        masquerade = world.masquerade_all or (detector and not pod)
        return _to(world, frontend, packet, endpoints, masquerade, "SVC-37, SVC-41")
    if not _external_local(frontend.service):
        return _to(world, frontend, packet, found.cluster, True, "SVC-42")
    if pod:
        return _to(world, frontend, packet, found.cluster, False, "SVC-43a")
    if packet.source in world.own_addresses:
        return _to(world, frontend, packet, found.cluster, True, "SVC-43b")
    return _to(world, frontend, packet, found.local, False, "SVC-37, SVC-43c")


def has_detector(world: World, packet: Sent) -> bool:
    """SVC-48."""
    return world.mode in ("BridgeInterface", "InterfaceNamePrefix") or bool(_detector_cidrs(world, packet))


def is_detected(world: World, packet: Sent) -> bool:
    """SVC-47."""
    if world.mode == "BridgeInterface":
        return packet.interface == world.interface
    if world.mode == "InterfaceNamePrefix":
        return packet.interface.startswith(world.interface)
    return _inside(packet.source, _detector_cidrs(world, packet)[:1])


def _detector_cidrs(world: World, packet: Sent) -> list[str]:
    cidrs = world.cluster_cidrs if world.mode == "ClusterCIDR" else world.pod_cidrs
    return [cidr for cidr in cidrs if family_of(cidr) == family_of(packet.destination)]


def _to(
    world: World, frontend: Frontend, packet: Sent, endpoints: list[Endpoint], masquerade: bool, why: str
) -> Expected:
    if not endpoints:
        return Expected("dropped", why)
    total = sum(endpoint.weight for endpoint in endpoints)
    texts = {endpoint.address: _text(endpoint.address, frontend.port.target) for endpoint in endpoints}
    return Expected(
        "delivered",
        why,
        {texts[endpoint.address]: endpoint.weight / total for endpoint in endpoints},
        frozenset(text for address, text in texts.items() if _masqueraded(world, packet, address, masquerade)),
        frontend.service.affinity is not None,
    )


def _masqueraded(world: World, packet: Sent, endpoint: str, masquerade: bool) -> bool:
    """SVC-44 and SVC-46: in postrouting, which a packet that arrives and ends at the node itself does not pass."""
    arrives_and_ends = bool(packet.interface) and endpoint in world.own_addresses
    return (masquerade or endpoint == packet.source) and not arrives_and_ends


def _text(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# -- what happens elsewhere: SVC-67 --


def _without_frontend(world: World, packet: Sent) -> Expected:
    family = family_of(packet.destination)
    if packet.destination in world.own_addresses:
        return Expected("passed", "no frontend, for the node itself")
    if any(packet.destination in service.cluster_ips for service in world.services if exists(service, family)):
        return Expected("rejected", "SVC-67, a ClusterIP")
    if _inside(packet.destination, [cidr for cidr in world.service_cidrs if family_of(cidr) == family]):
        return Expected("dropped", "SVC-67, unallocated")
    return Expected("passed", "no frontend")
