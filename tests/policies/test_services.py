"""Random clusters with Services and policies: a packet is judged after DNAT and before SNAT, whatever way it takes."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from rulegen.iptables.binaries import Variant
from rulegen.kube.objects import Node
from tests.flows.node import ProxyNode
from tests.flows.world import HERE, Endpoint, Port, Service, World
from tests.lab import Fate, Packet
from tests.lab.fixtures import MakeLab
from tests.policies import documents as d
from tests.policies.decoding import decode
from tests.policies.kept import POLICIES, Kept
from tests.policies.services import Judge, PolicyWorld, differences

pytestmark = pytest.mark.kernel

STEPS = 3
FLOWS_OF_A_STEP = 150


@pytest.mark.part(20)
@pytest.mark.parametrize("seed", range(60))
def test_nftables(seed: int, make_lab: MakeLab) -> None:
    _walk(make_lab, PolicyWorld(seed))


@pytest.mark.part(10)
@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.value)
@pytest.mark.parametrize("seed", range(10))
def test_iptables(seed: int, variant: Variant, make_lab: MakeLab) -> None:
    _walk(make_lab, PolicyWorld(seed, with_names=False), variant)


def _walk(make_lab: MakeLab, made: PolicyWorld, variant: Variant | None = None) -> None:
    lab = make_lab(dict(made.world.interfaces), made.world.addresses)
    kept = Kept(lab.entered, made.world.configuration(), POLICIES, variant=variant)
    try:
        for step in range(STEPS):
            if step:
                made.change()
            assert not kept.keep([*made.world.objects(), *_of_policies(made)]).refused
            wrong = differences(lab, made.world, made.objects, list(made.flows(FLOWS_OF_A_STEP)))
            assert not wrong, f"step {step}: {len(wrong)} differ:\n" + "\n".join(wrong[:20])
            lab.forget_connections()
    finally:
        kept.close()


def _of_policies(made: PolicyWorld) -> Iterator[Any]:
    """Of the node both worlds have a Node; that of the Services says more."""
    return (item for item in decode(made.objects) if not (isinstance(item, Node) and item.metadata.name == HERE))


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


CLIENT, NODE_PORT = "203.0.113.9", 30080
_OTHERS = (
    # As kube-proxy's mode iptables has it, and as administrators do.
    ("-N KUBE-FORWARD", "-A KUBE-FORWARD -m conntrack --ctstate NEW -j ACCEPT", "-I FORWARD 1 -j KUBE-FORWARD"),
    ("-I FORWARD 1 -j ACCEPT",),
)


@pytest.mark.parametrize("others", _OTHERS, ids=["a chain that accepts", "an accept"])
@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.value)
def test_on_iptables_no_accept_comes_before_policies(
    variant: Variant, others: tuple[str, ...], make_lab: MakeLab
) -> None:
    """NodePort traffic to an isolated pod: what accepts it in FORWARD stands behind, and is put behind again."""
    service = Service(
        "web",
        ("10.96.0.7",),
        (Port(80, node_port=NODE_PORT, target=8080),),
        (Endpoint("10.128.0.1", HERE), Endpoint("10.128.0.2", HERE)),
    )
    world = World(services=(service,))
    lab = make_lab(dict(world.interfaces), world.addresses)
    pods = [d.pod("x", f"pod-{number}", [f"10.128.0.{number}"], HERE, {"n": str(number)}) for number in (1, 2)]
    deny = d.policy("x", "deny", d.selector({"n": "1"}), policyTypes=["Ingress"])
    kept = Kept(lab.entered, world.configuration(), POLICIES, variant=variant)
    objects = [*world.objects(), *decode([*pods, deny])]

    def reached() -> set[str]:
        lab.forget_connections()
        packet = Packet(CLIENT, "192.0.2.10", NODE_PORT)
        return {outcome.endpoint for outcome in lab.send([packet] * 60) if outcome.fate is Fate.DELIVERED}

    try:
        kept.keep(world.objects())
        assert reached() == {"10.128.0.1:8080", "10.128.0.2:8080"}
        kept.keep(objects)
        assert reached() == {"10.128.0.2:8080"}
        with lab.entered():
            for rule in others:
                subprocess.run([f"iptables-{variant.value}", *rule.split()], check=True)
        assert reached() == {"10.128.0.1:8080", "10.128.0.2:8080"}
        kept.reconciler.distrust()
        kept.keep(objects)
        assert reached() == {"10.128.0.2:8080"}
    finally:
        kept.close()
