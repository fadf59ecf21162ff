"""What a packet meets, policy by policy: the semantics of the API, without a kernel."""

from __future__ import annotations

from typing import Any

import pytest

from rulegen.policies.model import Direction
from rulegen.policies.pods import packed
from rulegen.policies.simulate import Decision, Packet, Reason, Verdict, simulate
from tests.policies.objects import Document, cluster_policy, namespace, node, pod, policy
from tests.policies.whole import store_of

CLUSTER = [
    namespace("shop", team="a"),
    namespace("bank", team="b"),
    pod("shop/web", "10.0.0.1", "fd00::1", labels={"app": "web"}, ports={"http": 80}),
    pod("shop/db", "10.0.0.2", "fd00::2", labels={"app": "db"}, ports={"sql": 5432, "http": 8080}),
    pod("bank/web", "10.0.0.3", labels={"app": "web"}, node="node-2", ports={"http": 8000, "dns/UDP": 53}),
    pod("bank/host", "192.168.0.2", labels={"app": "host"}, node="node-2", host_network=True),
    node("node-1", "192.168.0.1", labels={"zone": "a"}),
    node("node-2", "192.168.0.2", labels={"zone": "b"}),
]
SHOP_WEB, SHOP_DB, BANK_WEB, OUTSIDE = "10.0.0.1", "10.0.0.2", "10.0.0.3", "203.0.113.9"
PODS: Document = {"podSelector": {}}


def sent(documents: list[Document], source: str, destination: str, port: int = 80, protocol: str = "TCP") -> Verdict:
    store = store_of([*CLUSTER, *documents], "node-1")
    start, end = packed(source), packed(destination)
    assert start is not None
    assert end is not None
    return simulate(store, Packet(start, end, protocol, port))


def passes(documents: list[Document], source: str, destination: str, port: int = 80, protocol: str = "TCP") -> bool:
    return sent(documents, source, destination, port, protocol).is_allowed


def test_without_policies_everything_passes() -> None:
    verdict = sent([], SHOP_WEB, SHOP_DB)
    assert [verdict.egress.reason, verdict.ingress.reason] == [Reason.NOT_ISOLATED, Reason.NOT_ISOLATED]
    assert sent([], OUTSIDE, SHOP_DB).egress.reason is Reason.NO_POD


