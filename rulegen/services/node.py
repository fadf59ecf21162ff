"""The node's own object and configuration come in; what the node contributes goes out (spec §8, §11). Pure.

Addresses are those that the Node object states: what is on the host's interfaces is a target's or the agent's to see.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from rulegen.config import PRIMARY_ADDRESSES, Cidr, DetectLocalMode, Family, NodeConfiguration
from rulegen.errors import shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import Node, ServiceCIDR
from rulegen.networks import (
    LOOPBACK,
    MATCH_ALL,
    Network,
    collapse,
    family_of,
    host_cidr,
    is_loopback,
    parse_network,
    split_networks,
)
from rulegen.reference import Finding, ObjectReference
from rulegen.services.model import NodeSettings, PodDetector, Reason

ZONE_LABEL = "topology.kubernetes.io/zone"

_ADDRESS_TYPES = ("InternalIP", "ExternalIP")


class NodeFacts(Struct, frozen=True):
    """What ServicePorts depend on: own name ("" matches nothing), zone ("" when unknown), address of each family."""

    name: str
    zone: str
    addresses: dict[Family, str]


def node_facts(configuration: NodeConfiguration, node: Node | None) -> NodeFacts:
    """SVC-35 and SVC-53, for a node that may be unknown yet."""
    labels = node.metadata.labels if node else None
    return NodeFacts(
        configuration.node_name, (labels or {}).get(ZONE_LABEL, ""), _family_addresses(configuration, node)
    )


def host_addresses(node: Node | None) -> tuple[str, ...]:
    """The addresses that the Node object states, canonical, internal ones first."""
    stated = node.status.addresses or () if node and node.status else ()
    texts = [entry.address for wanted in _ADDRESS_TYPES for entry in stated if entry.type == wanted]
    return tuple(dict.fromkeys(address for text in texts if (address := canonical_address(text))))


def node_settings(
    configuration: NodeConfiguration, node: Node | None, service_cidrs: Iterable[ServiceCIDR]
) -> dict[Family, NodeSettings]:
    """The node's part of each configured family."""
    addresses = _family_addresses(configuration, node)
    nodeports = _nodeport_addresses(configuration, addresses)
    cidrs = split_networks(
        network for cidr in service_cidrs for text in cidr.spec.cidrs if (network := parse_network(text))
    )
    return {
        family: NodeSettings(
            family,
            _detector(configuration, node, family),
            configuration.masquerade_all,
            # SVC-60: a family without an entry is not restricted.
            collapse(nodeports[family]) or (MATCH_ALL[family],),
            collapse(cidrs[family]),
        )
        for family in configuration.families
    }


def node_findings(
    configuration: NodeConfiguration, node: Node | None, service_cidrs: Iterable[ServiceCIDR]
) -> list[Finding]:
    """What is wrong with the Node and the ServiceCIDRs."""
    findings = [
        Finding(
            ObjectReference("ServiceCIDR", "", cidr.metadata.name),
            Reason.UNUSABLE_RANGE,
            f"{shown(text)} is not a CIDR; skipped (SVC-12)",
        )
        for cidr in service_cidrs
        for text in cidr.spec.cidrs
        if parse_network(text) is None
    ]
    reference = ObjectReference("Node", "", configuration.node_name)
    if node is None:
        message = "not known: no endpoint's zone matches, and NodePorts are accepted on every address (SVC-33, SVC-61)"
        return [*findings, Finding(reference, Reason.UNKNOWN_NODE, message)]
    stated = (node.status.addresses if node.status else None) or ()
    findings += [
        Finding(
            reference,
            Reason.UNUSABLE_ADDRESS,
            f"{entry.type} {shown(entry.address)} is not an IP address; skipped (SVC-53)",
        )
        for entry in stated
        if entry.type in _ADDRESS_TYPES and canonical_address(entry.address) is None
    ]
    if not any(_nodeport_addresses(configuration, _family_addresses(configuration, node)).values()):
        message = "states no address: NodePorts are accepted on every address (SVC-53, SVC-61)"
        findings.append(Finding(reference, Reason.UNKNOWN_NODE, message))
    return findings


def _family_addresses(configuration: NodeConfiguration, node: Node | None) -> dict[Family, str]:
    """SVC-53."""
    addresses = dict(LOOPBACK)
    for address in reversed(host_addresses(node)):
        addresses[family_of(address)] = address
    if configuration.bind_address:
        addresses[family_of(configuration.bind_address)] = configuration.bind_address
    return addresses


def _nodeport_addresses(configuration: NodeConfiguration, addresses: dict[Family, str]) -> dict[Family, list[Network]]:
    """SVC-60 to SVC-62; no entry means every address."""
    texts: Iterable[Cidr] = configuration.nodeport_addresses
    # SVC-62: an empty list means the same on nftables, the reference (D1).
    if tuple(texts) in ((), PRIMARY_ADDRESSES):
        texts = [host_cidr(address) for address in addresses.values() if not is_loopback(address)]
    return split_networks(network for text in texts if (network := parse_network(text)))


def _detector(configuration: NodeConfiguration, node: Node | None, family: Family) -> PodDetector | None:
    """SVC-47, SVC-48."""
    mode = configuration.detect_local_mode
    if mode is DetectLocalMode.BRIDGE_INTERFACE:
        return PodDetector(interface=configuration.detect_local_interface)
    if mode is DetectLocalMode.INTERFACE_NAME_PREFIX:
        return PodDetector(interface_prefix=configuration.detect_local_interface)
    cidrs = configuration.cluster_cidrs if mode is DetectLocalMode.CLUSTER_CIDR else _pod_cidrs(node)
    networks = split_networks(network for cidr in cidrs if (network := parse_network(cidr)))[family]
    return PodDetector(cidr=str(networks[0])) if networks else None


def _pod_cidrs(node: Node | None) -> Iterable[Cidr]:
    if node is None or node.spec is None:
        return ()
    return node.spec.pod_cidrs or (node.spec.pod_cidr,)
