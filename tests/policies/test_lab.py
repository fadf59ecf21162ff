"""The lab and the oracle against rules that a person wrote: right ones are found right, each wrong one is seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.packets import Packet, build
from tests.policies import catalogue, checks, hand_written
from tests.policies.cluster import BY_NAME, NODE_1, NODE_ADDRESSES, PODS, PROBES, Party, Probe
from tests.policies.fixtures import lab_or_skip
from tests.policies.hand_written import RULESETS, Ruleset
from tests.policies.lab import NODES, Frame, Lab, LabError, interface_of

pytestmark = pytest.mark.kernel

CASES = {case.name: case for case in catalogue.cases()}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


@pytest.fixture(autouse=True)
def _without_rules(lab: Lab) -> None:
    load(lab, ())


def load(lab: Lab, rules: tuple[str, ...]) -> None:
    for node in NODES:
        lab.nft(node, hand_written.text(rules))


def test_without_rules_everything_arrives(lab: Lab) -> None:
    assert all(lab.arrived(PROBES))


@pytest.mark.parametrize("ruleset", RULESETS, ids=lambda ruleset: ruleset.case)
def test_right_rules_are_found_right(ruleset: Ruleset, lab: Lab) -> None:
    load(lab, ruleset.rules)
    objects = CASES[ruleset.case].objects()
    checks.assert_same(lab, objects, ruleset.case)
    wanted = checks.expected(objects)
    assert True in wanted
    assert False in wanted


@pytest.mark.part(2)
@pytest.mark.parametrize("ruleset", RULESETS, ids=lambda ruleset: ruleset.case)
def test_each_rule_that_is_missing_is_seen(ruleset: Ruleset, lab: Lab) -> None:
    objects = CASES[ruleset.case].objects()
    for number, rule in enumerate(ruleset.rules):
        load(lab, ruleset.rules[:number] + ruleset.rules[number + 1 :])
        assert checks.differences(lab, objects), f"nobody misses: {rule}"


@pytest.mark.part(2)
@pytest.mark.parametrize("ruleset", RULESETS, ids=lambda ruleset: ruleset.case)
def test_each_wrong_verdict_is_seen(ruleset: Ruleset, lab: Lab) -> None:
    objects = CASES[ruleset.case].objects()
    other = {"accept": "drop", "drop": "accept"}
    for number, rule in enumerate(ruleset.rules):
        words, _, verdict = rule.rpartition(" ")
        load(lab, (*ruleset.rules[:number], f"{words} {other[verdict]}", *ruleset.rules[number + 1 :]))
        assert checks.differences(lab, objects), f"nobody sees that this is the other way: {rule}"


def test_one_port_of_one_pair_is_seen(lab: Lab) -> None:
    victim = Probe(BY_NAME["z/b"], BY_NAME["x/a"], 6, "SCTP", 81)
    load(lab, (f"ip6 saddr {victim.flow.source} ip6 daddr {victim.flow.destination} sctp dport 81 drop",))
    lost = [probe for probe, passed in zip(PROBES, lab.arrived(PROBES), strict=True) if not passed]
    assert lost == [victim]


def test_a_packet_at_the_wrong_pod_is_an_error(lab: Lab) -> None:
    right, wrong = (BY_NAME[name].addresses.v4 for name in ("x/a", "x/b"))
    chain = f"type nat hook prerouting priority -100; ip daddr {right} dnat to {wrong};"
    lab.nft(NODE_1, f"table ip astray {{ chain prerouting {{ {chain} }}; }}")
    try:
        with pytest.raises(AssertionError, match="came out at x-b"):
            lab.arrived([Probe(BY_NAME["y/b"], BY_NAME["x/a"], 4, "TCP", 80)])
    finally:
        lab.nft(NODE_1, "delete table ip astray")


def test_a_lab_that_loses_packets_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.policies.lab.patience", lambda seconds: seconds / 10)
    load(lab, ("ip daddr 198.51.100.1 drop",))
    with pytest.raises(LabError):
        lab.arrived(PROBES[:1])


def test_replies_are_of_the_same_connection(lab: Lab) -> None:
    client, server = BY_NAME["x/a"], BY_NAME["x/c"]
    load(lab, (f"ip saddr {server.addresses.v4} drop",))
    there = Packet(client.addresses.v4, server.addresses.v4, 80, "UDP", source_port=4000)
    back = Packet(server.addresses.v4, client.addresses.v4, 4000, "UDP", source_port=80)
    lab.forget_connections()
    assert not lab.exchange([Frame(interface_of(server), build(back, 1))])
    frames = [Frame(interface_of(client), build(there, 1)), Frame(interface_of(server), build(back, 2))]
    assert [frame.interface for frame in lab.exchange(frames)] == [interface_of(server), interface_of(client)]


def test_the_nodes_own_packets(lab: Lab) -> None:
    node = Party(NODE_1, NODE_ADDRESSES[NODE_1], NODE_1)
    probes = [Probe(node, pod, family, "UDP", 80) for pod in PODS for family in (4, 6)]
    assert all(lab.arrived(probes))
    load(lab, (f"ip saddr {node.addresses.v4} drop",))
    # What a node sends passes forward only on the other one.
    assert lab.arrived(probes) == [probe.destination.node == NODE_1 or probe.family == 6 for probe in probes]