def test_ingress_is_isolated_by_default_and_egress_only_with_a_rule_for_it() -> None:
    assert not passes([policy("shop/db", {"app": "db"})], SHOP_WEB, SHOP_DB)
    assert passes([policy("shop/db", {"app": "db"})], SHOP_DB, SHOP_WEB)
    with_egress = policy("shop/db", {"app": "db"}, egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.3/32"}}]}])
    assert not passes([with_egress], SHOP_DB, SHOP_WEB)
    assert passes([with_egress], SHOP_DB, BANK_WEB)
    assert passes([policy("shop/db", {"app": "db"}, policyTypes=["Egress"])], SHOP_WEB, SHOP_DB)
    assert not passes([policy("shop/db", {"app": "db"}, policyTypes=["Egress"])], SHOP_DB, SHOP_WEB)
    # Rules of a direction that the types do not name mean nothing.
    assert passes(
        [policy("shop/db", {"app": "db"}, policyTypes=["Ingress"], ingress=[{}], egress=[])], SHOP_DB, SHOP_WEB
    )


@pytest.mark.parametrize(
    ("ingress", "allowed"), [([], False), (None, False), ([{}], True), ([{"from": []}], True), ([{"ports": []}], True)]
)
def test_no_rule_denies_and_an_empty_rule_allows(ingress: Any, allowed: bool) -> None:
    assert passes([policy("shop/db", {"app": "db"}, ingress=ingress)], SHOP_WEB, SHOP_DB) is allowed


@pytest.mark.parametrize(
    ("peer", "from_shop", "from_bank"),
    [
        ({"podSelector": {}}, True, False),
        ({"podSelector": {"matchLabels": {"app": "web"}}}, True, False),
        ({"podSelector": {"matchLabels": {"app": "db"}}}, False, False),
        ({"namespaceSelector": {}}, True, True),
        ({"namespaceSelector": {"matchLabels": {"team": "b"}}}, False, True),
        (
            {"namespaceSelector": {"matchLabels": {"team": "b"}}, "podSelector": {"matchLabels": {"app": "db"}}},
            False,
            False,
        ),
        (
            {"namespaceSelector": {"matchLabels": {"team": "b"}}, "podSelector": {"matchLabels": {"app": "web"}}},
            False,
            True,
        ),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "bank"}}}, False, True),
        ({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.3/32"]}}, True, False),
        ({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.0/24"]}}, False, False),
        ({"ipBlock": {"cidr": "10.0.0.77/30"}}, False, False),
        ({"ipBlock": {"cidr": "10.0.0.1/30"}}, True, True),
    ],
)
def test_peers(peer: Document, from_shop: bool, from_bank: bool) -> None:
    documents = [policy("shop/db", {"app": "db"}, ingress=[{"from": [peer]}])]
    assert [passes(documents, SHOP_WEB, SHOP_DB), passes(documents, BANK_WEB, SHOP_DB)] == [from_shop, from_bank]


def test_an_exception_takes_nothing_from_another_peer() -> None:
    peers = [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.3/32"]}}, {"ipBlock": {"cidr": "10.0.0.0/24"}}]
    assert passes([policy("shop/db", {}, ingress=[{"from": peers}])], BANK_WEB, SHOP_DB)


@pytest.mark.parametrize(
    ("ports", "allowed"),
    [
        ([{"port": 80}], {("TCP", 80)}),
        ([{"port": 80, "protocol": "UDP"}], {("UDP", 80)}),
        ([{"protocol": "SCTP"}], {("SCTP", 80), ("SCTP", 8080)}),
        ([{"port": 79, "endPort": 81}], {("TCP", 80)}),
        ([{"port": "http"}], {("TCP", 8080)}),
        ([{"port": "http", "protocol": "UDP"}], set()),
        ([{"port": "nobody"}], set()),
        ([{"port": "http"}, {"port": 80, "protocol": "UDP"}], {("TCP", 8080), ("UDP", 80)}),
    ],
)
def test_ports(ports: list[Document], allowed: set[tuple[str, int]]) -> None:
    documents = [policy("shop/db", {"app": "db"}, ingress=[{"ports": ports}])]
    tried = [(protocol, port) for protocol in ("TCP", "UDP", "SCTP") for port in (80, 8080)]
    assert {(name, port) for name, port in tried if passes(documents, SHOP_WEB, SHOP_DB, port, name)} == allowed


def test_a_named_port_of_egress_is_the_destinations() -> None:
    documents = [policy("shop/web", {"app": "web"}, egress=[{"ports": [{"port": "http"}]}], policyTypes=["Egress"])]
    assert passes(documents, SHOP_WEB, SHOP_DB, 8080)
    assert passes(documents, SHOP_WEB, BANK_WEB, 8000)
    assert not passes(documents, SHOP_WEB, BANK_WEB, 8080)
    assert not passes(documents, SHOP_WEB, OUTSIDE, 8080)


def test_policies_add_up_and_a_flow_needs_both_ends() -> None:
    first = policy("shop/one", {"app": "db"}, ingress=[{"ports": [{"port": 80}]}])
    second = policy("shop/two", {}, ingress=[{"ports": [{"port": 81}]}])
    assert passes([first, second], SHOP_WEB, SHOP_DB, 80)
    assert passes([first, second], SHOP_WEB, SHOP_DB, 81)
    assert not passes([first, second], SHOP_WEB, SHOP_DB, 82)
    closed = policy("shop/closed", {"app": "web"}, policyTypes=["Egress"])
    verdict = sent([first, second, closed], SHOP_WEB, SHOP_DB, 80)
    assert not verdict.is_allowed
    assert verdict.ingress.is_allowed
    assert verdict.egress.policies[0].name == "closed"


def test_a_pod_reaches_itself() -> None:
    documents = [policy("shop/all", {}, policyTypes=["Ingress", "Egress"])]
    assert sent(documents, SHOP_WEB, SHOP_WEB).ingress.reason is Reason.ITSELF
    assert passes(documents, SHOP_WEB, SHOP_WEB)


def test_pods_on_the_host_network_are_neither_subjects_nor_peers() -> None:
    documents = [
        policy("bank/all", {}),
        policy("shop/db", {"app": "db"}, ingress=[{"from": [{"namespaceSelector": {}}]}]),
    ]
    assert passes(documents, SHOP_WEB, "192.168.0.2")
    assert not passes(documents, "192.168.0.2", SHOP_DB)


def test_finished_pods_are_nobody_and_terminating_ones_are_as_before() -> None:
    peer = policy("shop/db", {"app": "db"}, ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "job"}}}]}])
    for phase, deleted, allowed in (
        ("Succeeded", None, False),
        ("Failed", None, False),
        ("Running", "2026-01-02", True),
    ):
        job = pod("shop/job", "10.0.0.9", labels={"app": "job"}, phase=phase, deleted=deleted)
        assert passes([peer, job], "10.0.0.9", SHOP_DB) is allowed
        closed = policy("shop/job", {"app": "job"})
        assert passes([closed, job], SHOP_WEB, "10.0.0.9") is not allowed


