"""Rules of random clusters do what the objects mean, on both targets, for every packet."""

from __future__ import annotations

import pytest

from rulegen.netfilter.machine import Fate
from rulegen.netfilter.state import Connection
from rulegen.verify import questions
from rulegen.verify.prove import Difference
from tests.flows.random_worlds import RandomWorld
from tests.verify.cases import Case, check

pytestmark = pytest.mark.kernel

STEPS = 3


@pytest.mark.part(20)
@pytest.mark.parametrize("target", ["nftables", "iptables"])
@pytest.mark.parametrize("seed", range(200))
def test_rules_do_what_the_objects_mean(seed: int, target: str) -> None:
    made = RandomWorld(seed)
    for step in range(STEPS):
        if step:
            made.change()
        case = Case(made.world, target)
        check(case.report(case.source()))


@pytest.mark.part(20)
@pytest.mark.parametrize("seed", range(100))
def test_two_targets_treat_first_packets_alike(seed: int) -> None:
    made = RandomWorld(seed)
    sides = [Case(made.world, target) for target in ("nftables", "iptables")]
    mark = 1 << sides[0].configuration.masquerade_bit
    left, right = (side.source() for side in sides)
    report = questions.against_rules(left, right, mark, questions.KnownAddresses(sides[0].addresses))
    for family, proof in report.proofs:
        for difference in proof.differences:
            # They differ where D5, D14 and D20 say so; of first packets only in what is asked after DNAT.
            is_endpoint_refused = any(one.atom[0] is not None for one in difference.deviations)
            assert difference.connection is not Connection.NEW or is_endpoint_refused or _is_own_node_port(difference)
        assert not proof.unknown, family


def _is_own_node_port(difference: Difference) -> bool:
    """What the node sends to a NodePort of its own address that is in a ServiceCIDR is rejected or dropped (D20)."""
    fates = {ending.outcome.fate for ending in (*difference.left, *difference.right)}
    return difference.is_sent and fates == {Fate.REJECTED, Fate.DROPPED}
