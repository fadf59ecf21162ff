"""The oracle says what the documentation says, sentence by sentence, of small clusters that a person worked out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.policies import documents as d
from tests.policies.documents import Document
from tests.policies.oracle import Flow, Oracle, selects

HERE, THERE = "node-1", "node-2"
WEB, DB, JOB = "10.0.0.1", "10.0.0.2", "10.0.1.3"
OUTSIDE, NODE = "198.51.100.7", "192.0.2.1"


def pod(namespace: str, name: str, address: str, on: str = HERE, **fields: Any) -> Document:
    return d.pod(namespace, name, [address], on, {"role": name}, **fields)


def cluster(*more: Document) -> list[Document]:
    ports = [d.container_port(6379, "redis"), d.container_port(53, "dns", "UDP")]
    return [
        d.namespace("default", {}),
        d.namespace("batch", {"project": "myproject"}),
        d.node(HERE, [NODE]),
        pod("default", "web", WEB),
        pod("default", "db", DB, ports=ports),
        pod("batch", "job", JOB, THERE),
        *more,
    ]


def passes(
    source: str,
    destination: str,
    port: int = 80,
    protocol: str = "TCP",
    *more: Document,
    sender: str = "",
    at: Any = None,
) -> bool:
    return Oracle(cluster(*more)).judge(Flow(source, destination, protocol, port, sender), at).allowed


DB_POD = d.selector({"role": "db"})


def db_policy(**spec: Any) -> Document:
    return d.policy("default", "one", DB_POD, **spec)


# ---- the example of the documentation's page on network policies ----

DOCUMENTED = db_policy(
    policyTypes=["Ingress", "Egress"],
    ingress=[
        d.rule(
            [
                d.block("172.17.0.0/16", "172.17.1.0/24"),
                d.peer(None, d.selector({"project": "myproject"})),
                d.peer(d.selector({"role": "web"})),
            ],
            [d.port(6379)],
        )
    ],
    egress=[d.rule([d.block("10.0.1.0/24")], [d.port(5978)], to=True)],
)


@pytest.mark.parametrize(
    ("source", "destination", "port", "protocol", "allowed"),
    [
        ("172.17.0.9", DB, 6379, "TCP", True),
        ("172.17.1.9", DB, 6379, "TCP", False),
        ("172.18.0.9", DB, 6379, "TCP", False),
        (JOB, DB, 6379, "TCP", True),
        (WEB, DB, 6379, "TCP", True),
        (WEB, DB, 6380, "TCP", False),
        (WEB, DB, 6379, "UDP", False),
        (DB, JOB, 5978, "TCP", True),
        (DB, JOB, 5979, "TCP", False),
        (DB, WEB, 5978, "TCP", False),
        (WEB, JOB, 1, "SCTP", True),
        (DB, DB, 1, "TCP", True),
    ],
)
def test_the_documented_example(source: str, destination: str, port: int, protocol: str, allowed: bool) -> None:
    assert passes(source, destination, port, protocol, DOCUMENTED) is allowed


@pytest.mark.parametrize(
    ("spec", "into", "out"),
    [
        # The five default policies of the same page.
        ({"policyTypes": ["Ingress"]}, False, True),
        ({"ingress": [{}], "policyTypes": ["Ingress"]}, True, True),
        ({"policyTypes": ["Egress"]}, True, False),
        ({"egress": [{}], "policyTypes": ["Egress"]}, True, True),
        ({"policyTypes": ["Ingress", "Egress"]}, False, False),
        # "If this field is not specified, it will default based on the existence of ingress or egress rules."
        ({}, False, True),
        ({"egress": []}, False, True),
        ({"egress": [{}]}, False, True),
        ({"egress": [d.rule([d.peer(d.selector({"role": "x"}))], to=True)]}, False, False),
        ({"ingress": [{}], "egress": [d.rule([d.block("203.0.113.0/24")], to=True)]}, True, False),
        # Rules of a direction that is no type do nothing.
        ({"policyTypes": ["Egress"], "ingress": []}, True, False),
        ({"policyTypes": ["Ingress"], "egress": [], "ingress": [{}]}, True, True),
    ],
)
def test_policy_types(spec: Document, into: bool, out: bool) -> None:
    assert passes(WEB, DB, 80, "TCP", db_policy(**spec)) is into
    assert passes(DB, WEB, 80, "TCP", db_policy(**spec)) is out
    assert passes(WEB, JOB, 80, "TCP", db_policy(**spec))


def test_policies_are_added_up() -> None:
    first = db_policy(ingress=[d.rule([d.peer(d.selector({"role": "web"}))])])
    second = d.policy("default", "two", {}, ingress=[d.rule(None, [d.port(53, "UDP")])])
    assert passes(WEB, DB, 80, "TCP", first, second)
    assert passes(JOB, DB, 53, "UDP", first, second)
    assert not passes(JOB, DB, 80, "TCP", first, second)
    assert not passes(JOB, WEB, 80, "TCP", first, second)


def test_both_ends_must_allow() -> None:
    out = d.policy("default", "out", {}, policyTypes=["Egress"], egress=[d.rule(None, [d.port(80)], to=True)])
    into = db_policy(ingress=[d.rule(None, [d.port(81)])])
    assert not passes(WEB, DB, 80, "TCP", out, into)
    assert not passes(WEB, DB, 81, "TCP", out, into)
    assert passes(JOB, DB, 81, "TCP", out, into)
    # Each node enforces what its own pods are subject to.
    assert passes(DB, JOB, 81, "TCP", out, at=THERE)
    assert not passes(DB, JOB, 81, "TCP", out, at=HERE)


def test_selectors_of_one_peer_are_anded_and_peers_are_ored() -> None:
    mine, job = d.selector({"project": "myproject"}), d.selector({"role": "job"})
    together = db_policy(ingress=[d.rule([d.peer(d.selector({"role": "web"}), mine)])])
    apart = db_policy(ingress=[d.rule([d.peer(d.selector({"role": "web"})), d.peer(None, mine)])])
    assert not passes(WEB, DB, 80, "TCP", together)
    assert not passes(JOB, DB, 80, "TCP", together)
    assert passes(WEB, DB, 80, "TCP", apart)
    assert passes(JOB, DB, 80, "TCP", apart)
    # A podSelector alone is about the policy's own namespace.
    assert not passes(JOB, DB, 80, "TCP", db_policy(ingress=[d.rule([d.peer(job)])]))
    assert passes(JOB, DB, 80, "TCP", db_policy(ingress=[d.rule([d.peer(job, {})])]))


def test_selectors_never_select_what_is_no_pod() -> None:
    everybody = db_policy(ingress=[d.rule([d.peer({}, {})])])
    assert not passes(OUTSIDE, DB, 80, "TCP", everybody)
    assert passes(OUTSIDE, DB, 80, "TCP", db_policy(ingress=[d.rule([])]))


def test_exceptions_are_of_their_own_block() -> None:
    blocks = [d.block("10.0.0.0/16", "10.0.0.0/24"), d.block(f"{WEB}/32")]
    policy = db_policy(ingress=[d.rule(blocks)])
    assert passes(WEB, DB, 80, "TCP", policy)
    assert passes(JOB, DB, 80, "TCP", policy)
    assert not passes("10.0.0.9", DB, 80, "TCP", policy)


@pytest.mark.parametrize(
    ("port", "number", "protocol", "allowed"),
    [
        (d.port(80), 80, "TCP", True),
        (d.port(80), 81, "TCP", False),
        (d.port(80, None), 80, "TCP", True),
        (d.port(80, None), 80, "UDP", False),
        (d.port(None, "SCTP"), 9, "SCTP", True),
        (d.port(None, "SCTP"), 9, "TCP", False),
        (d.port(80, "TCP", 90), 79, "TCP", False),
        (d.port(80, "TCP", 90), 80, "TCP", True),
        (d.port(80, "TCP", 90), 90, "TCP", True),
        (d.port(80, "TCP", 90), 91, "TCP", False),
        (d.port("redis"), 6379, "TCP", True),
        (d.port("redis"), 80, "TCP", False),
        (d.port("redis", "UDP"), 6379, "UDP", False),
        (d.port("dns"), 53, "UDP", False),
        (d.port("dns", "UDP"), 53, "UDP", True),
        (d.port("nothing"), 6379, "TCP", False),
    ],
)
def test_ports(port: Document, number: int, protocol: str, allowed: bool) -> None:
    """In both directions a port is the destination's, and so is a name."""
    assert passes(WEB, DB, number, protocol, db_policy(ingress=[d.rule(None, [port])])) is allowed
    egress = d.policy("default", "out", d.selector({"role": "web"}), egress=[d.rule(None, [port], to=True)])
    assert passes(WEB, DB, number, protocol, egress) is allowed


