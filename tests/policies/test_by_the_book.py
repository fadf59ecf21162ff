"""Clusters that hypothesis makes up: rulegen's own account of a packet against the documentation, read by the oracle.

No kernel is asked here, so that very many are tried; what the kernel does is compared with the same oracle elsewhere.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from rulegen.policies.simulate import Packet, simulate
from rulegen.policies.store import Store
from tests.policies import catalogue, cluster
from tests.policies import documents as d
from tests.policies.catalogue import Case
from tests.policies.documents import Document
from tests.policies.oracle import Flow, Oracle
from tests.policies.whole import store_of
from tests.selection import examples

# Few, so that they meet; among them what is easily taken for nothing, and names with a prefix.
KEYS = ("app", "tier", "example.org/app", "kubernetes.io/metadata.name")
VALUES = ("", "a", "b", "A", "a.b")
NAMESPACES = ("shop", "bank", "a")
NODES = ("node-1", "node-2")
PORT_NAMES = ("http", "sql")

LABELS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)


@st.composite
def expressions(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")))
    values = draw(st.lists(st.sampled_from((*VALUES, *NAMESPACES)), min_size=1, max_size=3, unique=True))
    return draw(st.sampled_from(KEYS)), operator, values if operator in ("In", "NotIn") else []


@st.composite
def selectors(draw: st.DrawFn) -> Document:
    labels = draw(st.one_of(st.just({}), LABELS))
    return d.selector(labels, *draw(st.lists(expressions(), max_size=3)))


@st.composite
def networks(draw: st.DrawFn) -> str:
    """Around the pods' addresses, where ranges overlap, touch and contain each other."""
    number = int(IPv4Address("10.0.0.0")) + draw(st.integers(0, 40))
    return str(ip_network((number, draw(st.sampled_from((0, 1, 24, 26, 27, 28, 29, 30, 31, 32)))), strict=False))


@st.composite
def blocks(draw: st.DrawFn) -> Document:
    """The API wants each exception to lie within the block."""
    cidr = draw(networks())
    exceptions = draw(st.lists(networks(), max_size=4))
    inside = [one for one in exceptions if ip_network(one).subnet_of(ip_network(cidr))]  # type: ignore[arg-type]
    return d.block(cidr, *inside)


SELECTING_PEERS = st.one_of(
    st.builds(d.peer, selectors()),
    st.builds(d.peer, st.none(), selectors()),
    st.builds(d.peer, selectors(), selectors()),
)
PORT_NUMBERS = st.integers(1, 6)


@st.composite
def ports(draw: st.DrawFn) -> Document:
    protocol = draw(st.sampled_from(("TCP", "UDP", "SCTP", None)))
    match draw(st.sampled_from(("number", "range", "name", "all"))):
        case "number":
            return d.port(draw(PORT_NUMBERS), protocol)
        case "range":
            first = draw(PORT_NUMBERS)
            return d.port(first, protocol, first + draw(st.integers(0, 4)))
        case "name":
            return d.port(draw(st.sampled_from(PORT_NAMES)), protocol)
        case _:
            return d.port(None, protocol)


@st.composite
def policies(draw: st.DrawFn, name: str) -> Document:
    spec: dict[str, Any] = {}
    peers = st.lists(st.one_of(SELECTING_PEERS, blocks()), max_size=2)
    for direction in ("ingress", "egress"):
        if draw(st.booleans()):
            rules = draw(st.lists(st.tuples(st.one_of(st.none(), peers), st.lists(ports(), max_size=3)), max_size=2))
            spec[direction] = [d.rule(*one, to=direction == "egress") for one in rules]
    types = draw(st.sampled_from((None, ["Ingress"], ["Egress"], ["Ingress", "Egress"])))
    spec |= {} if types is None else {"policyTypes": types}
    return d.policy(draw(st.sampled_from(NAMESPACES)), name, draw(selectors()), **spec)


@st.composite
def cluster_policies(draw: st.DrawFn, name: str, priority: int) -> Document:
    chosen = st.one_of(st.builds(d.namespaces, selectors()), st.builds(d.pods, selectors(), selectors()))
    destinations = st.one_of(
        chosen,
        st.builds(lambda found: {"networks": found}, st.lists(networks(), min_size=1, max_size=2, unique=True)),
        st.builds(lambda found: {"nodes": found}, selectors()),
    )
    spec = {}
    for direction, peers in (("ingress", chosen), ("egress", destinations)):
        rules = []
        for _ in range(draw(st.integers(0, 3))):
            found = draw(st.lists(peers, min_size=1, max_size=2))
            action = draw(st.sampled_from(("Accept", "Deny", "Pass")))
            rules.append(d.cluster_rule(action, found, draw(protocols(found)), to=direction == "egress"))
        spec[direction] = rules
    return d.cluster_policy(name, draw(st.sampled_from(("Admin", "Baseline"))), priority, draw(chosen), **spec)


@st.composite
def protocols(draw: st.DrawFn, peers: list[Document]) -> list[Document] | None:
    kinds = [
        st.builds(d.number, st.sampled_from(("TCP", "UDP", "SCTP")), PORT_NUMBERS),
        st.builds(lambda first: d.port_range("TCP", first, first + 3), PORT_NUMBERS),
    ]
    if all("pods" in peer or "namespaces" in peer for peer in peers):
        kinds.append(st.builds(d.named, st.sampled_from(PORT_NAMES)))
    return draw(st.one_of(st.none(), st.lists(st.one_of(kinds), min_size=1, max_size=2)))


