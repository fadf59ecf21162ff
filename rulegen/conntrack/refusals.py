"""Which flows without an answer a first packet of theirs would be refused now. Pure.

A chain of type nat sees the first packet of a flow and no other, so a one-way stream (syslog, statsd) that was let in
once would go on for ever. Changes come in; what they may have closed goes out, then a verdict for each flow. Flows that
somebody has answered live on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple

from rulegen.config import Family
from rulegen.conntrack.frontends import Flow, FrontendKey, UdpFrontends
from rulegen.services.model import Changes, FrontendKind, NodeSettings, ServicePort, ServicePortKey
from rulegen.services.simulate import Match, Packet, is_refused


class Closed(NamedTuple):
    """Where flows may have been let in that would not be now: all unused addresses of a family, or one address."""

    family: Family
    address: str = ""


class ClusterIps:
    """The ClusterIPs of all ServicePorts, and what the node contributes."""

    def __init__(self) -> None:
        self.nodes: dict[Family, NodeSettings] = {}
        self._of_service_port: dict[ServicePortKey, tuple[str, ...]] = {}
        self._counts: Counter[tuple[Family, str]] = Counter()

    def note(self, changes: Changes) -> set[Closed]:
        """Takes a change. Returns ClusterIPs that nobody has any more, and families whose ServiceCIDRs are others.

        A new ClusterIP closes nothing: while it was nobody's, it was refused as a whole.
        """
        before = {family: node.service_cidrs for family, node in self.nodes.items()}
        self.nodes |= changes.node
        closed = {
            Closed(family)
            for family, node in changes.node.items()
            if node.service_cidrs and node.service_cidrs != before.get(family)
        }
        touched: set[Closed] = set()
        for key, service_port in changes.service_ports.items():
            held = self._of_service_port.pop(key, ())
            wanted = _cluster_ips(service_port)
            if wanted:
                self._of_service_port[key] = wanted
            if held != wanted:
                self._counts.update(Closed(key[1], address) for address in wanted)
                self._counts.subtract(Closed(key[1], address) for address in held)
                touched.update(Closed(key[1], address) for address in held)
        for address in touched:
            if not self._counts[address]:
                del self._counts[address]
                if self._has_ranges(address.family):
                    closed.add(address)
        return closed

    def __contains__(self, address: Closed) -> bool:
        """Whether it is a ClusterIP."""
        return address in self._counts

    def _has_ranges(self, family: Family) -> bool:
        return family in self.nodes and bool(self.nodes[family].service_cidrs)


class Refusals:
    """Tells the flows without an answer that would be refused now, among those that a change concerns.

    `concerned`: what is looked at. `own_addresses`: the node's. `accepts_node_ports`: see `Judge`.
    """

    def __init__(
        self,
        udp: UdpFrontends,
        cluster_ips: ClusterIps,
        concerned: tuple[Collection[FrontendKey], Collection[Closed]],
        own_addresses: Callable[[Family], Collection[str]],
        accepts_node_ports: Callable[[Family, str], bool],
    ) -> None:
        self._udp = udp
        self._cluster_ips = cluster_ips
        self._frontends, self._closed = concerned
        self._own_addresses = own_addresses
        self._accepts_node_ports = accepts_node_ports

    def refuses(self, flow: Flow) -> bool:
        """Whether the flow has no answer and its next packet, were it the first, would not be let in.

        The interface that it came by is not known; a pod that is told by it alone counts as from elsewhere. No harm: an
        entry without an answer that goes for nothing is made anew by the next packet.
        """
        node = self._cluster_ips.nodes.get(flow.family)
        if flow.is_replied or node is None:
            return False
        addressed = FrontendKey(flow.family, flow.destination, flow.port)
        node_port = FrontendKey(flow.family, "", flow.port)
        is_to_frontend = addressed in self._frontends or node_port in self._frontends
        if not is_to_frontend and not self._is_closed(flow):
            return False
        if flow.is_translated and self._udp.get(addressed) is None and not self._is_node_port(flow, node_port):
            return self._was_node_port(flow, node_port)
        packet = Packet(flow.source, flow.destination, flow.port, "UDP")
        index = _FamilyFrontends(flow.family, self._udp, self._cluster_ips)
        return is_refused(index, node, self._own_addresses(flow.family), packet)

    def _is_closed(self, flow: Flow) -> bool:
        return Closed(flow.family) in self._closed or Closed(flow.family, flow.destination) in self._closed

    def _is_node_port(self, flow: Flow, key: FrontendKey) -> bool:
        return self._udp.get(key) is not None and self._accepts_node_ports(flow.family, flow.destination)

    def _was_node_port(self, flow: Flow, key: FrontendKey) -> bool:
        """Whether a flow to an address that accepts no NodePorts now leads to an endpoint of one all the same.

        What else is translated is another program's work.
        """
        owned = self._udp.get(key) if key in self._frontends else None
        answering = [(backend.address, backend.port) for backend in owned.service_port.serving] if owned else []
        return (flow.reply_source, flow.reply_port) in answering


class _FamilyFrontends:
    """See `simulate.Frontends`; UDP only."""

    def __init__(self, family: Family, udp: UdpFrontends, cluster_ips: ClusterIps) -> None:
        self._family = family
        self._udp = udp
        self._cluster_ips = cluster_ips

    def by_address(self, address: str, port: int, _: str) -> Match | None:
        return self._match(FrontendKey(self._family, address, port))

    def by_node_port(self, port: int, _: str) -> Match | None:
        return self._match(FrontendKey(self._family, "", port))

    def is_cluster_ip(self, address: str) -> bool:
        return Closed(self._family, address) in self._cluster_ips

    def _match(self, key: FrontendKey) -> Match | None:
        owned = self._udp.get(key)
        return Match(owned.service_port, owned.frontend) if owned else None


def _cluster_ips(service_port: ServicePort | None) -> tuple[str, ...]:
    frontends = service_port.frontends if service_port is not None else ()
    return tuple(frontend.address for frontend in frontends if frontend.kind is FrontendKind.CLUSTER_IP)
