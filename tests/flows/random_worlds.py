"""A seed comes in, a World nobody thought of goes out, and packets that are likely to meet something in it.

Left out is what the specification leaves undefined: an endpoint listed twice with conditions of which neither wins
(SVC-22), and addresses in two roles of one Service.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tests.flows.checks import Flow, flow
from tests.flows.world import ELSEWHERE, HERE, Endpoint, Port, Service, State, World, family_of
from tests.lab import UPLINK

FAMILIES = ("IPv4", "IPv6")
PROTOCOLS = ("TCP", "UDP", "SCTP")
PODS = ("10.128.0.0/24", "fd00:10:128::/64")
HOST_ADDRESSES = ("192.0.2.10/24", "2001:db8:0:1::10/64", "198.51.100.10/24", "2001:db8:0:2::10/64")
HELD_VIPS = ("198.18.0.1/32", "2001:db8:f::1/128")
VIPS = [f"198.18.0.{number}" for number in range(1, 7)] + [f"2001:db8:f::{number}" for number in range(1, 7)]
EXTERNAL_IPS = [
    *(f"198.19.0.{number}" for number in range(1, 7)),
    *(f"2001:db8:e::{number}" for number in range(1, 7)),
    # The node's own addresses can be externalIPs, and so can another Service's ClusterIP (D2).
    *("192.0.2.10", "2001:db8:0:1::10", "10.96.0.3", "fd00:10:96::3"),
]
RANGES = [
    *("203.0.113.0/25", "203.0.113.64/26", "10.128.0.0/16", "192.0.2.0/28", "198.18.0.0/30", "0.0.0.0/0"),
    *("2001:db8:a::/64", "2001:db8:a::/63", "fd00:10:128::/64", "2001:db8:0:1::/64", "::/0"),
]
PODS_OF = [
    (node, (f"10.128.{index}.{number}", f"fd00:10:128{':' + str(index) if index else ''}::{number}"))
    for index, node in enumerate((HERE, ELSEWHERE, ""))
    for number in (1, 2)
]
HOST_HERE = ("192.0.2.10", "2001:db8:0:1::10")
HOST_ELSEWHERE = ("192.0.2.11", "2001:db8:0:1::11")
SOURCES = [
    *("10.128.0.9", "10.128.0.1", "10.128.0.2", "10.128.1.1", "10.128.1.9", "10.128.2.1", "192.0.2.11"),
    *("192.0.2.10", "198.51.100.10", "203.0.113.9", "203.0.113.90", "203.0.113.200", "198.18.0.2"),
    *("fd00:10:128::9", "fd00:10:128::1", "fd00:10:128::2", "fd00:10:128:1::1", "fd00:10:128:1::9"),
    *("2001:db8:0:1::10", "2001:db8:0:2::10", "2001:db8:a::9", "2001:db8:a:1::9", "2001:db8:b::9"),
]
NODE_PORTS = range(30000, 30030)


class RandomWorld:
    """`world` is the present state."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._names = 0
        self.world = self._node()
        self.change()

    def change(self) -> None:
        """Some Services come, go or change, and sometimes the node does."""
        chance = self._chance
        services = [service for service in self.world.services if chance.random() < 0.8]
        services = [self._changed(service) if chance.random() < 0.4 else service for service in services]
        services += [self._service() for _ in range(chance.randint(5, 15))]
        services = services[-30:]
        chance.shuffle(services)
        self.world = replace(self.world, services=tuple(services), zone=chance.choice(("", "a", "b")))
        if chance.random() < 0.3:
            cidrs = ("10.96.0.0/24", "10.96.0.0/16", "fd00:10:96::/112", "fd00:10:97::/112")
            self.world = replace(self.world, service_cidrs=self._some(cidrs))

    def flows(self, count: int) -> Iterator[Flow]:
        """Packets, most of them to a frontend of the world."""
        targets = [target for service in self.world.services for target in self._targets(service)]
        for _ in range(count):
            service, destination, number, protocol = self._chance.choice(targets)
            if self._chance.random() < 0.1:
                number = self._chance.choice((80, 81, 443, 30000, 30001))
            if self._chance.random() < 0.1:
                protocol = self._chance.choice((*PROTOCOLS, "ICMP"))
            source = self._source(service, destination)
            interface = ""
            if source not in self.world.own_addresses and self._chance.random() < 0.2:
                interface = self._chance.choice([UPLINK, *self.world.interfaces])
            number = 0 if protocol == "ICMP" else number
            yield flow(self.world, _words(service), source, destination, number, protocol, interface)

    def _some(self, things: Sequence[str]) -> tuple[str, ...]:
        return tuple(thing for thing in things if self._chance.random() < 0.5)

    # -- the node --

    def _node(self) -> World:
        chance = self._chance
        modes = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
        listed = ("192.0.2.0/24", "198.51.100.0/28", "2001:db8:0:1::/64", "0.0.0.0/0", "198.18.0.0/16")
        return World(
            addresses=HOST_ADDRESSES + (HELD_VIPS if chance.random() < 0.5 else ()),
            internal_ips=chance.choice((("192.0.2.10", "2001:db8:0:1::10"), ("2001:db8:0:2::10", "198.51.100.10"))),
            interfaces={"veth-a": PODS[:1], "veth-b": PODS[1:]},
            families=chance.choice((*[FAMILIES] * 8, FAMILIES[:1], FAMILIES[1:])),
            mode=chance.choice(modes),
            interface=chance.choice(("veth-a", "veth-b", "veth-", "veth")),
            cluster_cidrs=self._some(("10.128.0.0/14", "fd00:10:128::/48")),
            pod_cidrs=self._some(PODS),
            nodeport_addresses=chance.choice((("primary",), self._some(listed) or ("::/0",))),
            masquerade_all=chance.random() < 0.2,
        )

    # -- Services --

    def _service(self) -> Service:
        self._names += 1
        number, chance = self._names, self._chance
        families = chance.choice((FAMILIES, FAMILIES, FAMILIES[::-1], FAMILIES[:1], FAMILIES[1:]))
        cluster_ips = {"IPv4": f"10.96.0.{number}", "IPv6": f"fd00:10:96::{number}"}
        bare = Service(
            f"service-{number}",
            tuple(cluster_ips[family] for family in families),
            created=chance.randrange(5),
            namespace=chance.choice(("default", "shop")),
        )
        return self._changed(bare)

    def _changed(self, service: Service) -> Service:
        """Other than its name, its addresses and its age, all that a Service has is drawn again."""
        chance = self._chance
        kind = chance.choice(("ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer"))
        return replace(
            service,
            kind=kind,
            ports=self._ports(kind),
            endpoints=self._endpoints(),
            external_ips=tuple(chance.sample(EXTERNAL_IPS, chance.choice((0, 0, 1, 3)))),
            vips=tuple(chance.sample(VIPS, chance.choice((1, 2, 4)))) if kind == "LoadBalancer" else (),
            internal=chance.choice(("Cluster", "Cluster", "Local")),
            external=chance.choice(("Cluster", "Local")),
            ranges=tuple(chance.sample(RANGES, 3)) if chance.random() < 0.3 else (),
            affinity=chance.choice((None, None, None, 60, 10800)),
        )

    def _ports(self, kind: str) -> tuple[Port, ...]:
        chance = self._chance
        wanted = [(number, protocol) for number in (80, 443, 53) for protocol in PROTOCOLS]
        # The API server allows a nodePort once for each protocol in one Service.
        node_ports = iter(chance.sample(NODE_PORTS, 4))
        return tuple(
            Port(number, protocol, 0 if kind == "ClusterIP" else next(node_ports), chance.randrange(9000, 9004))
            for number, protocol in chance.sample(wanted, chance.randint(1, 4))
        )

    def _endpoints(self) -> tuple[Endpoint, ...]:
        chance = self._chance
        # A slice of default/kubernetes names no nodes.
        places = [*PODS_OF, (chance.choice((HERE, "")), HOST_HERE), (chance.choice((ELSEWHERE, "")), HOST_ELSEWHERE)]
        states = chance.choice(((State.READY,), (State.READY, State.DRAINING, State.UNREADY), tuple(State)))
        weights = chance.choice(((1,), (1,), (0, 1, 2, 5)))
        hints = chance.choice(((), ((HERE,), (HERE, ELSEWHERE)), ((ELSEWHERE,), ())))
        endpoints = [
            Endpoint(
                address,
                node,
                chance.choice(states),
                chance.choice((("a",), ("a", "b"), ("b",))) if hints else (),
                chance.choice(hints or ((),)),
                chance.choice(weights),
                chance.randrange(2),
            )
            for node, addresses in places
            for address in addresses
        ]
        endpoints = chance.sample(endpoints, chance.choice((0, 1, 2, 4, 8, 8)))
        return (*endpoints, *self._again(endpoints))

    def _again(self, endpoints: Sequence[Endpoint]) -> Iterator[Endpoint]:
        """Some endpoints stand in a third slice too: as they are, or still running where they were terminating."""
        for endpoint in endpoints:
            if self._chance.random() < 0.2:
                terminating = endpoint.state.value[2] is True
                yield replace(endpoint, slice_=2, state=State.READY if terminating else endpoint.state)

    # -- packets --

    def _targets(self, service: Service) -> Iterator[tuple[Service, str, int, str]]:
        node = [address for address in self.world.own_addresses if address not in ("127.0.0.1", "::1")]
        for port in service.ports:
            for address in (*service.cluster_ips, *service.external_ips, *service.vips):
                yield service, address, port.number, port.protocol
            if port.node_port:
                for address in self._chance.sample(sorted(node), 2):
                    yield service, address, port.node_port, port.protocol
        yield service, self._chance.choice(("10.96.0.200", "fd00:10:96::f00")), 80, "TCP"

    def _source(self, service: Service, destination: str) -> str:
        candidates = [*SOURCES, *(address.partition("/")[0] for address in HELD_VIPS)]
        candidates += [endpoint.address for endpoint in service.endpoints]
        return self._chance.choice([source for source in candidates if family_of(source) == family_of(destination)])


def _words(service: Service) -> str:
    endpoints = (
        f"{one.address} {one.state.name} on {one.node or 'no node'} weight {one.weight} hints {one.zones} {one.nodes}"
        for one in service.endpoints
    )
    return f"{service.name}, {service.kind}, {service.internal}, {service.external}, [{'; '.join(endpoints)}]"