def test_a_name_is_nobodys_outside() -> None:
    policy = d.policy("default", "out", {}, policyTypes=["Egress"], egress=[d.rule(None, [d.port("redis")], to=True)])
    assert not passes(WEB, OUTSIDE, 6379, "TCP", policy)


def test_ports_of_containers_that_run_beside_the_others() -> None:
    helper = d.pod("default", "helped", ["10.0.0.5"], HERE)
    helper["spec"]["initContainers"] = [
        {"name": "proxy", "restartPolicy": "Always", "ports": [d.container_port(15, "mesh")]},
        {"name": "once", "ports": [d.container_port(16, "setup")]},
    ]
    policy = d.policy("default", "one", {}, ingress=[d.rule(None, [d.port("mesh"), d.port("setup")])])
    assert passes(WEB, "10.0.0.5", 15, "TCP", helper, policy)
    assert not passes(WEB, "10.0.0.5", 16, "TCP", helper, policy)


@pytest.mark.parametrize(
    ("expression", "labels", "selected"),
    [
        (("env", "In", ["prod", "dev"]), {"env": "dev"}, True),
        (("env", "In", ["prod", "dev"]), {"env": "test"}, False),
        (("env", "In", ["prod", "dev"]), {}, False),
        (("env", "NotIn", ["prod"]), {"env": "prod"}, False),
        (("env", "NotIn", ["prod"]), {"env": "dev"}, True),
        (("env", "NotIn", ["prod"]), {}, True),
        (("env", "Exists", []), {"env": ""}, True),
        (("env", "Exists", []), {"other": "env"}, False),
        (("env", "DoesNotExist", []), {}, True),
        (("env", "DoesNotExist", []), {"env": ""}, False),
        (("env", "In", [""]), {"env": ""}, True),
    ],
)
def test_expressions(expression: tuple[str, str, list[str]], labels: dict[str, str], selected: bool) -> None:
    assert selects(d.selector(None, expression), labels) is selected
    assert not selects(d.selector({"more": "1"}, expression), labels)


