"""The node's part: SVC-47, SVC-48, SVC-53, SVC-60 to SVC-63, SVC-67 and D4."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from rulegen.config import DetectLocalMode, Family, NodeConfiguration
from rulegen.kube.objects import Node
from rulegen.services.model import NodeSettings, PodDetector, Reason
from rulegen.services.node import host_addresses, node_facts
from tests.builders import CONFIGURATION, node, service, service_cidr, store

V4, V6 = Family.IPV4, Family.IPV6
DUAL = node(addresses=["192.168.1.10", "2001:db8::10"], pod_cidrs=["10.244.7.0/24", "fd00:10:244:7::/64"])


def node_settings(family: Family, *items: Node, **settings: object) -> NodeSettings:
    configuration = replace(CONFIGURATION, **settings)
    found = store(*(items or [DUAL]), configuration=configuration).node_settings(family)
    assert found is not None
    return found


def detectors(mode: DetectLocalMode, **settings: object) -> list[PodDetector | None]:
    return [node_settings(family, detect_local_mode=mode, **settings).detector for family in Family]


def test_svc_47_cluster_cidr_the_first_of_the_family() -> None:
    assert detectors(DetectLocalMode.CLUSTER_CIDR) == [
        PodDetector(cidr="10.244.0.0/16"),
        PodDetector(cidr="fd00:10:244::/56"),
    ]


def test_svc_47_node_cidr_from_the_node() -> None:
    assert detectors(DetectLocalMode.NODE_CIDR) == [
        PodDetector(cidr="10.244.7.0/24"),
        PodDetector(cidr="fd00:10:244:7::/64"),
    ]


def test_svc_47_interfaces_in_both_families() -> None:
    assert (
        detectors(DetectLocalMode.BRIDGE_INTERFACE, detect_local_interface="cni0")
        == [PodDetector(interface="cni0")] * 2
    )
    assert (
        detectors(DetectLocalMode.INTERFACE_NAME_PREFIX, detect_local_interface="veth")
        == [PodDetector(interface_prefix="veth")] * 2
    )


@pytest.mark.parametrize("mode", [DetectLocalMode.CLUSTER_CIDR, DetectLocalMode.NODE_CIDR])
def test_svc_48_a_family_without_a_cidr_has_no_detector(mode: DetectLocalMode) -> None:
    item = node(pod_cidrs=["10.244.7.0/24"])
    settings = {"detect_local_mode": mode, "cluster_cidrs": ("10.244.0.0/16",)}
    assert node_settings(V4, item, **settings).detector is not None
    assert node_settings(V6, item, **settings).detector is None


def test_svc_53_the_nodes_address() -> None:
    item = node(addresses=["192.168.001.010"], external_addresses=["203.0.113.1", "2001:db8::1"])
    assert node_facts(CONFIGURATION, item).addresses == {V4: "192.168.1.10", V6: "2001:db8::1"}
    bound = replace(CONFIGURATION, bind_address="192.168.9.9")
    assert node_facts(bound, item).addresses == {V4: "192.168.9.9", V6: "2001:db8::1"}
    assert node_facts(CONFIGURATION, None).addresses == {V4: "127.0.0.1", V6: "::1"}
    assert host_addresses(item) == ("192.168.1.10", "203.0.113.1", "2001:db8::1")


def test_svc_60_entries_are_split_by_family_and_a_family_without_is_open() -> None:
    settings = {"nodeport_addresses": ("192.168.0.0/24", "192.168.1.0/24")}
    assert node_settings(V4, **settings).nodeport_addresses == ("192.168.0.0/23",)
    assert node_settings(V6, **settings).nodeport_addresses == ("::/0",)


def test_svc_60_a_zero_prefix_is_match_all() -> None:
    assert node_settings(V4, nodeport_addresses=("192.168.0.0/24", "0.0.0.0/0")).nodeport_addresses == ("0.0.0.0/0",)


@pytest.mark.parametrize("setting", [(), ("primary",)])
def test_svc_61_and_62_primary_is_the_nodes_address(setting: tuple[str, ...]) -> None:
    assert node_settings(V4, nodeport_addresses=setting).nodeport_addresses == ("192.168.1.10/32",)
    assert node_settings(V6, nodeport_addresses=setting).nodeport_addresses == ("2001:db8::10/128",)


def test_svc_61_the_missing_family_of_a_single_stack_node_is_open() -> None:
    item = node(addresses=["192.168.1.10"])
    assert node_settings(V6, item).nodeport_addresses == ("::/0",)


def test_svc_67_service_cidrs_of_the_family_collapsed_and_d4_at_once() -> None:
    made = store(DUAL, service_cidr("10.96.0.0/17", "fd00::/108"), service())
    made.take_changes()
    made.set_service_cidr(service_cidr("10.96.128.0/17", "10.96.4.0/24", name="more"))
    changes = made.take_changes()
    assert changes.service_ports == {}
    assert list(changes.node) == [V4]
    assert changes.node[V4].service_cidrs == ("10.96.0.0/16",)
    made.remove_service_cidr("kubernetes")
    made.remove_service_cidr("unknown")
    assert {family: found.service_cidrs for family, found in made.take_changes().node.items()} == {
        V4: ("10.96.4.0/24", "10.96.128.0/17"),
        V6: (),
    }


def test_d4_a_changed_node_address_counts_at_once() -> None:
    made = store(DUAL)
    made.take_changes()
    made.set_node(node(addresses=["192.168.1.11", "2001:db8::10"]))
    changes = made.take_changes().node
    assert list(changes) == [V4]
    assert changes[V4].nodeport_addresses == ("192.168.1.11/32",)


def test_a_heartbeat_of_the_node_changes_nothing() -> None:
    made = store(DUAL, service())
    made.take_changes()
    made.set_node(replace(DUAL, metadata=replace(DUAL.metadata, uid="x")))
    assert not any(made.take_changes())


def test_what_is_wrong_with_the_node_is_reported() -> None:
    assert [finding.reason for finding in store(configuration=NodeConfiguration(node_name="x")).findings()] == [
        Reason.UNKNOWN_NODE
    ]
    made = store(node(addresses=["web", "192.168.1.1"]), service_cidr("10.96.0.0"))
    assert [(finding.subject, finding.reason) for finding in made.findings()] == [
        ("Node node-1", Reason.UNUSABLE_ADDRESS),
        ("ServiceCIDR kubernetes", Reason.UNUSABLE_RANGE),
    ]


def test_svc_61_node_ports_on_every_address_are_never_in_silence() -> None:
    """Whether the Node is not known, or states no address."""
    stated = NodeConfiguration(node_name="node-1", nodeport_addresses=("192.168.1.0/24",))
    for items in ((), (node(addresses=[]),), (node(addresses=["nonsense"]),)):
        made = store(*items)
        assert made.node_settings(V4).nodeport_addresses == ("0.0.0.0/0",)  # type: ignore[union-attr]
        (found,) = [one for one in made.findings() if one.reason is Reason.UNKNOWN_NODE]
        assert "NodePorts are accepted on every address" in found.message
    # Not so where the configuration says where.
    assert Reason.UNKNOWN_NODE not in {one.reason for one in store(node(addresses=[]), configuration=stated).findings()}


def test_masquerade_all_is_handed_on() -> None:
    assert node_settings(V4, masquerade_all=True).masquerade_all
    assert not node_settings(V4).masquerade_all
