"""A node whose cluster and configuration change step by step; after each step, packets and the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tests.builders import Item
from tests.flows.checks import differences, flow
from tests.flows.node import ProxyNode, Way
from tests.flows.world import Service, World
from tests.lab import NODE_ADDRESSES, Lab, Outcome

POD, POD_V6 = "10.128.0.250", "fd00:10:128::250"
REMOTE_POD = "10.128.1.250"
CLIENT, CLIENT_V6 = "203.0.113.200", "2001:db8:b::9"
NODE, NODE_V6 = "192.0.2.10", "2001:db8:0:1::10"
SECOND = "198.51.100.10"
EVERYBODY = (POD, REMOTE_POD, CLIENT, NODE, SECOND)


class Scene:
    """The node of `World()`, at first without Services. A context manager."""

    SECOND_ADDRESSES = tuple(address for address in World().addresses if address not in NODE_ADDRESSES)

    def __init__(self, lab: Lab, way: Way) -> None:
        self.lab = lab
        self.way = way
        self.world = World()
        self._node = ProxyNode(lab, self.world.configuration(), way)
        lab.forget_connections()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self._node.cleanup()
        self._node.close()
        for address in set(self.world.addresses) - set(World().addresses):
            self.lab.remove_address(address)

    def services(self, *services: Service) -> int:
        """These are all Services now. Returns how many entries changed."""
        self.world = replace(self.world, services=services)
        return self._node.apply(self.world.objects())

    def objects(self, items: Iterable[Item]) -> None:
        """The cluster is exactly these objects now; the oracle does not know them."""
        self._node.apply(items)

    def restart(self) -> int:
        """The proxy ends and starts anew, with the same cluster. Returns how many entries changed."""
        self._node.restart()
        return self._node.apply(self.world.objects())

    def change_node(self, **fields: Any) -> None:
        """What the API server says of the node, and which addresses it has, without a restart of the proxy."""
        before = set(self.world.addresses)
        self.world = replace(self.world, **fields)
        for address in set(self.world.addresses) - before:
            self.lab.add_address(address)
        for address in before - set(self.world.addresses):
            self.lab.remove_address(address)
        self._node.apply(self.world.objects())

    def configure(self, **fields: Any) -> None:
        """The proxy starts anew with another configuration."""
        self.world = replace(self.world, **fields)
        self._node.close()
        self._node = ProxyNode(self.lab, self.world.configuration(), self.way)
        self._node.apply(self.world.objects())

    def check(
        self, sources: str | Sequence[str], destinations: str | Sequence[str], number: int = 80, protocol: str = "TCP"
    ) -> None:
        """Every source to every destination is treated as the oracle says."""
        destinations = [destinations] if isinstance(destinations, str) else destinations
        self.check_frontends(sources, [(destination, number) for destination in destinations], protocol)

    def check_frontends(
        self, sources: str | Sequence[str], frontends: Sequence[tuple[str, int]], protocol: str = "TCP"
    ) -> None:
        """The same for several port numbers at once."""
        sources = [sources] if isinstance(sources, str) else sources
        flows = [
            flow(self.world, "here", source, destination, number, protocol)
            for source in sources
            for destination, number in frontends
        ]
        wrong = differences(self.lab, self.world, flows)
        assert not wrong, "\n".join(wrong)

    def send(
        self, sources: str | Sequence[str], destination: str, number: int = 80, protocol: str = "TCP", count: int = 1
    ) -> list[Outcome]:
        """`count` connections from each source."""
        sources = [sources] if isinstance(sources, str) else sources
        flows = [flow(self.world, "here", source, destination, number, protocol) for source in sources]
        return self.lab.send(flow.packet for flow in flows for _ in range(count))

    def reached(
        self, sources: Sequence[str], destination: str, number: int = 80, protocol: str = "TCP"
    ) -> dict[str, str]:
        """The endpoint that one connection of each source reaches, "" for none."""
        outcomes = self.send(sources, destination, number, protocol)
        return {source: outcome.endpoint for source, outcome in zip(sources, outcomes, strict=True)}