def test_of_two_pods_with_an_address_the_newer_running_one_counts() -> None:
    old = pod("shop/old", "10.0.0.9", labels={"app": "old"}, created="2026-01-01T00:00:00Z")
    new = pod("shop/new", "10.0.0.9", labels={"app": "new"}, created="2026-01-02T00:00:00Z")
    closed = policy("shop/closed", {"app": "new"})
    for documents in ([old, new], [new, old]):
        assert not passes([*documents, closed], SHOP_WEB, "10.0.0.9")
    pending = pod("shop/new", "10.0.0.9", labels={"app": "new"}, created="2026-01-02T00:00:00Z", phase="Pending")
    assert passes([old, pending, closed], SHOP_WEB, "10.0.0.9")
    leaving = pod("shop/old", "10.0.0.9", labels={"app": "old"}, deleted="2026-01-03T00:00:00Z")
    assert not passes([leaving, pending, closed], SHOP_WEB, "10.0.0.9")


def test_families_are_apart() -> None:
    documents = [policy("shop/db", {"app": "db"}, ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])]
    assert passes(documents, SHOP_WEB, SHOP_DB)
    assert not passes(documents, "fd00::1", "fd00::2")


# ---- ClusterNetworkPolicies ----


def from_team(team: str) -> Document:
    return {"namespaces": {"matchLabels": {"team": team}}}


def test_the_first_rule_that_matches_decides() -> None:
    rules = [
        {"action": "Accept", "from": [from_team("b")], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]},
        {"action": "Deny", "from": [from_team("b")]},
    ]
    documents = [cluster_policy("one", ingress=rules)]
    assert passes(documents, BANK_WEB, SHOP_DB, 80)
    assert not passes(documents, BANK_WEB, SHOP_DB, 81)
    assert sent(documents, SHOP_WEB, SHOP_DB).ingress.reason is Reason.NOTHING_DENIES


