"""Packets that are not the first of their connection meet one rule at most a hook; what is refused still is."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace

import pytest
from hypothesis import given, settings

from rulegen.iptables.binaries import Variant
from rulegen.iptables.chains import NAT
from rulegen.iptables.rules import parse_rule
from rulegen.kube.objects import Service as ServiceObject
from tests.builders import Item
from tests.flows.scene import CLIENT, POD, Scene
from tests.flows.world import HERE, Endpoint, Port, Service
from tests.iptables.host import compiled
from tests.iptables.test_firewalls import ADDRESSES, FAR, Site, objects
from tests.lab import Fate, Outcome, Packet
from tests.nftables.clusters import clusters
from tests.patience import patience

CLUSTER_IP, VIP = "10.96.0.10", "203.0.113.5"
DNS = Service(
    "dns",
    (CLUSTER_IP,),
    (Port(53, "UDP", 30053, 5353),),
    (Endpoint("10.128.0.5", HERE),),
    vips=(VIP,),
    kind="LoadBalancer",
)


def rules_met(rules: tuple[str, ...], state: str) -> int:
    """How many rules of a built-in chain are evaluated for a packet of a state until one has decided."""
    for number, rule in enumerate(rules, 1):
        parsed = parse_rule(rule)
        states = parsed.options.get("--ctstate", state).split(",")
        if state in states:
            # A jump would go on with the rules of another chain.
            return number if parsed.target == "ACCEPT" else number + 100
    return len(rules)


@given(items=clusters())
@settings(deadline=None)
def test_a_later_packet_meets_one_rule_in_each_hook(items: list[Item]) -> None:
    asked = [item for item in items if isinstance(item, ServiceObject) and item.spec.health_check_node_port]
    entries = compiled([item for item in items if item not in asked]).entries()
    hooks = {key: rules for key, rules in entries.items() if key.is_built_in and key.table != NAT}
    assert {key.chain for key in hooks} >= {"INPUT", "FORWARD", "OUTPUT"}
    for key, rules in hooks.items():
        assert rules_met(rules, "ESTABLISHED") == 1, key


def test_with_health_checks_a_received_packet_meets_one_more() -> None:
    entries = compiled(objects()).entries()
    met = {
        key: rules_met(rules, "ESTABLISHED") for key, rules in entries.items() if key.is_built_in and key.table != NAT
    }
    assert {number for key, number in met.items() if key.chain != "INPUT"} == {1}
    assert {number - 100 for key, number in met.items() if key.chain == "INPUT"} == {2}


@pytest.mark.kernel
@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.value)
def test_forwarded_packets_end_at_the_first_rule(variant: Variant) -> None:
    with ExitStack() as opened:
        site = Site(variant, opened)
        site.host.apply(*objects())
        site.run("-A FORWARD -m comment --comment behind")
        for family, addresses in ADDRESSES.items():
            site.run("-Z FORWARD")
            with site.client.entered():
                connection = socket.create_connection((addresses.node, FAR), timeout=patience(20))
            with connection:
                while connection.recv(100):
                    pass
            first, *others, behind = site.host.run("-nvxL FORWARD", family=family).splitlines()[2:]
            assert "ESTABLISHED" in first
            assert int(first.split()[0]) >= 4
            # The first packet, and no other.
            assert [int(rule.split()[0]) for rule in others] == [1, 1]
            assert int(behind.split()[0]) == 0


# ---- a flow that nobody has answered yet is new, packet by packet ----


def send(scene: Scene, source: str, destination: str, number: int = 53) -> Outcome:
    """One more datagram of the same flow."""
    (outcome,) = scene.lab.send([Packet(source, destination, number, "UDP", source_port=4711)])
    return outcome


@pytest.mark.kernel
def test_an_unreplied_flow_is_refused_once_its_source_is_out_of_range(scene: Scene) -> None:
    scene.services(DNS)
    assert send(scene, CLIENT, VIP).fate is Fate.DELIVERED
    scene.services(replace(DNS, ranges=("192.0.2.0/24",)))
    assert send(scene, CLIENT, VIP).fate is Fate.DROPPED
    scene.services(replace(DNS, ranges=("203.0.113.0/24",)))
    assert send(scene, CLIENT, VIP).interface == "pods"


@pytest.mark.kernel
@pytest.mark.parametrize("source", [CLIENT, POD])
def test_an_unreplied_flow_to_a_service_that_comes_without_endpoints_is_refused(scene: Scene, source: str) -> None:
    scene.services()
    assert send(scene, source, VIP).fate is Fate.PASSED
    scene.services(replace(DNS, endpoints=()))
    assert send(scene, source, VIP).fate is Fate.REJECTED
    scene.services(replace(DNS, endpoints=(Endpoint("10.128.1.5"),), external="Local"))
    assert send(scene, CLIENT, VIP).fate is Fate.DROPPED


@pytest.mark.kernel
def test_an_unreplied_flow_to_a_cluster_ip_that_comes_is_refused_on_ports_it_does_not_have(scene: Scene) -> None:
    scene.change_node(service_cidrs=())
    scene.services()
    assert send(scene, POD, CLUSTER_IP, 54).fate is Fate.PASSED
    scene.services(DNS)
    assert send(scene, POD, CLUSTER_IP, 54).fate is Fate.REJECTED
    scene.services()
    scene.change_node(service_cidrs=("10.96.0.0/16",))
    assert send(scene, POD, CLUSTER_IP, 54).fate is Fate.DROPPED
    scene.change_node(service_cidrs=scene.world.service_cidrs)