def test_empty_selectors_select_all_and_none_selects_nothing() -> None:
    assert selects({}, {})
    assert selects({"matchLabels": {}, "matchExpressions": []}, {"a": "b"})
    assert not selects(None, {})


# ---- which pods count, and the network model ----


def test_host_network_and_finished_pods_are_neither_subjects_nor_peers() -> None:
    deny = d.policy("default", "deny", {}, policyTypes=["Ingress", "Egress"])
    for address, fields in ((NODE, {"host_network": True}), ("10.0.0.8", {"phase": "Failed"})):
        other = pod("default", "db", address, **fields)
        assert passes(OUTSIDE, address, 80, "TCP", other, deny)
        assert not passes(address, WEB, 80, "TCP", other, d.policy("default", "in", {}, ingress=[d.rule([d.peer({})])]))
        # Blocks are about addresses.
        by_block = d.policy("default", "in", {}, ingress=[d.rule([d.block(f"{address}/32")])])
        assert passes(address, WEB, 80, "TCP", other, by_block)


def test_terminating_pods_stay_until_they_have_finished() -> None:
    leaving = pod("default", "leaving", "10.0.0.8", terminating=True)
    deny = d.policy("default", "deny", d.selector({"role": "leaving"}), policyTypes=["Ingress", "Egress"])
    assert not passes(WEB, "10.0.0.8", 80, "TCP", leaving, deny)
    only = db_policy(ingress=[d.rule([d.peer(d.selector({"role": "leaving"}))])])
    assert passes("10.0.0.8", DB, 80, "TCP", leaving, only)


