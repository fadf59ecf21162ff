"""Clusters nobody thought of, and packets to them: the kernel, the oracle and rulegen's own explanation must agree.

Every seed makes a node and a cluster that changes in steps; the number in a test's name is its seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_interface

import pytest

from rulegen.config import Family
from rulegen.services import simulate
from rulegen.services.store import Store
from tests.flows.checks import Flow, differences
from tests.flows.node import ProxyNode, Way
from tests.flows.oracle import Expected, Oracle
from tests.flows.random_worlds import RandomWorld
from tests.flows.world import World, family_of
from tests.lab.fixtures import MakeLab

pytestmark = pytest.mark.kernel

SEEDS = range(200)
STEPS = 3
FLOWS_OF_A_STEP = 150
FATES = {
    simulate.Fate.BALANCED: "delivered",
    simulate.Fate.REJECTED: "rejected",
    simulate.Fate.DROPPED: "dropped",
    simulate.Fate.UNTOUCHED: "passed",
}


@pytest.mark.part(40)
@pytest.mark.parametrize("seed", SEEDS)
def test_kernel_oracle_and_explanation_agree(seed: int, make_lab: MakeLab) -> None:
    made = RandomWorld(seed)
    lab = make_lab(dict(made.world.interfaces), made.world.addresses)
    with ProxyNode(lab, made.world.configuration(), list(Way)[seed % 2]) as node:
        for step in range(STEPS):
            if step:
                made.change()
            node.apply(made.world.objects())
            flows = list(made.flows(FLOWS_OF_A_STEP))
            wrong = [*differences(lab, made.world, flows), *_explained_otherwise(made.world, flows)]
            assert not wrong, f"seed {seed}, step {step}: {len(wrong)} differ:\n" + "\n".join(wrong[:20])
            lab.forget_connections()


def _explained_otherwise(world: World, flows: Sequence[Flow]) -> Iterator[str]:
    """Where rulegen would tell another story than the oracle."""
    store = Store(world.configuration())
    store.set_objects(world.objects())
    indexes = {
        family: simulate.FrontendIndex(
            service_port for service_port in store.service_ports() if service_port.family is family
        )
        for family in Family
    }
    addresses = [str(ip_interface(address).ip) for address in world.addresses]
    oracle = Oracle(world)
    for one in flows:
        sent, expected = one.sent, oracle.expect(one.sent)
        family = Family(family_of(sent.destination))
        settings = store.node_settings(family)
        if settings is None:
            continue
        packet = simulate.Packet(sent.source, sent.destination, sent.port, sent.protocol, sent.interface)
        outcome = simulate.simulate(indexes[family], settings, addresses, packet)
        if not _same(expected, outcome):
            yield f"{one}: by {expected.why} {expected.fate} {expected.shares}, but explained as {outcome}"


def _same(expected: Expected, outcome: simulate.Outcome) -> bool:
    shares = {str(delivery.backend): delivery.probability for delivery in outcome.deliveries}
    masqueraded = {str(delivery.backend) for delivery in outcome.deliveries if delivery.masquerade}
    return (
        FATES[outcome.fate] == expected.fate
        and shares == pytest.approx(expected.shares, rel=0.01)
        and masqueraded == expected.masqueraded
    )
