"""Random clusters with Services and policies: a packet is judged after DNAT and before SNAT, whatever way it takes."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.flows.node import ProxyNode
from tests.flows.world import HERE
from tests.lab import Lab
from tests.lab.fixtures import MakeLab
from tests.policies.documents import Document
from tests.policies.product import texts
from tests.policies.services import Judge, PolicyWorld, differences

pytestmark = pytest.mark.kernel

STEPS = 3
FLOWS_OF_A_STEP = 150


@pytest.mark.part(20)
@pytest.mark.parametrize("seed", range(60))
def test_nftables(seed: int, make_lab: MakeLab) -> None:
    made = PolicyWorld(seed)
    lab = make_lab(dict(made.world.interfaces), made.world.addresses)
    with ProxyNode(lab, made.world.configuration()) as node:
        for step in range(STEPS):
            if step:
                made.change()
            node.apply(made.world.objects())
            enforce(lab, made.objects)
            wrong = differences(lab, made.world, made.objects, list(made.flows(FLOWS_OF_A_STEP)))
            assert not wrong, f"seed {seed}, step {step}: {len(wrong)} differ:\n" + "\n".join(wrong[:20])
            lab.forget_connections()


def enforce(lab: Lab, objects: list[Document]) -> None:
    lab.nft(texts(objects, HERE))


def test_without_policies_the_same_packets_are_not_denied(make_lab: MakeLab) -> None:
    """The test would see it if policies were not in force."""
    made = PolicyWorld(2)
    lab = make_lab(dict(made.world.interfaces), made.world.addresses)
    with ProxyNode(lab, made.world.configuration()) as node:
        node.apply(made.world.objects())
        wrong = differences(lab, made.world, made.objects, list(made.flows(FLOWS_OF_A_STEP)))
    assert any("but went to" in sentence for sentence in wrong)


def test_policies_decide_about_many_packets_of_every_kind() -> None:
    counts: Counter[str] = Counter()
    for seed in range(8):
        made = PolicyWorld(seed)
        judge = Judge(made.world, made.objects)
        for flow in made.flows(FLOWS_OF_A_STEP):
            found = judge.judge(flow)
            if found.denied:
                counts["all ways" if len(found.denied) == len(found.expected.shares) else "some ways"] += 1
            elif found.expected.shares:
                counts["allowed"] += 1
            if found.denied_itself and found.expected.fate == "passed":
                counts["no Service"] += 1
    assert all(counts[kind] >= 10 for kind in ("all ways", "some ways", "allowed", "no Service")), counts
