"""The lab tells truly what hand-written rules do to packets; everything that the kernel tests conclude rests on it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Fate, Lab, Outcome, Packet, count_endpoints
from tests.lab.fixtures import MakeLab, lab_or_skip
from tests.patience import patience

pytestmark = pytest.mark.kernel

RULES = """
table ip t {
  map m { typeof meta l4proto . numgen random mod 2 : ip daddr . th dport; elements = {
    tcp . 0 : 10.128.0.5 . 8080, tcp . 1 : 10.128.1.7 . 8080,
    udp . 0 : 10.128.0.5 . 53, udp . 1 : 10.128.1.7 . 53,
    sctp . 0 : 10.128.0.5 . 36412, sctp . 1 : 10.128.1.7 . 36412 } }
  chain nat {
    ip daddr 10.96.0.10 dnat ip to meta l4proto . numgen random mod 2 map @m
    ip daddr 10.96.0.11 meta mark set 1 dnat to 10.128.1.7
    ip daddr 10.96.0.12 dnat to 192.0.2.10
    ip daddr 10.96.0.13 tcp dport 80 dnat to 10.128.0.5:8080
    ip daddr 192.0.2.10 tcp dport 30080 dnat to 10.128.1.7:8080
  }
  chain check { ip daddr 10.96.0.20 reject; ip daddr 10.96.0.21 drop; }
  chain prerouting { type nat hook prerouting priority -100; jump nat; }
  chain output { type nat hook output priority -100; jump nat; }
  chain forward { type filter hook forward priority 0; jump check; }
  chain filter_output { type filter hook output priority 0; jump check; }
  chain input { type filter hook input priority 0; th dport 31000 reject; th dport 31001 drop; }
  chain postrouting { type nat hook postrouting priority 100;
    meta mark 1 masquerade fully-random
    ct status dnat ip saddr 10.128.0.5 ip daddr 10.128.0.5 masquerade fully-random
  }
}
table ip6 t {
  chain nat {
    ip6 daddr fd00:10:96::10 tcp dport 80 dnat to [fd00:10:128::5]:8080
    ip6 daddr fd00:10:96::11 meta mark set 1 dnat to fd00:10:128:1::7
    ip6 daddr fd00:10:96::12 dnat to 2001:db8:0:1::10
  }
  chain check { ip6 daddr fd00:10:96::20 reject; ip6 daddr fd00:10:96::21 drop; }
  chain prerouting { type nat hook prerouting priority -100; jump nat; }
  chain output { type nat hook output priority -100; jump nat; }
  chain forward { type filter hook forward priority 0; jump check; }
  chain filter_output { type filter hook output priority 0; jump check; }
  chain postrouting { type nat hook postrouting priority 100;
    meta mark 1 masquerade fully-random
    ip6 saddr fd00:10:128::5 ip6 daddr fd00:10:128::5 ct status dnat masquerade
  }
}
"""
SOURCES = ["10.128.0.5", "10.128.1.9", "203.0.113.9", "192.0.2.10", "node"]
SOURCES_V6 = ["fd00:10:128::5", "fd00:10:128:1::9", "2001:db8:ffff::9", "2001:db8:0:1::10", "node"]
PORTS = {"TCP": 8080, "UDP": 53, "SCTP": 36412}


@pytest.fixture(scope="module")
def node() -> Iterator[Lab]:
    with lab_or_skip() as lab:
        lab.nft(RULES)
        yield lab


@pytest.mark.parametrize("protocol", PORTS)
@pytest.mark.parametrize("source", SOURCES)
def test_balanced_flows_reach_exactly_the_endpoints_of_the_map(node: Lab, source: str, protocol: str) -> None:
    counts = count_endpoints(node, Packet(source, "10.96.0.10", 80, protocol), 40)
    assert set(counts) == {f"10.128.0.5:{PORTS[protocol]}", f"10.128.1.7:{PORTS[protocol]}"}


@pytest.mark.parametrize("protocol", [*PORTS, "ICMP"])
@pytest.mark.parametrize("source", SOURCES)
def test_rejected_and_dropped_are_told_apart(node: Lab, source: str, protocol: str) -> None:
    rejected, dropped = node.send([Packet(source, f"10.96.0.{last}", 80, protocol) for last in (20, 21)])
    assert (rejected, dropped) == (Outcome(Fate.REJECTED), Outcome(Fate.DROPPED))


@pytest.mark.parametrize("protocol", [*PORTS, "ICMP"])
@pytest.mark.parametrize("source", SOURCES_V6)
def test_ipv6(node: Lab, source: str, protocol: str) -> None:
    port = 80 if protocol != "ICMP" else 0
    packets = [Packet(source, f"fd00:10:96::{last}", port, protocol) for last in (11, 12, 20, 21)]
    masqueraded, to_the_node, rejected, dropped = node.send(packets)
    assert masqueraded == Outcome(Fate.DELIVERED, f"[fd00:10:128:1::7]:{port}", True, "eth0")
    assert (to_the_node.fate, to_the_node.endpoint.rpartition(":")[0], to_the_node.interface) == (
        Fate.DELIVERED,
        "[2001:db8:0:1::10]",
        "",
    )
    assert (rejected.fate, dropped.fate) == (Fate.REJECTED, Fate.DROPPED)


@pytest.mark.parametrize("protocol", PORTS)
def test_delivery_to_a_closed_port_of_the_node_is_a_delivery(node: Lab, protocol: str) -> None:
    for source in SOURCES:
        (outcome,) = node.send([Packet(source, "10.96.0.12", 4711, protocol)])
        assert outcome == Outcome(Fate.DELIVERED, "192.0.2.10:4711")


def test_an_input_rule_decides_over_a_closed_port(node: Lab) -> None:
    packets = [
        Packet("203.0.113.9", "192.0.2.10", port, protocol) for protocol in PORTS for port in (31000, 31001, 31002)
    ]
    fates = [outcome.fate for outcome in node.send(packets)]
    assert fates == [Fate.REJECTED, Fate.DROPPED, Fate.PASSED] * 3


def test_an_input_rule_decides_over_what_the_node_sends_to_itself(node: Lab) -> None:
    # Such a connection is confirmed on its way out, before the rules for incoming packets see it.
    packets = [Packet("node", "192.0.2.10", port, protocol) for protocol in PORTS for port in (31000, 31001, 31002)]
    fates = [outcome.fate for outcome in node.send(packets)]
    assert fates == [Fate.REJECTED, Fate.DROPPED, Fate.PASSED] * 3


def test_masquerade_is_seen_for_every_kind_of_source(node: Lab) -> None:
    outcomes = node.send([Packet(source, "10.96.0.11", 80) for source in SOURCES])
    assert outcomes == [Outcome(Fate.DELIVERED, "10.128.1.7:80", True, "eth0")] * len(SOURCES)
    outcomes = node.send([Packet(source, "10.96.0.13", 80) for source in SOURCES[1:]])
    assert outcomes == [Outcome(Fate.DELIVERED, "10.128.0.5:8080", False, "pods")] * (len(SOURCES) - 1)


def test_hairpin(node: Lab) -> None:
    packets = [Packet("10.128.0.5", "10.96.0.13", 80), Packet("fd00:10:128::5", "fd00:10:96::10", 80)]
    assert node.send(packets) == [
        Outcome(Fate.DELIVERED, "10.128.0.5:8080", True, "pods"),
        Outcome(Fate.DELIVERED, "[fd00:10:128::5]:8080", True, "pods"),
    ]


def test_what_no_rule_concerns_passes(node: Lab) -> None:
    packets = [
        Packet("10.128.0.5", "203.0.113.1", 80),
        Packet("203.0.113.9", "10.128.0.5", 80, "UDP"),
        Packet("203.0.113.9", "192.0.2.10", 22),
        Packet("node", "203.0.113.1", 80),
        Packet("node", "192.0.2.10", 22),
    ]
    assert node.send(packets) == [
        Outcome(Fate.PASSED, "203.0.113.1:80", False, "eth0"),
        Outcome(Fate.PASSED, "10.128.0.5:80", False, "pods"),
        Outcome(Fate.PASSED, "192.0.2.10:22"),
        Outcome(Fate.PASSED, "203.0.113.1:80", False, "eth0"),
        Outcome(Fate.PASSED, "192.0.2.10:22"),
    ]


def test_the_arriving_interface_can_be_named(make_lab: MakeLab) -> None:
    lab = make_lab(interfaces={"cni0": ["10.128.0.0/24"], "veth1": []})
    lab.nft(
        "table ip t { chain c { type nat hook prerouting priority -100;"
        '  iifname "veth*" tcp dport 80 dnat to 10.128.0.5; }; }'
    )
    there, here = lab.send([Packet("10.128.0.7", "10.96.0.1", 80, interface=name) for name in ("veth1", None)])
    assert (there.endpoint, there.interface) == ("10.128.0.5:80", "cni0")
    assert (here.fate, here.interface) == (Fate.PASSED, "eth0")


def test_addresses_come_and_go(lab: Lab) -> None:
    packet = Packet("203.0.113.9", "198.51.100.7", 80)
    (forwarded,) = lab.send([packet])
    lab.add_address("198.51.100.7/32")
    (local,) = lab.send([packet])
    lab.remove_address("198.51.100.7/32")
    (again,) = lab.send([packet])
    assert (forwarded.interface, local.interface, again.interface) == ("eth0", "", "eth0")


def test_a_node_without_ipv6(make_lab: MakeLab) -> None:
    lab = make_lab(ipv6=False)
    packets = [Packet(source, "2001:db8::1", 80) for source in ("2001:db8:ffff::9", "node", "fd00:10:128::5")]
    assert [outcome.fate for outcome in lab.send([*packets, Packet("node", "203.0.113.1", 80)])] == [
        Fate.DROPPED,
        Fate.DROPPED,
        Fate.DROPPED,
        Fate.PASSED,
    ]


def test_thousands_of_flows_take_seconds(node: Lab) -> None:
    packets = [
        Packet(source, destination, 80, protocol)
        for source in SOURCES
        for destination in ("10.96.0.10", "10.96.0.12", "10.96.0.20", "10.96.0.21")
        for protocol in PORTS
    ]
    started = time.monotonic()
    outcomes = node.send(packets * 25)
    assert time.monotonic() - started < patience(10)
    fates = [outcome.fate for outcome in outcomes]
    assert fates.count(Fate.REJECTED) == fates.count(Fate.DROPPED) == len(outcomes) / 4
    assert fates.count(Fate.DELIVERED) == len(outcomes) / 2