def test_tiers() -> None:
    everybody: list[Document] = [{"namespaces": {}}]
    accept = cluster_policy("accept", ingress=[{"action": "Accept", "from": everybody}])
    deny = cluster_policy("deny", ingress=[{"action": "Deny", "from": everybody}])
    pass_on = cluster_policy("pass", ingress=[{"action": "Pass", "from": everybody}])
    baseline = cluster_policy("base", "Baseline", ingress=[{"action": "Deny", "from": everybody}])
    closed, opened = policy("shop/closed", {}), policy("shop/open", {}, ingress=[{}])
    assert passes([accept, closed], SHOP_WEB, SHOP_DB)
    assert not passes([deny, opened], SHOP_WEB, SHOP_DB)
    assert not passes([pass_on, closed], SHOP_WEB, SHOP_DB)
    assert passes([pass_on, opened, baseline], SHOP_WEB, SHOP_DB)
    assert not passes([pass_on, baseline], SHOP_WEB, SHOP_DB)
    assert not passes([baseline], SHOP_WEB, SHOP_DB)
    # A NetworkPolicy for the other direction isolates nobody in this one.
    assert not passes([policy("shop/out", {}, policyTypes=["Egress"], egress=[{}]), baseline], SHOP_WEB, SHOP_DB)


def test_priorities_and_equal_ones_by_name() -> None:
    def one(name: str, action: str, priority: int) -> Document:
        return cluster_policy(name, priority=priority, ingress=[{"action": action, "from": [{"namespaces": {}}]}])

    assert passes([one("a", "Deny", 2), one("b", "Accept", 1)], SHOP_WEB, SHOP_DB)
    assert not passes([one("b", "Accept", 1), one("a", "Deny", 1)], SHOP_WEB, SHOP_DB)
    # What passes on in one policy skips the others of its tier.
    assert passes([one("a", "Pass", 1), one("b", "Deny", 2)], SHOP_WEB, SHOP_DB)


def test_peers_of_egress() -> None:
    rules = [{"action": "Deny", "to": [{"nodes": {"matchLabels": {"zone": "b"}}}, {"networks": ["203.0.113.0/24"]}]}]
    documents = [cluster_policy("one", egress=rules)]
    assert not passes(documents, SHOP_WEB, "192.168.0.2")
    assert passes(documents, SHOP_WEB, "192.168.0.1")
    assert not passes(documents, SHOP_WEB, OUTSIDE)
    pods = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}}
    named = [{"action": "Deny", "to": [pods], "protocols": [{"destinationNamedPort": "sql"}]}]
    assert not passes([cluster_policy("one", egress=named)], SHOP_WEB, SHOP_DB, 5432)
    assert passes([cluster_policy("one", egress=named)], SHOP_WEB, SHOP_DB, 80)


def test_ports_of_cluster_network_policies() -> None:
    protocols = [
        {"udp": {"destinationPort": {"range": {"start": 50, "end": 60}}}},
        {"sctp": {}},
        {"tcp": {"destinationPort": {"number": 80}}},
    ]
    documents = [
        cluster_policy("one", ingress=[{"action": "Deny", "from": [{"namespaces": {}}], "protocols": protocols}])
    ]
    tried = [(name, port) for name in ("TCP", "UDP", "SCTP") for port in (53, 80)]
    denied = {item for item in tried if not passes(documents, SHOP_WEB, SHOP_DB, item[1], item[0])}
    assert denied == {("UDP", 53), ("TCP", 80), ("SCTP", 53), ("SCTP", 80)}


def test_domain_names_accept_nobody_and_deny_nothing_less() -> None:
    names = {"domainNames": ["*.example.com"]}
    last = {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}
    only = cluster_policy("one", egress=[{"action": "Accept", "to": [names]}, last])
    beside = cluster_policy("one", egress=[{"action": "Accept", "to": [names, {"networks": ["203.0.113.9/32"]}]}, last])
    assert not passes([only], SHOP_WEB, OUTSIDE)
    assert passes([beside], SHOP_WEB, OUTSIDE)
    assert not passes([beside], SHOP_WEB, "203.0.113.10")
    assert not passes([cluster_policy("one", egress=[{"action": "Deny", "to": [names]}])], SHOP_WEB, OUTSIDE)


# ---- what cannot be read ----


