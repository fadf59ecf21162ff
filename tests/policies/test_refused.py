"""Policies that the kernel refuses: each is found and named, its pods are isolated, all others are in force."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rulegen.config import NodeConfiguration, PolicySettings, Target
from rulegen.drivers import make_driver
from rulegen.errors import ApplyError
from rulegen.iptables.binaries import Variant
from rulegen.kube.objects import NetworkPolicy
from rulegen.policies.feature import NetworkPolicies
from rulegen.policies.model import Direction, PolicyName, Rule
from rulegen.policies.on_iptables.rules import Writer
from rulegen.policies.on_nftables import chains
from rulegen.policies.on_nftables.rules import rule_lines
from rulegen.policies.store import PolicyRules
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler
from rulegen.reference import ObjectReference
from tests.nftables.host import Host, host_or_skip
from tests.policies.decoding import decode
from tests.policies.objects import Document, cluster_policy, node, pod, policy

pytestmark = pytest.mark.kernel

POISON = 6666
TARGETS = [(Target.NFTABLES, Variant.NFT), (Target.IPTABLES, Variant.NFT), (Target.IPTABLES, Variant.LEGACY)]
PODS = [
    node("node-1", "192.168.0.1"),
    *(pod(f"shop/{name}", f"10.0.0.{number}", labels={"app": name}) for number, name in enumerate("abcd", 1)),
]


def accepting(name: str, port: int, direction: str = "ingress") -> Document:
    rule = {"ports": [{"protocol": "TCP", "port": port}]}
    return policy(f"shop/{name}", {"app": name}, **{direction: [rule]}, policyTypes=[direction.title()])


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules about one port come out as no kernel takes them."""

    def is_poisonous(rule: Rule) -> bool:
        return rule.ports is not None and any(item.first == POISON for item in rule.ports.ranges)

    lines, rules = rule_lines, Writer.rules

    def poisoned(rule: Rule, *arguments: Any) -> Iterator[str]:
        yield from ["tcp dport 99999 accept"] if is_poisonous(rule) else lines(rule, *arguments)

    def written(self: Writer, name: PolicyName, rule: Rule, *arguments: Any) -> Iterator[str]:
        found = ["-m nonsense --of nobody -j RETURN"] if is_poisonous(rule) else rules(self, name, rule, *arguments)
        yield from found

    monkeypatch.setattr(chains, "rule_lines", poisoned)
    monkeypatch.setattr(Writer, "rules", written)


@contextmanager
def reconciled(target: Target, variant: Variant) -> Iterator[Reconciler]:
    configuration = NodeConfiguration(node_name="node-1", policies=PolicySettings())
    features = [NetworkPolicies(configuration)]
    driver = make_driver(target, variant)
    with driver.open() as opened:
        yield Reconciler(features, opened.rules(CompilerSet.of(features, driver.name, configuration)))


def tell(reconciler: Reconciler, *documents: Document) -> None:
    for item in decode(documents):
        reconciler.put(item)


def names(refused: Any) -> list[str]:
    return sorted(str(key.policy) for _, key in refused)


def everything(target: Target, variant: Variant) -> str:
    command = ["nft", "list", "ruleset"] if target is Target.NFTABLES else [f"iptables-{variant.value}-save"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def accepted_ports(target: Target, variant: Variant) -> set[str]:
    """The ports that rules accept, of those that the tests use."""
    listing = everything(target, variant)
    return {port for port in ("8001", "8002", "8003", "8004", "8005") if port in listing}


def isolated(target: Target, variant: Variant) -> str:
    if target is Target.NFTABLES:
        table = "rulegen-network-policies"
        found = [
            subprocess.run(["nft", "list", "map", "ip", table, name], check=True, capture_output=True, text=True).stdout
            for name in ("ingress-pods", "egress-pods")
        ]
        return "".join(found)
    sets = subprocess.run(["ipset", "save"], check=True, capture_output=True, text=True).stdout.splitlines()
    led = [f"{line}/32" for line in sets if line.startswith(("add rulegen-i-", "add rulegen-e-"))]
    return "\n".join([everything(target, variant), *led])


@pytest.mark.parametrize(("target", "variant"), TARGETS)
def test_at_the_start(target: Target, variant: Variant, host: Host) -> None:
    with host.namespace.entered(), reconciled(target, variant) as reconciler:
        tell(
            reconciler,
            *PODS,
            accepting("a", 8001),
            accepting("b", POISON),
            accepting("c", POISON, "egress"),
            accepting("d", 8004),
        )
        sync = reconciler.sync()
        assert names(sync.refused) == ["NetworkPolicy shop/b", "NetworkPolicy shop/c"]
        assert accepted_ports(target, variant) == {"8001", "8004"}
        assert all(f"10.0.0.{number}" in isolated(target, variant) for number in (1, 2, 3, 4))
        # Equal to what is wanted, and the next change is as any other.
        reconciler.distrust()
        assert not reconciler.sync().delta
        tell(reconciler, accepting("b", 8002))
        assert not reconciler.sync().refused
        assert accepted_ports(target, variant) == {"8001", "8002", "8004"}
        assert names(reconciler.refusals()) == ["NetworkPolicy shop/c"]


@pytest.mark.parametrize(("target", "variant"), TARGETS)
def test_one_that_becomes_so_is_closed_and_others_change(target: Target, variant: Variant, host: Host) -> None:
    """It does not keep what it accepted before: that may be what its change forbids."""
    with host.namespace.entered(), reconciled(target, variant) as reconciler:
        tell(reconciler, *PODS, accepting("a", 8001), accepting("b", 8002), accepting("c", 8005))
        reconciler.sync()
        reconciler.remove(NetworkPolicy, ObjectReference("NetworkPolicy", "shop", "c"))
        tell(reconciler, accepting("a", POISON), accepting("d", 8004), accepting("b", 8003))
        try:
            sync = reconciler.sync()
        except ApplyError:
            # A partial one; the next reads the kernel and looks for those to blame.
            sync = reconciler.sync()
        assert names(sync.refused) == ["NetworkPolicy shop/a"]
        assert accepted_ports(target, variant) == {"8003", "8004"}
        assert "10.0.0.1" in isolated(target, variant)
        assert "10.0.0.3" not in isolated(target, variant)
        assert "shop/c" not in everything(target, variant)
        reconciler.distrust()
        assert not reconciler.sync().delta
        key = PolicyRules(PolicyName("shop", "a"), Direction.INGRESS)
        assert reconciler.applied("network-policies")[key] == ()
        reconciler.remove(NetworkPolicy, ObjectReference("NetworkPolicy", "shop", "a"))
        assert not reconciler.sync().refused
        assert "10.0.0.1/32" not in isolated(target, variant)
        reconciler.distrust()
        assert not reconciler.sync().delta


def test_a_cluster_policy_denies_everything(host: Host) -> None:
    rule = {"action": "Accept", "from": [{"namespaces": {}}]}
    poisonous = {**rule, "protocols": [{"tcp": {"destinationPort": {"number": POISON}}}]}
    with host.namespace.entered(), reconciled(Target.NFTABLES, Variant.NFT) as reconciler:
        tell(reconciler, *PODS, cluster_policy("good", priority=2, ingress=[rule]))
        tell(reconciler, cluster_policy("bad", priority=1, ingress=[poisonous]))
        assert names(reconciler.sync().refused) == ["ClusterNetworkPolicy bad"]
        listing = host.nft("list chain ip rulegen-network-policies cluster-ingress/bad")
        assert "goto denied-ingress" in listing
