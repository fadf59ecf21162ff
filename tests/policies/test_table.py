"""The truth table: every case of the catalogue through the kernel of two nodes, against the oracle."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rulegen.config import Denial
from rulegen.config import PolicySettings as Settings
from rulegen.iptables.binaries import Variant
from tests.policies import catalogue, checks
from tests.policies.catalogue import Case
from tests.policies.fixtures import lab_or_skip
from tests.policies.lab import NODES, Lab
from tests.policies.product import Iptables, Whole, texts

pytestmark = pytest.mark.kernel

ORDERS = [case for case in catalogue.cases() if case.name.startswith("tiers: ")]
OF_TIERS = [case for case in catalogue.cases() if case.is_of_tiers and case not in ORDERS]
OF_NAMESPACES = [case for case in catalogue.cases() if not case.is_of_tiers]
# Everything that may be asked for, and that changes nothing of the table.
_ALL_SETTINGS = Settings(denial=Denial.REJECT, strict=True, fail_closed=True, node_input=True, log_group=5)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


def _enforce(lab: Lab, case: Case, settings: Settings | None = None) -> None:
    objects = case.objects()
    for node in NODES:
        Whole(lab, node, settings).apply(objects)
    checks.assert_same(lab, objects, case.name)


@pytest.mark.part(12)
@pytest.mark.parametrize("case", OF_NAMESPACES, ids=lambda case: case.name)
def test_network_policies(case: Case, lab: Lab) -> None:
    _enforce(lab, case)


@pytest.mark.part(6)
@pytest.mark.parametrize("case", OF_TIERS, ids=lambda case: case.name)
def test_cluster_network_policies(case: Case, lab: Lab) -> None:
    _enforce(lab, case)


@pytest.mark.parametrize("case", ORDERS, ids=lambda case: case.name)
def test_the_order_of_tiers_and_rules(case: Case, lab: Lab) -> None:
    _enforce(lab, case)


@pytest.mark.part(6)
@pytest.mark.parametrize("case", catalogue.cases()[::8], ids=lambda case: case.name)
def test_all_settings(case: Case, lab: Lab) -> None:
    _enforce(lab, case, _ALL_SETTINGS)


@pytest.mark.part(6)
@pytest.mark.parametrize("case", catalogue.cases()[::40], ids=lambda case: case.name)
def test_the_order_of_objects_means_nothing(case: Case) -> None:
    objects = case.objects()
    expected = texts(objects, NODES[0])
    for seed in range(4):
        assert texts(random.Random(seed).sample(objects, len(objects)), NODES[0]) == expected


@pytest.mark.part(40)
@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.value)
@pytest.mark.parametrize("case", catalogue.cases(), ids=lambda case: case.name)
def test_iptables(case: Case, variant: Variant, lab: Lab) -> None:
    objects = case.objects()
    with iptables(lab, variant):
        for node in NODES:
            Iptables(lab, node, variant).apply(objects)
        checks.assert_same(lab, objects, case.name)


@pytest.mark.part(40)
@pytest.mark.parametrize("case", catalogue.cases(), ids=lambda case: case.name)
def test_iptables_without_ipset(case: Case, lab: Lab) -> None:
    """Named ports need a set: a policy with one fails closed. Nothing else changes."""
    objects = case.objects()
    with iptables(lab, Variant.NFT):
        for node in NODES:
            Iptables(lab, node, Variant.NFT, has_ipsets=False).apply(objects)
        found = checks.differences(lab, objects)
    if any(map(catalogue.has_named_port, case.policies)):
        found = [sentence for sentence in found if " passed, but" in sentence]
    assert not found, "\n".join(found[:12])


@contextmanager
def iptables(lab: Lab, variant: Variant) -> Iterator[None]:
    """The nodes have no other rules meanwhile, and none of these afterwards."""
    for node in NODES:
        lab.nft(node, "flush ruleset")
    try:
        yield
    finally:
        for node in NODES:
            Iptables(lab, node, variant).clear()
