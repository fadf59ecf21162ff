"""Rules of random clusters do what the objects mean, on both targets, for every packet."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bench.verify import compiled
from rulegen.config import Target
from rulegen.netfilter.machine import Fate
from rulegen.netfilter.state import Connection
from rulegen.verify import questions, rulesets
from tests.builders import CONFIGURATION, node, port, service, service_cidr
from tests.flows.random_worlds import RandomWorld
from tests.selection import Extent
from tests.verify.cases import Case, check

pytestmark = pytest.mark.kernel

# Of a world, where not everything is tried: two rulesets together take long.
SERVICES = 6
ADDRESS = "192.168.1.10"


@pytest.mark.part(200)
@pytest.mark.parametrize("target", ["nftables", "iptables"])
@pytest.mark.parametrize("seed", range(200))
def test_rules_do_what_the_objects_mean(seed: int, target: str, extent: Extent) -> None:
    made = RandomWorld(seed)
    for step in range(3 if extent.exhaustive else 1):
        if step:
            made.change()
        case = Case(made.world, target)
        check(case.report(case.source()))


@pytest.mark.part(100)
@pytest.mark.parametrize("seed", range(100))
def test_two_targets_treat_first_packets_alike(seed: int, extent: Extent) -> None:
    world = RandomWorld(seed).world
    if not extent.exhaustive:
        world = replace(world, services=world.services[:SERVICES])
    sides = [Case(world, target) for target in ("nftables", "iptables")]
    mark = 1 << sides[0].configuration.masquerade_bit
    left, right = (side.source() for side in sides)
    report = questions.against_rules(left, right, mark, questions.KnownAddresses(sides[0].addresses))
    for family, proof in report.proofs:
        for difference in proof.differences:
            # They differ where D5, D14 and D20 say so; of first packets only in what is asked after DNAT.
            is_endpoint_refused = any(one.atom[0] is not None for one in difference.deviations)
            assert difference.connection is not Connection.NEW or is_endpoint_refused
        assert not proof.unknown, family


def test_the_nodes_own_address_in_a_service_cidr() -> None:
    """What the node sends there, to a NodePort without endpoints, is dropped, with either target (SVC-67)."""
    web = service(kind="NodePort", ports=[port(node_port=30080)])
    objects = [node(), service_cidr("192.168.1.0/24"), web]
    texts = {target: compiled(objects, CONFIGURATION, target) for target in Target}
    sources = {target: rulesets.read_text(text, target.value) for target, (_, text) in texts.items()}
    for target, (store, _) in texts.items():
        check(questions.against_objects(sources[target], store, CONFIGURATION, [ADDRESS]))
    known = questions.KnownAddresses([ADDRESS])
    left, right = sources.values()
    report = questions.against_rules(left, right, 1 << CONFIGURATION.masquerade_bit, known)
    connections = {one.connection for _, proof in report.proofs for one in proof.differences}
    assert Connection.NEW not in connections
    store, text = texts[Target.NFTABLES]
    rule = re.compile(r".* & 0xfff == 0x806 drop\n")
    assert rule.search(text)
    without = questions.against_objects(
        rulesets.read_text(rule.sub("", text), "without"), store, CONFIGURATION, [ADDRESS]
    )
    (kind,) = {
        (one.is_sent, one.packet.port, *(ending.outcome.fate for ending in (*one.left, *one.right)))
        for _, proof in without.proofs
        for one in proof.differences
    }
    assert kind == (True, 30080, Fate.REJECTED, Fate.DROPPED)