@pytest.mark.parametrize(
    "old",
    [
        pod("batch", "old", WEB, terminating=True, created="2027-01-01T00:00:00Z"),
        pod("batch", "old", WEB, created="2025-01-01T00:00:00Z"),
        pod("batch", "old", WEB, phase="Succeeded", created="2027-01-01T00:00:00Z"),
    ],
    ids=["terminating", "older", "finished"],
)
def test_an_address_is_its_new_owners(old: Document) -> None:
    only_batch = db_policy(ingress=[d.rule([d.peer(None, d.selector({"project": "myproject"}))])])
    assert not passes(WEB, DB, 80, "TCP", old, only_batch)
    only_web = db_policy(ingress=[d.rule([d.peer(d.selector({"role": "web"}))])])
    assert passes(WEB, DB, 80, "TCP", old, only_web)


def test_a_namespace_has_its_name_as_label_even_without_a_document() -> None:
    stranger = pod("elsewhere", "stranger", "10.0.0.8")
    by_name = d.selector({"kubernetes.io/metadata.name": "elsewhere"})
    assert passes("10.0.0.8", DB, 80, "TCP", stranger, db_policy(ingress=[d.rule([d.peer(None, by_name)])]))
    assert not passes(JOB, DB, 80, "TCP", stranger, db_policy(ingress=[d.rule([d.peer(None, by_name)])]))


def test_the_node_reaches_its_own_pods() -> None:
    deny = d.policy("default", "deny", {}, policyTypes=["Ingress", "Egress"])
    assert passes(NODE, DB, 80, "TCP", deny, sender=HERE)
    assert not passes(NODE, DB, 80, "TCP", deny, sender=THERE)
    assert not passes(NODE, DB, 80, "TCP", deny)


def test_a_pod_reaches_itself() -> None:
    assert passes(DB, DB, 80, "TCP", d.policy("default", "deny", {}, policyTypes=["Ingress", "Egress"]))


# ---- ClusterNetworkPolicy ----

ALL = [d.namespaces()]


def admin(priority: int, *rules: Document, name: str = "one", tier: str = "Admin") -> Document:
    return d.cluster_policy(name, tier, priority, d.namespaces(), ingress=list(rules))


def test_admin_comes_before_network_policies_and_baseline_after_them() -> None:
    deny, accept = d.cluster_rule("Deny", ALL), d.cluster_rule("Accept", ALL)
    open_db, closed_db = db_policy(ingress=[{}]), db_policy()
    assert not passes(WEB, DB, 80, "TCP", admin(1, deny), open_db)
    assert passes(WEB, DB, 80, "TCP", admin(1, accept), closed_db)
    assert passes(WEB, DB, 80, "TCP", admin(1, deny, tier="Baseline"), open_db)
    assert not passes(WEB, DB, 80, "TCP", admin(1, accept, tier="Baseline"), closed_db)
    assert not passes(DB, WEB, 80, "TCP", admin(1, deny, tier="Baseline"), open_db)


