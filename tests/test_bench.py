"""The measurements still measure what they say, on clusters too small for the figures to mean anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import egress
from bench.child import Order, run
from bench.clusters import NODE, Shape, manifest
from bench.iptables import usable_drivers
from bench.packets import FLOOR, LAYOUTS, common_packets, interval, special_packets
from bench.policies import FIRST, FOREIGN, LATER, LINEAR, NONE, OURS
from rulegen.config import NodeConfiguration
from rulegen.egress.feature import EgressMasquerade
from rulegen.egress.simulate import decide
from rulegen.features import feed
from rulegen.kube.manifests import load

SMALL = Shape(20)
SPECIAL = Shape(20, special=True)
MIXED = Shape(20, mixed=True)
HEADLESS = Shape(20, endpoints=3, headless=True)
# Seconds; what the figures are worth does not matter here.
SHORT = 0.2


def test_the_same_size_gives_the_same_cluster(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert manifest(MIXED, tmp_path).read_bytes() == manifest(MIXED, tmp_path / "again").read_bytes()


def test_the_mixed_cluster_is_mixed(tmp_path: Path) -> None:
    found = load([str(manifest(MIXED, tmp_path))], None)
    assert not found.problems
    types = [service.spec.type for service in found.services]
    assert {kind: types.count(kind) for kind in types} == {"ClusterIP": 14, "NodePort": 4, "LoadBalancer": 2}
    assert len(found.endpoint_slices) == 40
    assert all(len(slice_.endpoints or ()) == 10 for slice_ in found.endpoint_slices)


@pytest.mark.kernel
@pytest.mark.parametrize(
    "order",
    [
        Order("stages", SMALL),
        Order("stages", MIXED),
        Order("command", MIXED),
        Order("changes", MIXED, (2,)),
        Order("new chain", SMALL, (2,)),
        Order("beside", SMALL, (2,)),
        Order("upgrade", MIXED),
        Order("agent", SMALL, (5, 1, "nftables", SHORT)),
        Order("flood", SMALL, (2, 100, SHORT, SHORT)),
        Order("kube-proxy load", SMALL),
        Order("kube-proxy change", SMALL, (2,)),
        Order("proof", SPECIAL),
        Order("proof of kube-proxy iptables", SPECIAL),
        Order("iptables stages", MIXED, ("nft",)),
        Order("iptables changes", SMALL, ("legacy", 2, "iptables-restore")),
        Order("iptables changes", SMALL, ("legacy", 2, "python-iptables")),
        Order("kube-proxy iptables load", SMALL, ("nft",)),
        Order("records load", HEADLESS, ("bind",)),
        Order("records agent", HEADLESS, ("knot", 2)),
    ],
    ids=lambda order: f"{order.measurement}, {order.shape}",
)
def test_it_measures(order: Order, tmp_path: Path) -> None:
    if "python-iptables" in order.arguments and "python-iptables" not in usable_drivers():
        pytest.xfail("python-iptables does not understand the iptables of this host")
    result = run(order, tmp_path)
    assert not any(result.get("commits of the restart", ()))  # type: ignore[arg-type] # a list
    for name, value in result.items():
        if not name.endswith((" cpu", "nft memory", "restore memory", "of the restart")):
            assert min(value if isinstance(value, list) else [value]) > 0, name


POLICIES = (200, 20)


@pytest.mark.kernel
@pytest.mark.parametrize("measurement", ["policy stages", "policy changes"])
def test_it_measures_policies(measurement: str, tmp_path: Path) -> None:
    arguments = (*POLICIES, 2) if measurement == "policy changes" else POLICIES
    result = run(Order(measurement, arguments=arguments), tmp_path)
    for name, value in result.items():
        if not name.endswith(" cpu"):
            assert min(value if isinstance(value, list) else [value]) > 0, name


@pytest.mark.kernel
def test_policies_let_the_measured_packets_pass(tmp_path: Path) -> None:
    figures = run(Order("policy packets", arguments=(*POLICIES, 3, 40)), tmp_path)
    assert {f"{kind}, {name}" for kind in (FIRST, LATER, FOREIGN) for name in (NONE, OURS, LINEAR)} <= set(figures)


@pytest.mark.kernel
def test_it_measures_egress_masquerading(tmp_path: Path) -> None:
    figures = run(Order("egress packets", arguments=(40, 3, 40)), tmp_path)
    kinds, layouts = (egress.OUTSIDE, egress.INSIDE, egress.LATER, egress.FOREIGN), (egress.OURS, egress.OURS_IPTABLES)
    assert {f"{kind}, {name}" for kind in kinds for name in (egress.NONE, *layouts, egress.AGENT)} <= set(figures)
    changes = run(Order("egress changes", arguments=(40, 2)), tmp_path)
    assert all(min(times) > 0 for times in changes.values() if isinstance(times, list))


def test_the_packets_that_egress_masquerading_is_measured_with_are_the_nodes_own_pods() -> None:
    feature = EgressMasquerade(NodeConfiguration(node_name=NODE))
    feed([feature], egress.cluster(300))
    assert decide(feature.store, egress.POD, egress.SERVER, ()).is_masqueraded
    assert decide(feature.store, egress.POD, egress.OTHER_POD, ()).reason.startswith("10.2.1.5 is in the cluster")


@pytest.mark.kernel
def test_every_layout_passes_every_kind_of_packet(tmp_path: Path) -> None:
    names = [name for name in LAYOUTS if name != FLOOR]
    figures = run(Order("packets", SPECIAL, (3, 40, *names)), tmp_path)
    kinds = common_packets(SPECIAL) | special_packets(SPECIAL)
    assert {f"{kind}, {name}" for kind in kinds for name in LAYOUTS} <= set(figures)
    assert all(len(ratios) == 3 and min(ratios) > 0 for ratios in figures.values() if isinstance(ratios, list))


def test_the_median_lies_in_its_interval() -> None:
    assert interval([1.0] * 60) == (1.0, 1.0, 1.0)
    middle, low, high = interval([float(number) for number in range(60)])
    assert (middle, low, high) == (29.5, 22.0, 38.0)
