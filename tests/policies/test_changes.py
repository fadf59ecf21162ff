"""A cluster that changes: after each change the table is right, and meanwhile no packet is lost or let through.

What the tests find is shown by brute force first: with care everything is right, and each kind of carelessness is seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest

from rulegen.config import PolicySettings
from rulegen.iptables.binaries import Variant
from tests.policies import checks
from tests.policies.brute_force import BruteForce, Care
from tests.policies.changes import ChangingCluster
from tests.policies.checks import Enforcer
from tests.policies.documents import Document
from tests.policies.fixtures import lab_or_skip
from tests.policies.kept import KeptPolicies, Restarted
from tests.policies.lab import NODES, Lab
from tests.policies.product import Running, Whole, texts
from tests.policies.traffic import Traffic, stable

pytestmark = pytest.mark.kernel

STEPS = 10
_FEW_STEPS = 4


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


def walk(lab: Lab, enforcers: Mapping[str, Enforcer], seed: int, steps: int = STEPS, **kinds: bool) -> list[str]:
    """What went wrong while the cluster changed, in sentences; raises AssertionError when a table is not right."""
    chance = random.Random(seed)
    wrong: list[str] = []
    before = None
    for number, (words, objects) in enumerate(ChangingCluster(seed, **kinds).steps(steps)):
        if before is None:
            _apply(enforcers, objects)
        else:
            traffic = Traffic(lab, stable(before, objects, chance), chance)
            with traffic.going_on():
                _apply(enforcers, objects)
            wrong += (f"step {number}, {words}: {sentence}" for sentence in traffic.wrong)
        checks.assert_same(lab, objects, f"seed {seed}, step {number}, {words}")
        before = objects
    return wrong


def _apply(enforcers: Mapping[str, Enforcer], objects: list[Document]) -> None:
    for enforcer in enforcers.values():
        enforcer.apply(objects)


def test_careful_brute_force_is_right(lab: Lab) -> None:
    assert not walk(lab, {node: BruteForce(lab, node) for node in NODES}, seed=1, steps=_FEW_STEPS)


@pytest.mark.parametrize(
    ("care", "words"),
    [
        (Care.OPEN_BETWEEN, "forbidden before and after"),
        (Care.CLOSED_BETWEEN, "allowed before and after"),
        (Care.FORGETS, "its connection was lost"),
    ],
)
def test_carelessness_is_seen(care: Care, words: str, lab: Lab) -> None:
    wrong = walk(lab, {node: BruteForce(lab, node, care) for node in NODES}, seed=1, steps=_FEW_STEPS)
    assert any(words in sentence for sentence in wrong)


@pytest.mark.part(20)
@pytest.mark.parametrize("kind", [KeptPolicies, Restarted], ids=["kept", "restarted"])
@pytest.mark.parametrize("seed", range(40))
def test_nftables(seed: int, kind: type[KeptPolicies | Restarted], lab: Lab) -> None:
    enforcers = {node: kind(lab, node) for node in NODES}
    try:
        assert not walk(lab, enforcers, seed)
    finally:
        for enforcer in enforcers.values():
            enforcer.close()


@pytest.mark.part(20)
@pytest.mark.parametrize("seed", range(40))
def test_a_file_that_nft_loads(seed: int, lab: Lab) -> None:
    """After each load the table is right. A packet on its way can meet the empty hook of the one that goes."""
    enforcers = {node: Whole(lab, node) for node in NODES}
    try:
        walk(lab, enforcers, seed)
    finally:
        for enforcer in enforcers.values():
            enforcer.close()


@pytest.mark.part(20)
@pytest.mark.parametrize("only_pods", [False, True], ids=["all", "pods"])
@pytest.mark.parametrize("has_ipsets", [True, False], ids=["ipset", "chains"])
@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.value)
@pytest.mark.parametrize("seed", range(10))
def test_iptables(seed: int, variant: Variant, has_ipsets: bool, only_pods: bool, lab: Lab) -> None:
    settings = PolicySettings(ipsets=has_ipsets)
    enforcers = {node: KeptPolicies(lab, node, settings, variant) for node in NODES}
    try:
        assert not walk(lab, enforcers, seed, only_pods=only_pods)
    finally:
        for enforcer in enforcers.values():
            enforcer.close()


@pytest.mark.part(10)
@pytest.mark.parametrize("seed", range(40))
def test_what_goes_on_is_as_what_starts_anew(seed: int) -> None:
    running = Running(NODES[0])
    for words, objects in ChangingCluster(seed).steps(40):
        assert running.text(objects) == texts(objects, NODES[0]), words
