"""The feature as the rest of rulegen sees it: through the reconciler into a kernel, findings, what cannot be read."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from rulegen.config import Denial, Family, NodeConfiguration, PolicySettings, Target
from rulegen.drivers import make_driver
from rulegen.iptables.binaries import Variant
from rulegen.kube.objects import Metadata as ObjectMetadata
from rulegen.kube.objects import NetworkPolicy, Pod, ServiceCIDR, ServiceCIDRSpec
from rulegen.nftables import tables
from rulegen.nftables.tables import digest
from rulegen.policies.feature import NetworkPolicies
from rulegen.policies.pods import packed
from rulegen.policies.simulate import Packet, simulate
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler
from rulegen.reference import ObjectReference
from tests.counting import lines_run
from tests.nftables.host import Host, host_or_skip
from tests.policies.decoding import decode
from tests.policies.objects import Document, cluster_policy, node, pod, policy

PEER = {"podSelector": {"matchLabels": {"app": "web"}}}
CLUSTER = [
    node("node-1", "192.168.0.1", cidrs=("10.0.0.0/24", "fd00::/64")),
    *(pod(f"shop/p{number}", f"10.0.0.{number}", f"fd00::{number}", labels={"app": "web"}) for number in range(1, 6)),
    policy("shop/web", {"app": "web"}, ingress=[{"from": [PEER], "ports": [{"port": 80}, {"port": 90}]}]),
    policy("shop/out", {}, egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}]),
    cluster_policy("admin", ingress=[{"action": "Pass", "from": [{"namespaces": {}}]}]),
]
EVERYTHING = PolicySettings(denial=Denial.REJECT, strict=True, fail_closed=True, node_input=True, log_group=3)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


def feature_of(documents: list[Document], settings: PolicySettings | None = None) -> NetworkPolicies:
    feature = NetworkPolicies(NodeConfiguration(node_name="node-1", policies=settings or PolicySettings()))
    for item in decode(documents):
        feature.put(item)
    return feature


@contextmanager
def reconciled(
    settings: PolicySettings, target: Target = Target.NFTABLES, variant: Variant = Variant.NFT
) -> Iterator[Reconciler]:
    configuration = NodeConfiguration(node_name="node-1", policies=settings)
    features = [NetworkPolicies(configuration)]
    driver = make_driver(target, variant)
    with driver.open() as opened:
        yield Reconciler(features, opened.rules(CompilerSet.of(features, driver.name, configuration)))


def tell(reconciler: Reconciler, documents: list[Document]) -> None:
    for item in decode(documents):
        reconciler.put(item)


@pytest.mark.kernel
@pytest.mark.parametrize("settings", [PolicySettings(), EVERYTHING], ids=["", "everything"])
def test_what_is_in_force_is_known_when_it_is_read_again(settings: PolicySettings, host: Host) -> None:
    host.clear()
    with host.namespace.entered(), reconciled(settings) as reconciler:
        tell(reconciler, CLUSTER)
        first = reconciler.sync()
        assert first.delta.counts.added
        assert not first.refused
        reconciler.distrust()
        assert not reconciler.sync().delta
    with host.namespace.entered(), reconciled(settings) as another:
        tell(another, list(reversed(CLUSTER)))
        assert not another.sync().delta


@pytest.mark.kernel
def test_damage_is_repaired_and_what_counters_count_is_none(host: Host) -> None:
    host.clear()
    table = "ip rulegen-network-policies"
    with host.namespace.entered(), reconciled(PolicySettings()) as reconciler:
        tell(reconciler, CLUSTER)
        reconciler.sync()
        host.nft(f"flush chain {table} ingress/shop/web")
        host.nft(f"delete element {table} self {{ 10.0.0.1 . 10.0.0.1 }}")
        host.nft(f"add element {table} ingress-pods {{ 10.9.9.9 : accept }}")
        reconciler.distrust()
        repaired = reconciler.sync().delta
        assert repaired.counts == (1, 1, 1)
        # The same rules that have counted.
        listing = host.nft(f"list chain {table} ingress/shop/web")
        counted = listing.replace("packets 0 bytes 0", "packets 7 bytes 700")
        assert counted != listing
        host.nft(f"flush chain {table} ingress/shop/web\n{counted}")
        reconciler.distrust()
        assert not reconciler.sync().delta


@pytest.mark.kernel
def test_a_table_is_there_only_with_a_policy(host: Host) -> None:
    host.clear()
    with host.namespace.entered(), reconciled(PolicySettings()) as reconciler:
        tell(reconciler, CLUSTER[:6])
        assert not reconciler.sync().delta
        tell(reconciler, CLUSTER[6:7])
        reconciler.sync()
        assert "rulegen-network-policies" in host.nft("list tables")
        reconciler.remove(NetworkPolicy, ObjectReference("NetworkPolicy", "shop", "web"))
        reconciler.sync()
        assert "rulegen-network-policies" not in host.nft("list tables")


@pytest.mark.kernel
def test_a_pod_is_elements_and_no_chain(host: Host) -> None:
    host.clear()
    with host.namespace.entered(), reconciled(PolicySettings()) as reconciler:
        tell(reconciler, CLUSTER)
        reconciler.sync()
        tell(reconciler, [pod("shop/new", "10.0.0.9", labels={"app": "web"})])
        came = reconciler.sync().delta
        assert came.counts.added == 5  # two maps, itself, and the two sets that select it
        assert not any(key[0].is_chains for key in came.added)
        reconciler.remove(Pod, ObjectReference("Pod", "shop", "new"))
        assert reconciler.sync().delta.counts == (0, 0, 5)


@pytest.mark.kernel
def test_on_iptables_policies_stand_in_front(host: Host) -> None:
    host.clear()
    settings = PolicySettings(strict=True, fail_closed=True, node_input=True, denial=Denial.REJECT)
    with host.namespace.entered(), reconciled(settings, Target.IPTABLES) as reconciler:
        subprocess.run(["iptables-nft", "-A", "FORWARD", "-j", "ACCEPT"], check=True)
        tell(reconciler, CLUSTER)
        assert not reconciler.sync().refused
        reconciler.distrust()
        assert not reconciler.sync().delta
        subprocess.run(["iptables-nft", "-I", "FORWARD", "-j", "ACCEPT"], check=True)
        reconciler.distrust()
        assert reconciler.sync().delta
        rules = subprocess.run(["iptables-nft", "-S", "FORWARD"], check=True, capture_output=True, text=True).stdout
        assert rules.splitlines()[1].endswith("-j RULEGEN-NP-FORWARD")


# ---- what is found ----


def found(feature: NetworkPolicies) -> list[tuple[str, str]]:
    feature.take()
    return sorted((str(one.reference), one.reason) for _, many in feature.findings.items() for one in many)


def test_findings_come_and_go() -> None:
    same = [cluster_policy(name, priority=5, ingress=[{"action": "Accept", "from": [{}]}]) for name in ("a", "b")]
    broken = policy("shop/broken", {}, ingress=[{"ports": [{"port": "80", "endPort": 90}]}])
    feature = feature_of([*same, broken])
    assert found(feature) == [
        ("ClusterNetworkPolicy a", "PolicySamePriority"),
        ("ClusterNetworkPolicy a", "PolicyUnsupported"),
        ("ClusterNetworkPolicy b", "PolicySamePriority"),
        ("ClusterNetworkPolicy b", "PolicyUnsupported"),
        ("NetworkPolicy shop/broken", "PolicyUnreadable"),
    ]
    feature.remove(ObjectReference("ClusterNetworkPolicy", "", "a"))
    for item in decode([policy("shop/broken", {})]):
        feature.put(item)
    assert found(feature) == [("ClusterNetworkPolicy b", "PolicyUnsupported")]


def of_one_priority(count: int) -> list[Document]:
    accepts = [{"action": "Accept", "from": [{"namespaces": {}}]}]
    return [cluster_policy(f"p-{number:04}", priority=7, ingress=accepts) for number in range(count)]


def test_of_many_equal_priorities_a_few_are_named() -> None:
    feature = feature_of(of_one_priority(40))
    assert len(found(feature)) == 40
    said = {str(one.reference): one.message for _, many in feature.findings.items() for one in many}
    assert said["ClusterNetworkPolicy p-0003"] == (
        "spec.priority: 7 is that of p-0000, p-0001, p-0002, p-0004, p-0005 and 34 more, too: they are asked in the "
        "order of their names"
    )


def test_of_thousands_of_mistakes_in_a_policy_a_few_are_told_and_the_number() -> None:
    blocks = [{"ipBlock": {"cidr": f"10.96.{number // 128}.{number % 128 * 2}/32"}} for number in range(900)]
    feature = feature_of([policy("shop/many", {}, egress=[{"to": blocks}])])
    feature.put(ServiceCIDR(metadata=ObjectMetadata(name="kubernetes"), spec=ServiceCIDRSpec(cidrs=["10.96.0.0/12"])))
    assert len(found(feature)) == 11
    (said,) = [many for _, many in feature.findings.items()]
    assert said[-1].message == "and 890 more like these"


def test_what_is_found_of_equal_priorities_costs_no_more_for_each_of_many() -> None:
    def cost(count: int) -> int:
        return lines_run(lambda: feature_of(of_one_priority(count)).take())

    assert cost(80) < 2.5 * cost(40)


def test_a_block_of_services_matches_nobody() -> None:
    inside = policy("shop/in", {}, ingress=[{"from": [{"ipBlock": {"cidr": "10.96.1.0/24"}}]}])
    around = policy("shop/around", {}, egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])
    feature = feature_of([inside, around])
    cidr = ServiceCIDR(metadata=ObjectMetadata(name="kubernetes"), spec=ServiceCIDRSpec(cidrs=["10.96.0.0/12"]))
    feature.put(cidr)
    assert found(feature) == [("NetworkPolicy shop/in", "PolicyBlockOfServices")]
    feature.remove(ObjectReference("ServiceCIDR", "", "kubernetes"))
    assert found(feature) == []


@pytest.mark.parametrize("is_one", [True, False], ids=["one address", "an address each"])
def test_addresses_that_many_pods_claim_cost_each_once_and_few_words(is_one: bool) -> None:
    def cost(number: int) -> int:
        pods = [
            pod(f"shop/{name}{one}", "10.0.0.9" if is_one else f"10.0.{one // 200}.{one % 200}", labels={})
            for one in range(number)
            for name in "ab"
        ]
        items = list(decode(pods))
        feature = feature_of([])

        def come() -> None:
            for item in items:
                feature.put(item)
            feature.take()

        run = lines_run(come)
        told = [found for _, findings in feature.findings.items() for found in findings]
        assert len(told) == (1 if is_one else number)
        assert all(len(one.message) < 200 for one in told)
        return run

    few, many = cost(100), cost(1000)
    assert many < 15 * few, (few, many)


def test_an_address_that_two_pods_claim_is_found() -> None:
    feature = feature_of([pod("a/old", "10.0.0.1"), pod("a/new", "10.0.0.1", created="2026-02-01T00:00:00Z")])
    assert found(feature) == [("Pod a/new", "PodSameAddress")]
    feature.remove(ObjectReference("Pod", "a", "old"))
    assert found(feature) == []


def test_what_the_node_does_to_policies_is_found() -> None:
    configuration = NodeConfiguration(
        node_name="node-1", masquerade_all=True, policies=PolicySettings(fail_closed=True)
    )
    feature = NetworkPolicies(configuration)
    assert found(feature) == [("Node node-1", "PodsHiddenFromPolicies"), ("Node node-1", "PolicyNoPodRange")]
    for item in decode(CLUSTER[:1]):
        feature.put(item)
    assert found(feature) == [("Node node-1", "PodsHiddenFromPolicies")]


# ---- what cannot be read ----


def allowed(feature: NetworkPolicies, source: str, destination: str) -> bool:
    start, end = packed(source), packed(destination)
    assert start is not None
    assert end is not None
    return simulate(feature.store, Packet(start, end, "TCP", 80)).is_allowed


def test_a_policy_that_cannot_be_decoded_isolates() -> None:
    known = policy("shop/known", {"app": "web"}, ingress=[{}], policyTypes=["Ingress"])
    pods = [pod("shop/web", "10.0.0.1", labels={"app": "web"}), pod("shop/db", "10.0.0.2"), pod("bank/db", "10.0.0.3")]
    feature = feature_of([known, *pods])
    assert allowed(feature, "10.0.0.2", "10.0.0.1")
    assert feature.put_unreadable(ObjectReference("NetworkPolicy", "shop", "known"), "spec: too deep")
    # Those whom it was about.
    assert not allowed(feature, "10.0.0.2", "10.0.0.1")
    assert allowed(feature, "10.0.0.3", "10.0.0.2")
    assert feature.put_unreadable(ObjectReference("NetworkPolicy", "shop", "unknown"), "spec: too deep")
    # Whom it may be about.
    assert not allowed(feature, "10.0.0.3", "10.0.0.2")
    assert allowed(feature, "10.0.0.9", "10.0.0.3")
    assert not feature.put_unreadable(ObjectReference("Pod", "shop", "web"), "metadata: missing")
    assert found(feature) == [
        ("NetworkPolicy shop/known", "PolicyUnreadable"),
        ("NetworkPolicy shop/unknown", "PolicyUnreadable"),
    ]


def test_both_families_are_in_the_context_once() -> None:
    feature = feature_of(CLUSTER)
    assert feature.take().context == {Family.IPV4: ("10.0.0.0/24",), Family.IPV6: ("fd00::/64",)}
    assert feature.take().context is None


# ---- pods that cannot be read ----


@pytest.mark.kernel
def test_a_pod_that_cannot_be_read_at_a_start_stays_as_isolated_as_it_was(host: Host) -> None:
    host.clear()
    unreadable = ObjectReference("Pod", "shop", "p3")
    others = [document for document in CLUSTER if document["metadata"]["name"] not in {"p3", "p4"}]
    without_policy = [document for document in others if document["metadata"]["name"] != "out"]
    with host.namespace.entered():
        with reconciled(PolicySettings()) as before:
            tell(before, CLUSTER)
            before.sync()
        held = host.nft("list map ip rulegen-network-policies ingress-pods")
        assert "10.0.0.3" in held
        with reconciled(PolicySettings()) as reconciler:
            # One of the policies by which it was isolated has gone meanwhile, and so, perhaps, has p4.
            tell(reconciler, without_policy)
            reconciler.put_unreadable(Pod, unreadable, "metadata.labels: expected an object")
            reconciler.sync()
            for name in ("ingress-pods", "egress-pods"):
                assert "10.0.0.3 " in host.nft(f"list map ip rulegen-network-policies {name}")
            reconciler.distrust()
            assert not reconciler.sync().delta
            # A pod that is known goes as ever.
            reconciler.remove(Pod, ObjectReference("Pod", "shop", "p5"))
            reconciler.sync()
            assert "10.0.0.5" not in host.nft("list table ip rulegen-network-policies")
            reconciler.distrust()
            assert not reconciler.sync().delta
            assert "10.0.0.5" not in host.nft("list table ip rulegen-network-policies")
            # Once it can be read, all is as it is meant.
            tell(reconciler, [pod("shop/p3", "10.0.0.3", "fd00::3", labels={"app": "other"})])
            reconciler.sync()
            listing = host.nft("list table ip rulegen-network-policies")
            assert "10.0.0.4" not in listing
            assert "shop/out" not in listing
        with reconciled(PolicySettings()) as another:
            tell(another, [*without_policy, pod("shop/p3", "10.0.0.3", "fd00::3", labels={"app": "other"})])
            another.remove(Pod, ObjectReference("Pod", "shop", "p5"))
            assert not another.sync().delta


def _digest_of_another(schema: str, text: str) -> str:
    """Its sets, and the chains that close, are others."""
    return schema if "map egress-pods" in text or "chain denied-" in text else digest(text)


@pytest.mark.kernel
def test_nor_does_a_table_that_is_made_anew_open_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As others are that were isolated as it was, or closed where there are none; until it can be read."""
    host.clear()
    others = [document for document in CLUSTER if document["metadata"]["name"] not in {"p3", "p4"}]
    without_policy = [document for document in others if document["metadata"]["name"] != "out"]

    def verdicts() -> list[str]:
        listings = [
            host.nft(f"list map ip rulegen-network-policies {name}") for name in ("ingress-pods", "egress-pods")
        ]
        return [found[1] for text in listings for found in re.finditer(r"10\.0\.0\.3 .*? : goto ([\w-]+)", text)]

    with host.namespace.entered():
        with reconciled(PolicySettings()) as before:
            tell(before, CLUSTER)
            before.sync()
        held = verdicts()
        assert len(held) == 2
        for number, (cluster, is_as_it_was) in enumerate(((others, True), (without_policy, False))):
            # As another version of rulegen, whose sets are others, finds it.
            schema = str(number) * 16
            another = partial(_digest_of_another, schema)
            monkeypatch.setattr(tables, "digest", another)
            with reconciled(PolicySettings()) as reconciler:
                tell(reconciler, cluster)
                reconciler.put_unreadable(Pod, ObjectReference("Pod", "shop", "p3"), "metadata.labels: no object")
                reconciler.sync()
                assert f'"rulegen schema {schema}"' in host.nft("list table ip rulegen-network-policies")
                assert verdicts() == (held if is_as_it_was else ["denied-ingress", "denied-egress"])
                reconciler.distrust()
                assert not reconciler.sync().delta
                tell(reconciler, [pod("shop/p3", "10.0.0.33", "fd00::33", labels={"app": "other"})])
                reconciler.sync()
                assert verdicts() == []
                if is_as_it_was:
                    tell(reconciler, CLUSTER)
                    reconciler.sync()


