"""Rulesets of Services and policies do what the objects mean, on both targets; damage to the policies' is found."""

from __future__ import annotations

import random
import re

import pytest

from rulegen.config import NodeConfiguration, Target
from rulegen.errors import RulegenError
from rulegen.kube.objects import Node
from rulegen.verify import rulesets
from tests.flows.world import HERE
from tests.lab.fixtures import MakeLab
from tests.policies import catalogue, cluster
from tests.policies.catalogue import Case, has_named_port
from tests.policies.decoding import decode
from tests.policies.services import PolicyWorld, differences
from tests.verify.cases import check
from tests.verify.test_mutations import Aim, aimed, damage, is_loaded
from tests.verify.test_policies import Cluster

pytestmark = pytest.mark.kernel

TARGETS = pytest.mark.parametrize("target", Target, ids=lambda target: target.value)


# A packet of every class of a damaged ruleset that nothing was found in, unless there are more classes than this.
MOST_CLASSES = 3000


def compiled(made: PolicyWorld) -> Cluster:
    """Of the node both worlds have a Node; that of the Services says more."""
    others = (item for item in decode(made.objects) if not (isinstance(item, Node) and item.metadata.name == HERE))
    addresses = [address.partition("/")[0] for address in made.world.addresses]
    return Cluster([*made.world.objects(), *others], made.world.configuration(), addresses)


@pytest.mark.part(120)
@TARGETS
@pytest.mark.parametrize("seed", range(60))
def test_random_worlds(seed: int, target: Target) -> None:
    found = compiled(PolicyWorld(seed, with_names=target is Target.NFTABLES))
    check(found.report(found.text(target)))


@pytest.mark.part(100)
@TARGETS
@pytest.mark.parametrize("case", catalogue.cases(), ids=lambda case: case.name)
def test_catalogue(case: Case, target: Target) -> None:
    if target is Target.IPTABLES and has_named_port(list(case.policies)):
        return
    configuration = NodeConfiguration(node_name=cluster.NODE_1, cluster_cidrs=("10.128.0.0/14", "fd00:10:128::/48"))
    found = Cluster(decode(case.objects()), configuration, cluster.NODE_ADDRESSES[cluster.NODE_1])
    check(found.report(found.text(target)))


@pytest.mark.part(500)
@pytest.mark.parametrize("seed", range(500))
def test_damage_is_found_or_is_none(seed: int, make_lab: MakeLab) -> None:
    """A rule or an element of the policies is gone, swapped or another; what is not found, no packet finds either."""
    target = tuple(Target)[seed % 2]
    made = PolicyWorld(seed % 25, with_names=target is Target.NFTABLES)
    found = compiled(made)
    pick = random.Random(seed)
    damaged, what = _damage(pick, found.text(target), target)
    try:
        source = rulesets.read_text(damaged, "damaged")
    except RulegenError:
        # nft refuses it: such rules are in no kernel.
        return
    if found.report(damaged).status:
        return
    lab = make_lab(dict(made.world.interfaces), made.world.addresses)
    with lab.entered():
        if not is_loaded(damaged, target.value):
            return
    aim = Aim(made.world, found.store, found.configuration, found.addresses, found.features)
    flows = list(aimed(aim, source))
    if len(flows) > MOST_CLASSES:
        flows = pick.sample(flows, MOST_CLASSES)
    wrong = differences(lab, made.world, made.objects, flows)
    assert not wrong, f"not found: {what}\n" + "\n".join(wrong[:10])


def _damage(pick: random.Random, text: str, target: Target) -> tuple[str, str]:
    """To a line of the policies."""
    while True:
        damaged, what = damage(pick, text, target.value)
        pairs = zip(text.splitlines(), damaged.splitlines(), strict=False)
        place = next((number for number, (before, after) in enumerate(pairs) if before != after), 0)
        above = [line for line in text.splitlines()[: place + 1] if _BEGINS.match(line)]
        if (
            "RULEGEN-NP" in what
            or what.partition(": ")[2].startswith("add ")
            or (target is Target.NFTABLES and above and "network-policies" in above[-1])
        ):
            return damaged, what


_BEGINS = re.compile(r"(?:add )?(?:table|element|map|set|chain) ")
