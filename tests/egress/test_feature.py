"""Which ranges follow from Nodes, ServiceCIDRs and the configuration, and what is said where none do."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from rulegen.config import EgressSettings, Family, NodeConfiguration, PodRange
from rulegen.egress.feature import EgressMasquerade
from rulegen.egress.model import Range, Side
from rulegen.egress.simulate import decide
from rulegen.errors import InputError
from rulegen.features import check_conditions
from rulegen.kube.objects import Metadata, Node, NodeSpec
from rulegen.networks import family_of
from rulegen.reference import ObjectReference
from tests.builders import node, service_cidr

CONFIGURATION = NodeConfiguration(node_name="node-1")
OWN = node("node-1", pod_cidrs=["10.244.1.0/24", "fd00:10:244:1::/64"])
OTHER = node("node-2", pod_cidrs=["10.244.2.0/24", "fd00:10:244:2::/64"])
NODE_1, NODE_2 = (ObjectReference("Node", "", name) for name in ("node-1", "node-2"))


def made(*items: object, configuration: NodeConfiguration = CONFIGURATION) -> EgressMasquerade:
    feature = EgressMasquerade(configuration)
    for item in items:
        feature.put(item)
    return feature


def ranges(feature: EgressMasquerade, side: Side) -> set[str]:
    return {cidr for family in Family for cidr in feature.store.ranges(side, family)}


def taken(side: Side, *cidrs: str, owner: str | None) -> dict[Range, str | None]:
    return {Range(side, family_of(cidr), cidr): owner for cidr in cidrs}


def test_pods_are_those_of_the_own_node() -> None:
    feature = made(OWN, OTHER, service_cidr("10.96.0.0/12", "fd00:96::/112"))
    assert ranges(feature, Side.PODS) == {"10.244.1.0/24", "fd00:10:244:1::/64"}
    pods = {"10.244.1.0/24", "fd00:10:244:1::/64", "10.244.2.0/24", "fd00:10:244:2::/64"}
    assert ranges(feature, Side.CLUSTER) == pods | {"10.96.0.0/12", "fd00:96::/112"}
    assert ranges(feature, Side.EXEMPT) == {
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "fe80::/10",
    }


def test_a_node_that_comes_or_goes_is_its_own_ranges() -> None:
    feature = made(OWN)
    assert feature.take().context is True
    feature.put(OTHER)
    mine = ("10.244.2.0/24", "fd00:10:244:2::/64")
    assert feature.take() == (taken(Side.CLUSTER, *mine, owner="Node node-2"), None)
    # Its status changes all the time.
    feature.put(replace(OTHER, status=None))
    assert feature.take() == ({}, None)
    feature.remove(NODE_2)
    assert feature.take() == (taken(Side.CLUSTER, *mine, owner=None), None)


def test_the_cluster_cidr_holds_all_nodes() -> None:
    configuration = replace(CONFIGURATION, cluster_cidrs=("10.244.0.0/16",))
    feature = made(OWN, OTHER, configuration=configuration)
    assert ranges(feature, Side.CLUSTER) == {"10.244.0.0/16", "fd00:10:244:1::/64", "fd00:10:244:2::/64"}
    assert ranges(feature, Side.PODS) == {"10.244.1.0/24", "fd00:10:244:1::/64"}
    # Without a Node's range of a family, or where that is not where its pods are.
    assert ranges(made(configuration=configuration), Side.PODS) == {"10.244.0.0/16"}
    calico = replace(configuration, egress=EgressSettings(pod_range=PodRange.CLUSTER_CIDR))
    assert ranges(made(OWN, configuration=calico), Side.PODS) == {"10.244.0.0/16", "fd00:10:244:1::/64"}


def test_an_own_node_that_is_gone_or_made_anew_takes_nothing_away() -> None:
    feature = made(OWN)
    feature.take()
    feature.remove(NODE_1)
    feature.put(node("node-1"))
    assert feature.take() == ({}, None)
    feature.put(node("node-1", pod_cidrs=["10.244.9.0/24"]))
    assert ranges(feature, Side.PODS) == {"10.244.9.0/24"}
    assert ranges(feature, Side.CLUSTER) == {"10.244.9.0/24"}


def test_a_family_that_gets_no_rules_has_no_ranges() -> None:
    feature = made(OWN, configuration=replace(CONFIGURATION, families=(Family.IPV4,)))
    assert {item.family for item in feature.take().items} == {Family.IPV4}


def test_the_old_field_of_a_node_counts() -> None:
    old = Node(metadata=Metadata(name="node-1"), spec=NodeSpec(pod_cidr="10.244.1.0/24"))
    assert ranges(made(old), Side.PODS) == {"10.244.1.0/24"}


@pytest.mark.parametrize("items", [(), (OTHER,), (node("node-1"),), (service_cidr("10.96.0.0/12"),)])
def test_without_a_range_of_pods_it_does_not_begin(items: Iterable[object]) -> None:
    feature = made(*items)
    with pytest.raises(InputError, match=r"^egress-masquerade: no pod range is known: [^\n]*$"):
        check_conditions([feature])
    assert feature.take() == ({}, False)
    (found,) = feature.findings.get(NODE_1) or ()
    assert found.reason == "EgressNoPodRange"
    # It does when there is one, and has then all that came before.
    feature.put(OWN)
    check_conditions([feature])
    begun = feature.take()
    assert begun.context is True
    assert taken(Side.PODS, "10.244.1.0/24", "fd00:10:244:1::/64", owner="Node node-1").items() <= begun.items.items()
    assert feature.findings.get(NODE_1) is None


def test_with_a_file_that_cannot_be_used_it_does_not_begin() -> None:
    feature = made(OWN, configuration=replace(CONFIGURATION, egress=EgressSettings(unusable="f: masqLinkLocal: no")))
    with pytest.raises(InputError, match=r"^f: masqLinkLocal: no$"):
        check_conditions([feature])
    assert feature.take() == ({}, False)
    (found,) = feature.findings.get(NODE_1) or ()
    assert (found.reason, found.message) == ("EgressUnusableFile", "f: masqLinkLocal: no; its rules stay as they are")


def test_a_range_that_cannot_be_read_is_a_finding_and_stops_no_other() -> None:
    bad = node("node-2", pod_cidrs=["10.244.2.0/24", "ten\x1b[31m"])
    feature = made(OWN, bad, service_cidr("10.96.0.0/12", "x" * 100_000))
    feature.take()
    (found,) = feature.findings.get(NODE_2) or ()
    assert found.message == 'spec.podCIDRs: expected a CIDR, got "ten\\u001b[31m"; skipped'
    (found,) = feature.findings.get(ObjectReference("ServiceCIDR", "", "kubernetes")) or ()
    assert len(found.message) < 200
    assert {"10.244.2.0/24", "10.96.0.0/12"} <= ranges(feature, Side.CLUSTER)
    feature.put(OTHER)
    assert feature.findings.get(NODE_2) is None


def test_of_many_ranges_that_cannot_be_read_a_few_are_told_and_the_number() -> None:
    feature = made(OWN, node("node-2", pod_cidrs=[f"nonsense-{number}" for number in range(900)]))
    feature.take()
    found = feature.findings.get(NODE_2) or ()
    assert (len(found), found[-1].message) == (11, "and 890 more like these")


def test_a_decision_and_its_reason() -> None:
    store = made(OWN, OTHER, service_cidr("10.96.0.0/12")).store

    def said(source: str, destination: str) -> tuple[bool, str]:
        return decide(store, source, destination, ["192.0.2.10"])

    assert said("10.244.1.5", "203.0.113.9") == (
        True,
        "10.244.1.5 is a pod's of this node (10.244.1.0/24, Node node-1), and 203.0.113.9 neither in the cluster nor "
        "in nonMasqueradeCIDRs",
    )
    assert said("10.244.2.5", "203.0.113.9")[0] is False
    assert said("10.244.1.5", "192.0.2.10") == (False, "192.0.2.10 is the node itself")
    assert said("10.244.1.5", "10.244.2.5") == (False, "10.244.2.5 is in the cluster (10.244.2.0/24, Node node-2)")
    assert said("10.244.1.5", "172.16.0.1") == (False, "172.16.0.1 is exempt (172.16.0.0/12, nonMasqueradeCIDRs)")
    assert said("fd00:10:244:1::5", "fe80::1") == (False, "fe80::1 is exempt (fe80::/10, link-local)")
    assert said("fd00:10:244:1::5", "2001:db8::1")[0] is True