def test_pass_leaves_it_to_the_next_tier() -> None:
    passing, deny = d.cluster_rule("Pass", ALL), d.cluster_rule("Deny", ALL)
    assert passes(WEB, DB, 80, "TCP", admin(1, passing), admin(2, deny, name="two"))
    assert not passes(WEB, DB, 80, "TCP", admin(1, passing), db_policy())
    assert not passes(WEB, DB, 80, "TCP", admin(1, passing), admin(1, deny, tier="Baseline", name="two"))
    assert passes(WEB, DB, 80, "TCP", admin(1, passing, tier="Baseline"), admin(2, deny, tier="Baseline", name="two"))


def test_the_lower_number_and_then_the_upper_rule_decide() -> None:
    deny, accept = d.cluster_rule("Deny", ALL), d.cluster_rule("Accept", ALL)
    assert not passes(WEB, DB, 80, "TCP", admin(10, accept, name="a"), admin(9, deny, name="b"))
    assert passes(WEB, DB, 80, "TCP", admin(10, deny, name="a"), admin(9, accept, name="b"))
    assert passes(WEB, DB, 80, "TCP", admin(1, accept, deny))
    assert not passes(WEB, DB, 80, "TCP", admin(1, deny, accept))
    assert not passes(WEB, DB, 80, "TCP", admin(1, d.cluster_rule("Accept", ALL, [d.number("TCP", 81)]), deny))


def test_accepted_at_one_end_is_judged_at_the_other() -> None:
    out = d.cluster_policy("one", "Admin", 1, d.namespaces(), egress=[d.cluster_rule("Accept", ALL, to=True)])
    assert not passes(WEB, DB, 80, "TCP", out, db_policy())


def test_no_rules_for_a_direction_leave_it_alone() -> None:
    out = d.cluster_policy("one", "Admin", 1, d.namespaces(), egress=[d.cluster_rule("Deny", ALL, to=True)])
    assert passes(OUTSIDE, DB, 80, "TCP", out)
    assert not passes(WEB, DB, 80, "TCP", out)


@pytest.mark.parametrize(
    ("peer", "destination", "matched"),
    [
        ({"networks": ["198.51.100.0/24"]}, OUTSIDE, True),
        ({"networks": ["10.0.1.0/24", "198.51.0.0/24"]}, JOB, True),
        ({"networks": ["2001:db8::/32"]}, OUTSIDE, False),
        ({"nodes": {}}, NODE, True),
        ({"nodes": d.selector({"no": "such"})}, NODE, False),
        ({"nodes": {}}, JOB, False),
        ({"domainNames": ["example.org"]}, OUTSIDE, False),
        (d.pods(d.selector({"role": "job"})), JOB, True),
        (d.pods(d.selector({"role": "job"}), d.selector({"project": "other"})), JOB, False),
        (d.namespaces(d.selector({"project": "myproject"})), JOB, True),
        (d.namespaces(), OUTSIDE, False),
    ],
)
def test_peers_of_egress(peer: Document, destination: str, matched: bool) -> None:
    deny = d.cluster_policy("one", "Admin", 1, d.namespaces(), egress=[d.cluster_rule("Deny", [peer], to=True)])
    assert passes(WEB, destination, 80, "TCP", deny) is not matched


@pytest.mark.parametrize(
    ("protocol", "number", "sent", "matched"),
    [
        (d.number("TCP", 80), 80, "TCP", True),
        (d.number("TCP", 80), 80, "UDP", False),
        (d.port_range("SCTP", 80, 90), 90, "SCTP", True),
        (d.port_range("SCTP", 80, 90), 91, "SCTP", False),
        ({"udp": {}}, 7, "UDP", True),
        (d.named("dns"), 53, "UDP", True),
        (d.named("dns"), 53, "TCP", False),
    ],
)
def test_protocols(protocol: Document, number: int, sent: str, matched: bool) -> None:
    assert passes(WEB, DB, number, sent, admin(1, d.cluster_rule("Deny", ALL, [protocol]))) is not matched
