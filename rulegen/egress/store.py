"""Nodes and ServiceCIDRs come in one by one, ranges of addresses that differ go out. Pure; decides about no rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rulegen.config import Cidr, EgressSettings, Family, NodeConfiguration, PodRange
from rulegen.egress.claims import Claims
from rulegen.egress.model import Range, Side
from rulegen.kube.objects import Node, ServiceCIDR
from rulegen.networks import Network, family_of, parse_network, split_networks

LINK_LOCAL = {Family.IPV4: "169.254.0.0/16", Family.IPV6: "fe80::/10"}
CLUSTER_CIDR = "clusterCIDR"
EXEMPTIONS = "nonMasqueradeCIDRs"


class Place(NamedTuple):
    """The range that an address is in, and whose that is."""

    cidr: Cidr
    owner: str

    def __str__(self) -> str:
        """`10.244.1.0/24, Node worker-1`."""
        return f"{self.cidr}, {self.owner}"


class Store:
    """What is known of one node and its cluster.

    That a Node is gone means nothing for that node itself: its pods may still be there, and their ranges are never
    taken away for nothing.
    """

    def __init__(self, configuration: NodeConfiguration) -> None:
        self._node_name = configuration.node_name
        self._pod_range = configuration.egress.pod_range
        self._claims = {(side, family): Claims() for side in Side for family in configuration.families}
        cluster = split_networks(network for cidr in configuration.cluster_cidrs if (network := parse_network(cidr)))
        self._cluster_cidrs = cluster
        for family, networks in cluster.items():
            self._claim(Side.CLUSTER, family, CLUSTER_CIDR, networks)
        self._set_pods({family: [] for family in Family})
        self._exempt(configuration.egress)

    def put_node(self, node: Node) -> None:
        """A Node as it is now."""
        found = split_networks(network for cidr in pod_cidrs(node) if (network := parse_network(cidr)))
        owner = _owner(Node, node.metadata.name)
        if node.metadata.name == self._node_name:
            # One that was made anew does not state any for a moment.
            if not any(found.values()):
                return
            self._set_pods(found)
        for family, networks in found.items():
            self._claim(Side.CLUSTER, family, owner, networks)

    def remove_node(self, name: str) -> None:
        """A Node is gone."""
        if name != self._node_name:
            self._claim_nothing(_owner(Node, name))

    def put_service_cidr(self, item: ServiceCIDR) -> None:
        """A ServiceCIDR as it is now."""
        found = split_networks(network for cidr in item.spec.cidrs if (network := parse_network(cidr)))
        for family, networks in found.items():
            self._claim(Side.CLUSTER, family, _owner(ServiceCIDR, item.metadata.name), networks)

    def remove_service_cidr(self, name: str) -> None:
        """A ServiceCIDR is gone."""
        self._claim_nothing(_owner(ServiceCIDR, name))

    @property
    def has_pods(self) -> bool:
        """Whether any range of this node's pods is known."""
        return any(claims.outermost for (side, _), claims in self._claims.items() if side is Side.PODS)

    def take(self) -> dict[Range, str | None]:
        """The ranges that differ from what was taken last, each with whose it is; the first time, all."""
        return {
            Range(side, family, str(network)): change.after
            for (side, family), claims in self._claims.items()
            for network, change in claims.outermost.take().items()
        }

    def place(self, side: Side, address: str) -> Place | None:
        """The range of a side that a canonical address is in."""
        claims = self._claims.get((side, family_of(address)))
        found = claims.covering(address) if claims is not None else None
        return None if found is None else Place(str(found[0]), found[1])

    def ranges(self, side: Side, family: Family) -> list[Cidr]:
        """The ranges of a side."""
        claims = self._claims.get((side, family))
        return [] if claims is None else [str(network) for network in claims.outermost]

    def _set_pods(self, stated: dict[Family, list[Network]]) -> None:
        """Of each family what its Node states, else clusterCIDR; or the other way round, as is configured."""
        for family, networks in stated.items():
            sources = [(_owner(Node, self._node_name), networks), (CLUSTER_CIDR, self._cluster_cidrs[family])]
            if self._pod_range is PodRange.CLUSTER_CIDR:
                sources.reverse()
            chosen = next((owner for owner, claimed in sources if claimed), "")
            for owner, claimed in sources:
                self._claim(Side.PODS, family, owner, claimed if owner == chosen else ())

    def _exempt(self, settings: EgressSettings) -> None:
        networks = split_networks(network for cidr in settings.non_masquerade_cidrs if (network := parse_network(cidr)))
        is_translated = {Family.IPV4: settings.masq_link_local, Family.IPV6: settings.masq_link_local_ipv6}
        for family in Family:
            self._claim(Side.EXEMPT, family, EXEMPTIONS, networks[family])
            link_local = parse_network(LINK_LOCAL[family])
            if link_local is not None and not is_translated[family]:
                self._claim(Side.EXEMPT, family, "link-local", [link_local])

    def _claim(self, side: Side, family: Family, owner: str, networks: Iterable[Network]) -> None:
        claims = self._claims.get((side, family))
        if claims is not None:
            claims.claim(owner, tuple(networks))

    def _claim_nothing(self, owner: str) -> None:
        for claims in self._claims.values():
            claims.claim(owner, ())


def pod_cidrs(node: Node) -> list[Cidr]:
    """What a Node states, as it is written."""
    if node.spec is None:
        return []
    return node.spec.pod_cidrs or ([node.spec.pod_cidr] if node.spec.pod_cidr else [])


def _owner(kind: type, name: str) -> str:
    return f"{kind.__name__} {name}"
