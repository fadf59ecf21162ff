"""A seed comes in; a cluster goes out to the API server, and then change after change of it, without an end.

Left out is what the specification leaves undefined: an endpoint that two slices of a Service list with different
conditions (SVC-22). Slices that move between Services have addresses of their own, the others keep their Service.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from rulegen.kube.objects import HEADLESS, SERVICE_PROXY_NAME, Endpoint, EndpointSlice, Service, ServiceCIDR
from tests.apiserver import EVERY_KIND, ApiServer
from tests.builders import endpoint, endpoint_port, endpoint_slice, node, port, service, service_cidr

_ENDPOINTS = 10
# So many Services share the pods behind them.
_SHARING = 3
_ZONES = ("a", "b", "c")
_PORTS = ((80, "http", "TCP"), (53, "dns", "UDP"), (9, "signal", "SCTP"))
_ENDPOINT_PORTS = [endpoint_port(8000 + number, name, protocol) for number, name, protocol in _PORTS]
_CIDRS = ("10.96.0.0/16", "10.97.0.0/16", "fd00:10:96::/112", "fd00:10:97::/112")
_RANGES = ("203.0.113.0/25", "203.0.113.128/25", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/33", "::/0")
_WEIGHTS = ("10.128.0.1=3", "*=7,", "10.128.*=700,*=1", "10.128.0.2=0")


class Churn:
    """A cluster of about `size` Services on a server. `changes`: how many there were."""

    def __init__(self, server: ApiServer, size: int, chance: random.Random) -> None:
        self.changes = 0
        self._server = server
        self._size = size
        self._chance = chance
        self._services: dict[int, Service] = {}
        # Of each Service its own slices; and those that move.
        self._slices: dict[int, list[EndpointSlice]] = {}
        self._moving: dict[int, EndpointSlice] = {}
        self._cidrs: set[str] = set()
        self._unusable: list[Service | EndpointSlice] = []
        self._next_moving = 0
        self._kinds: list[tuple[int, Callable[[], None]]] = [
            (50, self._change_endpoints),
            (15, self._change_service),
            (10, self._come_or_go),
            (6, self._relabel),
            (6, self._move_slice),
            (4, self._break),
            (2, self._change_node),
            (2, self._change_cidrs),
        ]
        self._change_node()
        for number in range(size):
            self._come(number)

    def change(self) -> None:
        """One change; now and then a hundred."""
        weights, kinds = zip(*self._kinds, strict=True)
        count = 100 if self._chance.random() < 0.002 else 1
        for kind in self._chance.choices(kinds, weights, k=count):
            kind()
            self.changes += 1

    def mend(self) -> None:
        """All objects can be used again."""
        for item in self._unusable:
            if item in self._services.values() or any(item in slices for slices in self._slices.values()):
                self._server.put(item)
        self._unusable.clear()

    # -- Services --

    def _come(self, number: int) -> None:
        self._services[number] = self._service(number)
        self._slices[number] = [self._slice(number, family) for family in self._services[number].spec.ip_families or ()]
        self._server.put(self._services[number], *self._slices[number])

    def _come_or_go(self) -> None:
        if self._chance.random() * self._size * 2 < len(self._services):
            self._go(self._picked())
        else:
            numbers = range(self._size * 2)
            self._come(self._chance.choice([number for number in numbers if number not in self._services]))

    def _go(self, number: int) -> None:
        gone = self._services.pop(number)
        self._server.delete(Service, gone.metadata.name, gone.metadata.namespace)
        for slice_ in self._slices.pop(number):
            self._server.delete(EndpointSlice, slice_.metadata.name, slice_.metadata.namespace)

    def _change_service(self) -> None:
        number = self._picked()
        old, self._services[number] = self._services[number], self._service(number)
        # Families stay, as they do in a cluster.
        spec = msgspec.structs.replace(
            self._services[number].spec,
            cluster_ip=old.spec.cluster_ip,
            cluster_ips=old.spec.cluster_ips,
            ip_families=old.spec.ip_families,
        )
        self._services[number] = msgspec.structs.replace(self._services[number], spec=spec)
        self._server.put(self._services[number])

    def _relabel(self) -> None:
        """Objects leave the selection of the watch by a label, and come back."""
        number, chance = self._picked(), self._chance
        item: Service | EndpointSlice = self._services[number]
        label = SERVICE_PROXY_NAME
        if chance.random() < 0.5:
            item, label = chance.choice(self._slices[number]), HEADLESS
        plain = _plain(item)
        if chance.random() < 0.5:
            plain["metadata"]["labels"] = {**(plain["metadata"].get("labels") or {}), label: ""}
        self._server.put(plain)

    def _picked(self) -> int:
        return self._chance.choice(list(self._services))

    def _service(self, number: int) -> Service:
        chance = self._chance
        addresses = (f"10.96.{number // 250}.{number % 250 + 1}", f"fd00:10:96::{number + 1:x}")
        kind = chance.choice(("ClusterIP", "ClusterIP", "ClusterIP", "NodePort", "LoadBalancer"))
        # Few enough that several Services want the same.
        vips = [f"203.0.113.{chance.randrange(200)}", f"2001:db8::{chance.randrange(200):x}"]
        outside = [f"198.51.100.{chance.randrange(200)}"] if chance.random() < 0.2 else []
        chosen = chance.sample(_PORTS, chance.choice((1, 1, 2, 3)))
        policies = ("Cluster", "Cluster", "Cluster", "Local")
        return service(
            f"service-{number}",
            addresses if chance.random() < 0.3 else addresses[:1],
            [
                port(at, name, protocol, _node_port(number, at) if kind != "ClusterIP" else 0)
                for at, name, protocol in chosen
            ],
            namespace=_namespace(number),
            kind=kind,
            external_ips=outside,
            vips=vips if kind == "LoadBalancer" else [],
            internal=chance.choice(policies),
            external=chance.choice(policies),
            ranges=chance.sample(_RANGES, chance.choice((0, 0, 1, 3))) if kind == "LoadBalancer" else [],
            affinity=chance.choice((None, None, None, 60, 10800)),
            annotations={"rulegen.io/weights": chance.choice(_WEIGHTS)} if chance.random() < 0.1 else None,
        )

    # -- endpoints --

    def _change_endpoints(self) -> None:
        number = self._picked()
        slices = self._slices[number]
        index = self._chance.randrange(len(slices))
        slices[index] = self._slice(number, slices[index].address_type)
        self._server.put(slices[index])

    def _slice(self, number: int, family: str) -> EndpointSlice:
        pods = range(number // _SHARING * 64, number // _SHARING * 64 + 40)
        count = self._chance.choice((0, 1, _ENDPOINTS - 3, *[_ENDPOINTS] * 12, _ENDPOINTS + 3, 30))
        return endpoint_slice(
            [self._endpoint(pod, family) for pod in self._chance.sample(pods, count)],
            service_name=f"service-{number}",
            name=f"service-{number}-{family.lower()}",
            namespace=_namespace(number),
            family=family,
            ports=_ENDPOINT_PORTS,
        )

    def _endpoint(self, pod: int, family: str) -> Endpoint:
        chance = self._chance
        address = (
            f"10.{128 + pod // 65536}.{pod // 256 % 256}.{pod % 256}" if family == "IPv4" else f"fd00:10:128::{pod:x}"
        )
        state = chance.choice((*["ready"] * 8, "draining", "unready"))
        return endpoint(
            address,
            "node-1" if pod % 8 == 0 else f"node-{pod % 50}",
            ready=state == "ready",
            serving=state != "unready",
            terminating=state == "draining",
            zones=[_ZONES[pod % 3]] if chance.random() < 0.9 else (),
        )

    def _move_slice(self) -> None:
        """A slice that belongs to no Service for long is made, given to another one, or deleted."""
        chance = self._chance
        if self._moving and chance.random() < 0.3:
            number, slice_ = self._moving.popitem()
            self._server.delete(EndpointSlice, slice_.metadata.name, slice_.metadata.namespace)
            return
        if len(self._moving) > self._size // 20:
            number = chance.choice(list(self._moving))
        else:
            number, self._next_moving = self._next_moving, self._next_moving + 1
        pods = range((1 << 20) + number * 4, (1 << 20) + number * 4 + 3)
        self._moving[number] = endpoint_slice(
            [self._endpoint(pod, "IPv4") for pod in pods],
            service_name=f"service-{self._picked()}",
            name=f"moving-{number}",
            namespace=_namespace(number),
            ports=_ENDPOINT_PORTS,
        )
        self._server.put(self._moving[number])

    # -- what cannot be used --

    def _break(self) -> None:
        """An object gets a field that no proxy can use; it is mended later, or replaced, or deleted."""
        if len(self._unusable) > 10:
            self.mend()
            return
        number = self._picked()
        objects: list[Service | EndpointSlice] = [self._services[number], *self._slices[number]]
        item = self._chance.choice(objects)
        plain = _plain(item)
        ports = plain["spec"]["ports"] if isinstance(item, Service) else plain["ports"]
        ports[0]["port"] = self._chance.choice((80000, -1, "http", None if isinstance(item, Service) else "", {}))
        self._server.put(plain)
        self._unusable.append(item)

    # -- the rest --

    def _change_node(self) -> None:
        chance = self._chance
        self._server.put(
            node(
                addresses=chance.choice(
                    (["192.168.1.10", "fd00:1::10"], ["192.168.1.10", "fd00:1::10"], ["192.168.1.11"])
                ),
                zone=chance.choice((None, *_ZONES)),
            )
        )

    def _change_cidrs(self) -> None:
        name = self._chance.choice(("kubernetes", "more"))
        if name in self._cidrs and self._chance.random() < 0.4:
            self._cidrs.discard(name)
            self._server.delete(ServiceCIDR, name)
        else:
            self._cidrs.add(name)
            self._server.put(service_cidr(*self._chance.sample(_CIDRS, self._chance.choice((1, 2))), name=name))


def _namespace(number: int) -> str:
    return f"team-{number % 10}"


def _node_port(number: int, port_number: int) -> int:
    return 30000 + (number * 3 + port_number) % 2700


def _plain(item: Service | EndpointSlice) -> dict[str, Any]:
    kind = EVERY_KIND[type(item)]
    plain: dict[str, Any] = msgspec.to_builtins(item)
    plain["metadata"].setdefault("namespace", item.metadata.namespace)
    return {"apiVersion": kind.api_version, "kind": kind.name, **plain}
