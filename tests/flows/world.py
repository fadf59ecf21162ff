"""A small description of a node and its Services comes in, the objects that say the same to rulegen go out.

The description has no field that could not be said in a sentence; the oracle reads it, never the objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from ipaddress import ip_interface

from rulegen.config import DetectLocalMode, Family, NodeConfiguration
from rulegen.kube import objects
from tests import builders
from tests.builders import Item

HERE = "node-here"
ELSEWHERE = "node-elsewhere"


class State(Enum):
    """An endpoint's conditions: ready, serving, terminating."""

    READY = (None, None, None)
    # A Service with publishNotReadyAddresses (SVC-21).
    PUBLISHED = (True, False, True)
    DRAINING = (False, True, True)
    ENDED = (False, False, True)
    UNREADY = (False, False, False)
    STARTING = (False, None, None)

    @property
    def ready(self) -> bool:
        return self.value[0] is not False

    @property
    def draining(self) -> bool:
        """Not ready, but serving and terminating."""
        return self is State.DRAINING


@dataclass(frozen=True)
class Endpoint:
    """`node`: HERE, another one, or "" for none. `slice_`: those with the same number stand in one slice."""

    address: str
    node: str = ELSEWHERE
    state: State = State.READY
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    weight: int = 1
    slice_: int = 0


@dataclass(frozen=True)
class Port:
    """A port of a Service; `target`: the port number of the endpoints."""

    number: int = 80
    protocol: str = "TCP"
    node_port: int = 0
    target: int = 8080

    @property
    def name(self) -> str:
        return f"{self.protocol.lower()}-{self.number}"


@dataclass(frozen=True)
class Service:
    """Addresses and endpoints of both families together; `kind` is the Service's type."""

    name: str
    cluster_ips: tuple[str, ...]
    ports: tuple[Port, ...] = (Port(),)
    endpoints: tuple[Endpoint, ...] = ()
    kind: str = "LoadBalancer"
    external_ips: tuple[str, ...] = ()
    vips: tuple[str, ...] = ()
    internal: str = "Cluster"
    external: str = "Cluster"
    ranges: tuple[str, ...] = ()
    affinity: int | None = None
    created: int = 0
    namespace: str = "default"


@dataclass(frozen=True)
class World:
    """A node, how it is configured, and the Services that it knows.

    `addresses`: the node's own, with prefix lengths; `internal_ips`: those that its Node object states.
    `mode` None: pods are not told from others.
    """

    services: tuple[Service, ...] = ()
    addresses: tuple[str, ...] = ("192.0.2.10/24", "198.51.100.10/24", "2001:db8:0:1::10/64", "2001:db8:0:2::10/64")
    internal_ips: tuple[str, ...] = ("192.0.2.10", "2001:db8:0:1::10")
    interfaces: dict[str, Sequence[str]] = field(
        default_factory=lambda: {"pods": ("10.128.0.0/24", "fd00:10:128::/64")}
    )
    families: tuple[str, ...] = ("IPv4", "IPv6")
    ipv6_enabled: bool = True
    mode: str = "ClusterCIDR"
    interface: str = ""
    cluster_cidrs: tuple[str, ...] = ("10.128.0.0/14", "fd00:10:128::/48")
    pod_cidrs: tuple[str, ...] = ("10.128.0.0/24", "fd00:10:128::/64")
    nodeport_addresses: tuple[str, ...] = ("primary",)
    masquerade_all: bool = False
    service_cidrs: tuple[str, ...] = ("10.96.0.0/16", "fd00:10:96::/112")
    zone: str = ""

    @cached_property
    def own_addresses(self) -> frozenset[str]:
        """Of the node, loopback included."""
        return frozenset(["127.0.0.1", "::1", *(str(ip_interface(address).ip) for address in self.addresses)])

    def configuration(self) -> NodeConfiguration:
        """The same for rulegen."""
        return NodeConfiguration(
            node_name=HERE,
            families=tuple(map(Family, self.families)),
            detect_local_mode=DetectLocalMode(self.mode),
            detect_local_interface=self.interface,
            cluster_cidrs=self.cluster_cidrs,
            nodeport_addresses=self.nodeport_addresses,
            masquerade_all=self.masquerade_all,
        )

    def objects(self) -> Iterator[Item]:
        """What the API server would hold."""
        yield builders.node(HERE, self.internal_ips, zone=self.zone or None, pod_cidrs=self.pod_cidrs)
        if self.service_cidrs:
            yield builders.service_cidr(*self.service_cidrs)
        for service in self.services:
            yield from service_objects(service)


def service_objects(service: Service) -> Iterator[Item]:
    """The Service and its slices."""
    yield builders.service(
        service.name,
        service.cluster_ips,
        [builders.port(port.number, port.name, port.protocol, port.node_port) for port in service.ports],
        namespace=service.namespace,
        kind=service.kind,
        external_ips=service.external_ips,
        vips=service.vips,
        internal=service.internal,
        external=service.external,
        ranges=service.ranges,
        affinity=service.affinity,
        created=f"2026-01-01T00:{service.created // 60:02}:{service.created % 60:02}Z",
        annotations=_weights(service),
    )
    for family in ("IPv4", "IPv6"):
        mine = [endpoint for endpoint in service.endpoints if family_of(endpoint.address) == family]
        for number in sorted({endpoint.slice_ for endpoint in mine}):
            yield _slice(service, family, number, [endpoint for endpoint in mine if endpoint.slice_ == number])


def _slice(service: Service, family: str, number: int, endpoints: list[Endpoint]) -> objects.EndpointSlice:
    return builders.endpoint_slice(
        [_endpoint(endpoint) for endpoint in endpoints],
        service_name=service.name,
        name=f"{service.name}-{family.lower()}-{number}",
        namespace=service.namespace,
        family=family,
        ports=[builders.endpoint_port(port.target, port.name, port.protocol) for port in service.ports],
    )


def _endpoint(endpoint: Endpoint) -> objects.Endpoint:
    ready, serving, terminating = endpoint.state.value
    return builders.endpoint(
        endpoint.address,
        endpoint.node or None,
        ready=ready,
        serving=serving,
        terminating=terminating,
        zones=endpoint.zones,
        nodes=endpoint.nodes,
    )


def _weights(service: Service) -> dict[str, str] | None:
    weights = {endpoint.address: endpoint.weight for endpoint in service.endpoints if endpoint.weight != 1}
    if not weights:
        return None
    return {"rulegen.io/weights": ",".join(f"{address}={weight}" for address, weight in weights.items())}


def family_of(address: str) -> str:
    """IPv4 or IPv6, of an address or a CIDR."""
    return "IPv6" if ":" in address else "IPv4"
