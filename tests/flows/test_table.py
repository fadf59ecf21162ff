"""Who sends x what to x policies x endpoints x node x families x protocols: each flow, against the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice, product
from typing import NamedTuple

import pytest

from tests.flows.checks import Flow, differences, flow
from tests.flows.node import make_node
from tests.flows.world import ELSEWHERE, HERE, Endpoint, Port, Service, State, World, family_of
from tests.lab.fixtures import MakeLab
from tests.selection import Extent

pytestmark = pytest.mark.kernel

FAMILIES = ("IPv4", "IPv6")
PROTOCOLS = ("TCP", "UDP", "SCTP")
RANGES = ("203.0.113.0/28", "10.128.0.0/24", "192.0.2.10/32", "2001:db8:a::/64", "fd00:10:128::/64")


class Place(NamedTuple):
    """Where an endpoint is: its node and its addresses, with `{}` for what tells pods apart."""

    node: str
    ipv4: str
    ipv6: str


POD_HERE = Place(HERE, "10.128.0.{}", "fd00:10:128::{}")
POD_ELSEWHERE = Place(ELSEWHERE, "10.128.1.{}", "fd00:10:128:1::{}")
POD_OF_NO_NODE = Place("", "10.128.2.{}", "fd00:10:128:2::{}")
HOST_HERE = Place(HERE, "192.0.2.10", "2001:db8:0:1::10")
HOST_ELSEWHERE = Place(ELSEWHERE, "192.0.2.11", "2001:db8:0:1::11")
# As in default/kubernetes, whose slice names no nodes.
API_SERVER_HERE = HOST_HERE._replace(node="")
API_SERVER_ELSEWHERE = HOST_ELSEWHERE._replace(node="")

READY, DRAINING, PUBLISHED = State.READY, State.DRAINING, State.PUBLISHED
CONDITIONS: dict[str, list[tuple[Place, State]]] = {
    "no endpoints": [],
    "one elsewhere": [(POD_ELSEWHERE, READY)],
    "one here": [(POD_HERE, READY)],
    "here and elsewhere": [(POD_HERE, READY), (POD_ELSEWHERE, READY)],
    "two here, one elsewhere": [(POD_HERE, READY), (POD_HERE, READY), (POD_ELSEWHERE, READY)],
    "one of no node": [(POD_OF_NO_NODE, READY)],
    "draining here": [(POD_HERE, DRAINING)],
    "draining here, ready elsewhere": [(POD_HERE, DRAINING), (POD_ELSEWHERE, READY)],
    "ready here, draining elsewhere": [(POD_HERE, READY), (POD_ELSEWHERE, DRAINING)],
    "draining here and elsewhere": [(POD_HERE, DRAINING), (POD_ELSEWHERE, DRAINING)],
    "draining elsewhere": [(POD_ELSEWHERE, DRAINING)],
    "not ready here, ready elsewhere": [(POD_HERE, State.UNREADY), (POD_ELSEWHERE, READY)],
    "none usable": [(POD_HERE, State.STARTING), (POD_ELSEWHERE, State.UNREADY), (POD_HERE, State.ENDED)],
    "published while not ready here, draining here": [(POD_HERE, PUBLISHED), (POD_HERE, DRAINING)],
    "host network here": [(HOST_HERE, READY)],
    "host network elsewhere": [(HOST_ELSEWHERE, READY)],
    "host network here and elsewhere": [(HOST_HERE, READY), (HOST_ELSEWHERE, READY)],
    "API servers here and elsewhere": [(API_SERVER_HERE, READY), (API_SERVER_ELSEWHERE, READY)],
}
FEW = ("no endpoints", "one elsewhere", "here and elsewhere", "draining here", "host network here")
POLICIES = [(internal, external) for internal in ("Cluster", "Local") for external in ("Cluster", "Local")]


def services() -> Iterator[Service]:
    """One for each combination of endpoints and policies, and some with source ranges and of other types."""
    cases: list[tuple[str, tuple[str, str], str, tuple[str, ...]]] = [
        *((condition, policies, "LoadBalancer", ()) for condition, policies in product(CONDITIONS, POLICIES)),
        *((condition, policies, "LoadBalancer", RANGES) for condition in FEW for policies in POLICIES[:2]),
        *((condition, POLICIES[3], kind, ()) for condition in FEW for kind in ("ClusterIP", "NodePort")),
    ]
    for number, (condition, (internal, external), kind, ranges) in enumerate(cases, 1):
        yield Service(
            f"{condition}, internal {internal}, external {external}, {kind}{', ranges' if ranges else ''}",
            (f"10.96.0.{number}", f"fd00:10:96::{number}"),
            (*_ports(number), Port(443, "TCP", 0, 8443)),
            tuple(_endpoints(number, CONDITIONS[condition])),
            kind,
            (f"198.19.0.{number}", f"2001:db8:e::{number}"),
            (f"198.18.0.{number}", f"2001:db8:f::{number}"),
            internal,
            external,
            ranges,
        )


def _ports(number: int) -> Iterator[Port]:
    """The same port number for all protocols."""
    for index, protocol in enumerate(PROTOCOLS):
        yield Port(80, protocol, 30000 + 3 * number + index, 8080 + index)


def _endpoints(number: int, places: Iterable[tuple[Place, State]]) -> Iterator[Endpoint]:
    for index, (place, state) in enumerate(places):
        for address in (place.ipv4, place.ipv6):
            # One pod backs Services of every kind, as long as it is in the same place: the hairpin set is shared.
            yield Endpoint(address.format(number % 64 + 70 * index + 1), place.node, state)


SERVICES = tuple(services())

SOURCES = {
    "a pod of this node": ("10.128.0.250", "fd00:10:128::250"),
    "a pod of another node": ("10.128.1.250", "fd00:10:128:1::250"),
    "the node": ("192.0.2.10", "2001:db8:0:1::10"),
    "the node by its second address": ("198.51.100.10", "2001:db8:0:2::10"),
    "a client": ("203.0.113.200", "2001:db8:b::9"),
    "a client in the source ranges": ("203.0.113.9", "2001:db8:a::9"),
}
ITSELF = "an endpoint's own pod"

# In words -> address, port and protocol for one of the Service's ports; "" for the Service's own value.
TARGETS = {
    "the ClusterIP": ("{cluster}", 80, ""),
    "the externalIP": ("{external}", 80, ""),
    "the VIP": ("{vip}", 80, ""),
    "the NodePort": ("{node}", 0, ""),
    "the NodePort on a second address": ("{second}", 0, ""),
    "the NodePort's number on the ClusterIP": ("{cluster}", 0, ""),
    "the NodePort with another protocol": ("{node}", 0, "other"),
    "a wrong port of the ClusterIP": ("{cluster}", 81, ""),
    "a wrong port of the VIP": ("{vip}", 81, ""),
    "another protocol of the ClusterIP's port": ("{cluster}", 443, "UDP"),
    "a ping of the ClusterIP": ("{cluster}", 0, "ICMP"),
    "a ping of the VIP": ("{vip}", 0, "ICMP"),
    "an address of no Service": ("{unallocated}", 80, ""),
}
NODE_ADDRESSES = {
    "IPv4": {"node": "192.0.2.10", "second": "198.51.100.10", "unallocated": "10.96.255.9"},
    "IPv6": {"node": "2001:db8:0:1::10", "second": "2001:db8:0:2::10", "unallocated": "fd00:10:96::ff09"},
}


def flows(world: World, step: int, first: int = 0) -> Iterator[Flow]:
    """Every source to every target of every Service, in both families; the protocol changes from one to the next.

    `step`: only every so manyth of them, from number `first` on; it shares no factor with the numbers of sources,
    targets and families.
    """
    cases = enumerate(product(world.services, TARGETS, [*SOURCES, ITSELF], FAMILIES))
    for turn, (service, target, source, family) in islice(cases, first, None, step):
        address = _source(service, source, family)
        if address and any(family_of(one) == family for one in service.cluster_ips):
            yield _flow(world, service, target, family, (source, address), turn)


def _source(service: Service, source: str, family: str) -> str:
    if source in SOURCES:
        return SOURCES[source][FAMILIES.index(family)]
    pods = [endpoint.address for endpoint in service.endpoints if endpoint.address.startswith(("10.128.", "fd00:"))]
    return next((address for address in pods if family_of(address) == family), "")


def _flow(world: World, service: Service, target: str, family: str, source: tuple[str, str], turn: int) -> Flow:
    address, number, protocol = TARGETS[target]
    port = service.ports[(turn // 2) % 3]
    if protocol == "other":
        protocol = PROTOCOLS[(PROTOCOLS.index(port.protocol) + 1) % 3]
    destination = address.format(
        cluster=_one_of(service.cluster_ips, family),
        external=_one_of(service.external_ips, family),
        vip=_one_of(service.vips, family),
        **NODE_ADDRESSES[family],
    )
    return flow(
        world,
        f"{service.name}: {source[0]} to {target}",
        source[1],
        destination,
        0 if protocol == "ICMP" else number or port.node_port,
        protocol or port.protocol,
    )


def _one_of(addresses: Iterable[str], family: str) -> str:
    return next(address for address in addresses if family_of(address) == family)


def _single_family(service: Service, number: int) -> Service:
    """SVC-5: a Service of one family, whose addresses of the other count for nothing."""
    return replace(service, cluster_ips=service.cluster_ips[number % 2 :][:1])


PODS = ("10.128.0.0/24", "fd00:10:128::/64")
BASE = World(SERVICES)
# In words -> the node, and every how manyth flow is sent there if not all are.
NODES: dict[str, tuple[World, int]] = {
    "ClusterCIDR": (BASE, 5),
    "NodeCIDR": (replace(BASE, mode="NodeCIDR"), 19),
    "BridgeInterface": (replace(BASE, mode="BridgeInterface", interface="cni0", interfaces={"cni0": PODS}), 19),
    "InterfaceNamePrefix": (
        replace(BASE, mode="InterfaceNamePrefix", interface="veth", interfaces={"veth1": PODS[:1], "veth2": PODS[1:]}),
        19,
    ),
    "no detector": (replace(BASE, cluster_cidrs=()), 19),
    "a detector for IPv4 alone": (replace(BASE, cluster_cidrs=("10.128.0.0/14",)), 29),
    "masqueradeAll": (replace(BASE, masquerade_all=True), 19),
    "masqueradeAll without detector": (replace(BASE, masquerade_all=True, cluster_cidrs=()), 29),
    "NodePorts on all addresses": (replace(BASE, nodeport_addresses=("0.0.0.0/0", "::/0")), 29),
    "NodePorts on the second IPv4 address": (replace(BASE, nodeport_addresses=("198.51.100.0/24",)), 29),
    "IPv4 alone": (replace(BASE, families=("IPv4",)), 29),
    "IPv6 alone": (replace(BASE, families=("IPv6",)), 29),
    "IPv6 disabled on the node": (
        replace(BASE, ipv6_enabled=False, addresses=BASE.addresses[:2], internal_ips=BASE.internal_ips[:1]),
        29,
    ),
    "Services of one family": (
        replace(BASE, services=tuple(_single_family(service, number) for number, service in enumerate(SERVICES))),
        29,
    ),
    "no ServiceCIDR": (replace(BASE, service_cidrs=()), 29),
    "several ServiceCIDRs": (
        replace(BASE, service_cidrs=("10.96.0.0/24", "10.96.255.0/28", "fd00:10:96::/120", "fd00:10:96::ff00/120")),
        29,
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_every_flow_goes_where_the_specification_says(name: str, make_lab: MakeLab, extent: Extent) -> None:
    world, step = NODES[name]
    chosen = flows(world, 1) if extent.exhaustive else flows(world, step, extent.seed % step)
    with make_node(make_lab, world) as node:
        wrong = differences(node.lab, world, list(chosen))
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:40])


def test_the_table_is_as_large_as_it_claims() -> None:
    """At least 1,500 flows, and every kind of expectation, source and target in both families."""
    sent = [flow for world, step in NODES.values() for flow in flows(world, step)]
    assert len(sent) >= 1500
    wanted = set(product(FAMILIES, PROTOCOLS, TARGETS))
    seen = {(family_of(one.sent.destination), one.sent.protocol, one.name.rpartition(" to ")[2]) for one in sent}
    assert {case for case in wanted - seen if "ping" not in case[2] and "protocol" not in case[2]} == set()


@pytest.mark.parametrize("world", [BASE, replace(BASE, nodeport_addresses=("127.0.0.0/8", "::1/128"))])
def test_loopback(world: World, make_lab: MakeLab) -> None:
    """The node by its loopback address, to itself: NodePorts and VIPs that it holds; none on loopback (D1, SVC-66)."""
    named = {service.name: service for service in world.services}
    local = named["host network here, internal Cluster, external Local, LoadBalancer"]
    none = named["no endpoints, internal Cluster, external Cluster, LoadBalancer"]
    world = replace(world, addresses=(*world.addresses, f"{local.vips[0]}/32", f"{none.vips[0]}/32"))
    sent = [
        flow(world, f"{service.name}: loopback to {destination}", source, destination, number, port.protocol)
        for service in (local, none)
        for port in service.ports[:3]
        for source, destination, number in (
            ("127.0.0.1", "127.0.0.1", port.node_port),
            ("127.0.0.1", "192.0.2.10", port.node_port),
            ("127.0.0.1", "198.51.100.10", port.node_port),
            ("127.0.0.1", service.vips[0], port.number),
            ("127.0.0.1", service.vips[0], 81),
            ("::1", "::1", port.node_port),
            ("::1", "2001:db8:0:1::10", port.node_port),
            ("::1", "2001:db8:0:2::10", port.node_port),
        )
    ]
    with make_node(make_lab, world) as node:
        wrong = differences(node.lab, world, sent)
    assert not wrong, "\n".join(wrong)