@st.composite
def pods(draw: st.DrawFn, number: int) -> Document:
    """Now and then one that does not count, or one whose address another has, too."""
    address = f"10.0.0.{draw(st.sampled_from((number, number, number, 1)))}"
    named = [
        d.container_port(draw(PORT_NUMBERS), name, draw(st.sampled_from(("TCP", "UDP", "SCTP"))))
        for name in PORT_NAMES
        if draw(st.booleans())
    ]
    return d.pod(
        draw(st.sampled_from(NAMESPACES)),
        f"pod-{number}",
        [address],
        draw(st.sampled_from(NODES)),
        draw(LABELS),
        named,
        phase=draw(st.sampled_from(("Running", "Running", "Running", "Pending", "Succeeded"))),
        created=f"2026-01-01T00:00:{number:02}Z",
        terminating=draw(st.sampled_from((False, False, True))),
        host_network=draw(st.sampled_from((False, False, False, True))),
    )


@st.composite
def clusters(draw: st.DrawFn) -> list[Document]:
    """In any order."""
    found = [draw(pods(number)) for number in range(1, draw(st.integers(2, 6)))]
    labels = LABELS.map(lambda drawn: {key: value for key, value in drawn.items() if key != KEYS[-1]})
    found += [d.namespace(name, draw(labels)) for name in NAMESPACES if draw(st.booleans())]
    found += [d.node(name, [f"10.0.0.{30 + number}"], labels=draw(LABELS)) for number, name in enumerate(NODES)]
    found += [draw(policies(f"p-{number}")) for number in range(draw(st.integers(1, 3)))]
    found += [draw(cluster_policies(f"c-{number}", number)) for number in range(draw(st.integers(0, 2)))]
    return draw(st.permutations(found))


ADDRESSES = tuple(f"10.0.0.{number}" for number in (*range(1, 7), 20, 30, 31))


def disagreements(store: Store, oracle: Oracle, flows: list[Flow]) -> list[str]:
    found = []
    for flow in flows:
        verdict = oracle.judge(flow)
        packet = Packet(_packed(flow.source), _packed(flow.destination), flow.protocol, flow.port)
        if simulate(store, packet).is_allowed is not verdict.allowed:
            found.append(f"{flow}: {verdict.why or 'allowed'}")
    return found


def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _flows(chance: random.Random, count: int) -> list[Flow]:
    return [
        Flow(
            chance.choice(ADDRESSES),
            chance.choice(ADDRESSES),
            chance.choice(("TCP", "UDP", "SCTP")),
            chance.randint(1, 10),
        )
        for _ in range(count)
    ]


FLOWS = _flows(random.Random(0), 150)


@settings(max_examples=examples(60))
@given(clusters())
def test_any_cluster(objects: list[Document]) -> None:
    assert not disagreements(store_of(objects, NODES[0]), Oracle(objects), FLOWS)


@settings(max_examples=examples(100))
@given(
    selectors(), selectors(), st.lists(st.tuples(LABELS, st.sampled_from(NAMESPACES)), min_size=1, max_size=6), LABELS
)
def test_any_selector(
    of_pods: Document, of_namespaces: Document, labelled: list[tuple[dict[str, str], str]], labels: dict[str, str]
) -> None:
    """As a peer, in the policy's own namespace and by namespaces, and as what a policy is about."""
    everybody = [
        d.pod(namespace, f"pod-{number}", [f"10.0.0.{number}"], NODES[number % 2], its_labels)
        for number, (its_labels, namespace) in enumerate(labelled, 1)
    ]
    own = {key: value for key, value in labels.items() if key != KEYS[-1]}
    rules = [d.rule([d.peer(of_pods)], [d.port(1)]), d.rule([d.peer(of_pods, of_namespaces)], [d.port(2)])]
    objects = [
        *everybody,
        d.namespace("shop", own),
        *(d.policy(name, "p", {}, ingress=rules) for name in NAMESPACES),
        d.policy("shop", "subjects", of_pods, policyTypes=["Egress"]),
    ]
    flows = [
        Flow(f"10.0.0.{source}", f"10.0.0.{destination}", "TCP", port)
        for source in range(1, len(labelled) + 1)
        for destination in range(1, len(labelled) + 1)
        for port in (1, 2, 3)
    ]
    assert not disagreements(store_of(objects, NODES[0]), Oracle(objects), flows)


@settings(max_examples=examples(100))
@given(st.lists(blocks(), min_size=1, max_size=5))
def test_any_blocks(found: list[Document]) -> None:
    """At the edges of each block and of each exception."""
    objects = [
        d.pod("shop", "pod", ["10.0.1.1"], NODES[0]),
        d.policy("shop", "p", {}, ingress=[d.rule(found)]),
    ]
    cidrs = [one["ipBlock"]["cidr"] for one in found]
    cidrs += [exception for one in found for exception in one["ipBlock"].get("except", ())]
    edges = {
        number
        for cidr in map(ip_network, cidrs)
        for end in (int(cidr[0]), int(cidr[-1]))
        for number in (end - 1, end, end + 1)
        if 0 <= number < 1 << 32
    }
    flows = [Flow(str(IPv4Address(number)), "10.0.1.1", "TCP", 1) for number in edges]
    assert not disagreements(store_of(objects, NODES[0]), Oracle(objects), flows)


@pytest.mark.part(8)
@pytest.mark.parametrize("case", catalogue.cases(), ids=lambda case: case.name)
def test_the_catalogue(case: Case) -> None:
    flows = [probe.flow for probe in cluster.PROBES]
    objects = case.objects()
    assert not disagreements(store_of(objects, cluster.NODE_1), Oracle(objects), flows)