@pytest.mark.parametrize(
    "broken",
    [
        {"ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]}, {}]},
        {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}, {}]},
        {"ingress": [{"from": [{"futurePeer": {}}]}, {}]},
        {"ingress": [{"ports": [{"port": 70000}]}, {}]},
        {"ingress": [{"ports": [{"port": 80, "protocol": "ICMP"}]}, {}]},
        {"ingress": "everything"},
        {"policyTypes": ["Ingres"], "ingress": [{}]},
    ],
)
def test_a_direction_that_cannot_be_read_accepts_nothing(broken: Document) -> None:
    document = policy("shop/db", {"app": "db"})
    document["spec"] = {**document["spec"], **broken}
    assert not passes([document], SHOP_WEB, SHOP_DB) or "policyTypes" in broken
    assert store_of([document], "").policies.popitem()[1].faults
    assert passes([document], BANK_WEB, SHOP_WEB)


def test_a_subject_that_cannot_be_read_is_more_pods() -> None:
    document = policy("shop/db", {"app": "db"})
    document["spec"]["podSelector"]["matchExpressions"] = [{"key": "tier", "operator": "Near", "values": ["x"]}]
    assert not passes([document], SHOP_WEB, SHOP_DB)
    assert passes([document], SHOP_DB, SHOP_WEB)
    document["spec"]["podSelector"] = "all of them"
    assert not passes([document], SHOP_DB, SHOP_WEB)
    assert passes([document], SHOP_DB, BANK_WEB)


@pytest.mark.parametrize("spec", [None, [], {"tier": "Root", "priority": 1, "subject": {"namespaces": {}}}])
def test_a_cluster_network_policy_that_cannot_be_read_denies(spec: Any) -> None:
    document = cluster_policy("one")
    document["spec"] = spec
    assert not passes([document, policy("shop/open", {}, ingress=[{}])], SHOP_WEB, SHOP_DB)


@pytest.mark.parametrize("action", ["Accept", "Deny", "Pass"])
@pytest.mark.parametrize("peer", [{"galaxies": {}}, {}])
def test_a_peer_of_a_later_api_fails_closed(action: str, peer: Document) -> None:
    rules = [{"action": action, "from": [peer]}, {"action": "Deny", "from": [from_team("b")]}]
    documents = [cluster_policy("one", ingress=rules)]
    assert passes(documents, SHOP_WEB, SHOP_DB) is (action == "Accept")
    assert not passes(documents, BANK_WEB, SHOP_DB)


# ---- in words ----


def told(decision: Decision) -> tuple[str, ...]:
    return (*decision.near, decision.remedy)


def test_what_is_missing_is_said() -> None:
    rules = [{"from": [PODS], "ports": [{"port": 443}]}, {"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}]
    verdict = sent([policy("shop/db", {"app": "db"}, ingress=rules)], SHOP_WEB, SHOP_DB)
    assert verdict.egress.is_allowed
    assert told(verdict.ingress) == (
        "NetworkPolicy shop/db, ingress[0], accepts this peer, but only for TCP 443",
        "NetworkPolicy shop/db, ingress[1], accepts this port, but only with 203.0.113.0/24",
        "an ingress rule from pod shop/web on TCP 80 in NetworkPolicy shop/db",
    )


def test_the_rule_that_decides_is_named() -> None:
    rules = [{"action": "Deny", "name": "no-shop", "from": [from_team("a")]}]
    decision = sent([cluster_policy("one", ingress=rules)], SHOP_WEB, SHOP_DB).ingress
    assert decision.direction is Direction.INGRESS
    assert decision.rule is not None
    assert (str(decision.policy), decision.rule.place) == ("ClusterNetworkPolicy one", 'ingress[0] ("no-shop")')
    assert told(decision) == (
        "an ingress rule from pod shop/web on TCP 80 that accepts, "
        'before ingress[0] ("no-shop") of ClusterNetworkPolicy one',
    )