@pytest.mark.kernel
@pytest.mark.parametrize("variant", Variant)
def test_on_iptables_it_stays_isolated_too(variant: Variant, host: Host) -> None:
    """As others are that were isolated as it was, or closed where there are none; until it can be read."""
    host.clear()
    others = [document for document in CLUSTER if document["metadata"]["name"] not in {"p3", "p4"}]
    without_policy = [document for document in others if document["metadata"]["name"] != "out"]

    def leaves(address: str) -> list[str]:
        saved = subprocess.run([f"iptables-{variant.value}-save"], check=True, capture_output=True, text=True).stdout
        sets = subprocess.run(["ipset", "save"], check=True, capture_output=True, text=True).stdout
        led = [line for line in sets.splitlines() if re.fullmatch(rf"add rulegen-[ei]-\S+ {re.escape(address)}", line)]
        return sorted(line for line in saved.splitlines() if f" {address}/32 -g " in line) + sorted(led)

    with host.namespace.entered():
        with reconciled(PolicySettings(), Target.IPTABLES, variant) as before:
            tell(before, CLUSTER)
            before.sync()
        held = leaves("10.0.0.3")
        assert len(held) == 2
        for cluster, is_as_it_was in ((others, True), (without_policy, False)):
            with reconciled(PolicySettings(), Target.IPTABLES, variant) as reconciler:
                tell(reconciler, cluster)
                reconciler.put_unreadable(Pod, ObjectReference("Pod", "shop", "p3"), "metadata.labels: no object")
                reconciler.sync()
                found = leaves("10.0.0.3")
                assert len(found) == 2
                assert (found == held) is is_as_it_was
                reconciler.distrust()
                assert not reconciler.sync().delta
                reconciler.remove(Pod, ObjectReference("Pod", "shop", "p5"))
                reconciler.sync()
                assert leaves("10.0.0.5") == []
                assert leaves("10.0.0.3") == found
                tell(reconciler, [pod("shop/p5", "10.0.0.5", "fd00::5", labels={"app": "web"})])
                reconciler.sync()
        with reconciled(PolicySettings(), Target.IPTABLES, variant) as reconciler:
            tell(reconciler, without_policy)
            reconciler.put_unreadable(Pod, ObjectReference("Pod", "shop", "p3"), "metadata.labels: no object")
            reconciler.sync()
            tell(reconciler, [pod("shop/p3", "10.0.0.33", "fd00::33", labels={"app": "other"})])
            reconciler.sync()
            assert leaves("10.0.0.3") == leaves("10.0.0.4") == []
            reconciler.distrust()
            assert not reconciler.sync().delta
