"""The memory: whatever the order of changes, it tells the same as one that hears only the end; and it tells little."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rulegen.config import Family, PolicySettings
from rulegen.policies.model import Direction, PolicyName
from rulegen.policies.on_iptables.compiler import ChainCompiler
from rulegen.policies.on_nftables.compiler import TableCompiler
from rulegen.policies.store import Id, LocalPod, Members, Membership, PeerSet, Store
from tests.counting import lines_run
from tests.policies.decoding import decode
from tests.policies.objects import Document, cluster_policy, namespace, node, pod, policy
from tests.policies.whole import store_of

NAMESPACES, NAMES, KEYS, VALUES = ("a", "b", "c"), ("x", "y", "z"), ("app", "tier", "env"), ("1", "2")
EVERYTHING = PolicySettings(strict=True, fail_closed=True, log_group=3)
RANGES = {Family.IPV4: ("10.0.0.0/24",), Family.IPV6: ("fd00::/64",)}


class Cluster:
    """Random changes, told to a store one by one, and what is there at the end."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.documents: dict[tuple[str, str], Document] = {}
        self.store = Store("node-1")
        self._makers: list[Callable[[], Document]] = [
            self._pod,
            self._pod,
            self._pod,
            self._namespace,
            self._node,
            self._policy,
            self._policy,
            self._cluster_policy,
        ]

    def step(self) -> None:
        if self.documents and self._random.random() < 0.35:
            document = self.documents.pop(self._random.choice(sorted(self.documents)))
            self._remove(document)
            return
        document = self._random.choice(self._makers)()
        self.documents[document["kind"], key_of(document)] = document
        for item in decode([document]):
            self.store.put(item)

    def _remove(self, document: Document) -> None:
        metadata = document["metadata"]
        place = metadata.get("namespace", ""), metadata["name"]
        match document["kind"]:
            case "Pod":
                self.store.remove_pod(*place)
            case "Namespace":
                self.store.remove_namespace(place[1])
            case "Node":
                self.store.remove_node(place[1])
            case "NetworkPolicy":
                self.store.remove_policy(PolicyName(*place))
            case "ClusterNetworkPolicy":
                self.store.remove_policy(PolicyName(*place))

    def _labels(self) -> dict[str, str]:
        return {key: self._random.choice(VALUES) for key in KEYS if self._random.random() < 0.5}

    def _name(self) -> str:
        return f"{self._random.choice(NAMESPACES)}/{self._random.choice(NAMES)}"

    def _pod(self) -> Document:
        # Few addresses, so that pods fight over them.
        number = self._random.randint(1, 12)
        return pod(
            self._name(),
            f"10.0.0.{number}",
            *([f"fd00::{number}"] if self._random.random() < 0.5 else []),
            labels=self._labels(),
            node=self._random.choice(("node-1", "node-2")),
            phase=self._random.choice(("Running", "Running", "Pending", "Succeeded")),
            created=f"2026-01-0{self._random.randint(1, 9)}T00:00:00Z",
            ports={self._random.choice(("http", "dns/UDP")): self._random.randint(80, 83)},
            uid=str(self._random.randint(1, 99)),
        )

    def _namespace(self) -> Document:
        return namespace(self._random.choice(NAMESPACES), **self._labels())

    def _node(self) -> Document:
        number = self._random.randint(1, 3)
        return node(f"node-{number}", f"192.168.0.{self._random.randint(1, 3)}", labels=self._labels())

    def _selector(self) -> Document:
        expressions: list[Document] = []
        for key in KEYS:
            operator = self._random.choice(("In", "NotIn", "Exists", "DoesNotExist", None, None))
            if operator:
                values = {"values": [self._random.choice(VALUES)]} if "In" in operator else {}
                expressions.append({"key": key, "operator": operator, **values})
        return {"matchExpressions": expressions}

    def _policy(self) -> Document:
        peers: list[Document] = [
            {"podSelector": self._selector()},
            {"namespaceSelector": self._selector()},
            {"podSelector": self._selector(), "namespaceSelector": self._selector()},
            {"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.2/31", "10.0.0.8/31"]}},
        ]
        ports: list[Document] = [{"port": 80}, {"port": 82}, {"port": "http"}, {"port": "dns", "protocol": "UDP"}]
        rules = [{"from": self._some(peers), "ports": self._some(ports)} for _ in range(self._random.randint(0, 2))]
        result = policy(
            self._name(),
            ingress=rules,
            egress=[{"to": rule["from"], "ports": rule["ports"]} for rule in rules],
            policyTypes=self._random.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"])),
        )
        result["spec"]["podSelector"] = self._selector()
        return result

    def _cluster_policy(self) -> Document:
        peers: list[Document] = [
            {"namespaces": self._selector()},
            {"pods": {"podSelector": self._selector(), "namespaceSelector": self._selector()}},
        ]
        actions = ("Accept", "Deny", "Pass")
        return cluster_policy(
            self._random.choice(NAMES),
            self._random.choice(("Admin", "Baseline")),
            self._random.randint(0, 3),
            {"pods": {"podSelector": self._selector(), "namespaceSelector": self._selector()}},
            ingress=[
                {"action": self._random.choice(actions), "from": self._random.sample(peers, 1)}
                for _ in range(self._random.randint(0, 3))
            ],
            egress=[
                {
                    "action": self._random.choice(actions),
                    "to": [*self._random.sample(peers, 1), {"nodes": self._selector()}],
                    **({"protocols": [{"destinationNamedPort": "http"}]} if self._random.random() < 0.3 else {}),
                }
                for _ in range(self._random.randint(0, 2))
            ],
        )

    def _some(self, items: list[Any]) -> list[Any]:
        return self._random.sample(items, self._random.randint(0, len(items)))


def key_of(document: Document) -> str:
    return f"{document['metadata'].get('namespace', '')}/{document['metadata']['name']}"


def compilers_of_all() -> dict[Any, TableCompiler | ChainCompiler]:
    """Every way of compiling: nftables, iptables with ipsets and without, both families."""
    found: dict[Any, TableCompiler | ChainCompiler] = {}
    for family in Family:
        found["nftables", family] = TableCompiler(family, EVERYTHING)
        for has_ipsets in (True, False):
            found["iptables", family, has_ipsets] = ChainCompiler(
                family, EVERYTHING, RANGES[family], has_ipsets=has_ipsets
            )
    return found


def told(compiler: TableCompiler | ChainCompiler, facts: Mapping[Id, Any], family: Family) -> Mapping[Any, Any]:
    """What a compiler says of facts: of each entry what it was and what it is."""
    if isinstance(compiler, ChainCompiler):
        return compiler.update(facts)
    delta = compiler.update(facts, RANGES[family])
    return {
        **{key: (None, value) for key, value in delta.added.items()},
        **delta.changed,
        **{key: (value, None) for key, value in delta.removed.items()},
    }


@pytest.mark.part(0)
@pytest.mark.parametrize("seed", range(60))
def test_changes_come_to_the_same_as_the_end_alone(seed: int) -> None:
    cluster = Cluster(seed)
    compilers = compilers_of_all()
    shadows: dict[Any, dict[Any, Any]] = {key: {} for key in compilers}
    for step in range(150):
        cluster.step()
        if step % 3:
            continue
        facts = cluster.store.take()
        for name, compiler in compilers.items():
            for key, change in told(compiler, facts, name[1]).items():
                assert shadows[name].get(key) == change[0]
                shadows[name][key] = change[1]
        if step % 30 == 0:
            anew = store_of(cluster.documents.values(), "node-1").take()
            for name, fresh in compilers_of_all().items():
                told(fresh, anew, name[1])
                assert compilers[name].entries == fresh.entries
                assert {key: value for key, value in shadows[name].items() if value is not None} == fresh.entries


@pytest.mark.parametrize("seed", range(5))
def test_what_is_told_does_not_depend_on_the_order(seed: int) -> None:
    cluster = Cluster(seed)
    for _ in range(100):
        cluster.step()
    documents = list(cluster.documents.values())
    expected = store_of(documents, "node-1").take()
    for _ in range(3):
        random.Random(seed).shuffle(documents)
        assert store_of(documents, "node-1").take() == expected


@pytest.mark.parametrize("seed", range(5))
def test_at_the_end_nothing_is_left(seed: int) -> None:
    cluster = Cluster(seed)
    for _ in range(100):
        cluster.step()
    compiler = TableCompiler(Family.IPV4, EVERYTHING)
    compiler.update(cluster.store.take(), ())
    for document in list(cluster.documents.values()):
        cluster._remove(document)
    compiler.update(cluster.store.take(), ())
    assert compiler.entries == {}
    assert compiler._texts == {}
    remaining = vars(cluster.store)
    for name in ("policies", "_namespaces", "_nodes", "_selected", "_port_groups", "_port_users"):
        assert not remaining[name], name
    assert not remaining["_classes_with"]
    assert not remaining["_index"]._by_namespace


# ---- little is told ----


def membership_of(facts: Mapping[Id, Any]) -> Membership:
    return next(fact for fact in facts.values() if isinstance(fact, Membership))


@pytest.fixture
def store() -> Store:
    found = store_of(
        [
            *(pod(f"a/p{number}", f"10.0.0.{number}", labels={"app": "web"}) for number in range(1, 50)),
            policy("a/web", {"app": "web"}, ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]),
        ],
        "node-1",
    )
    found.take()
    return found


def test_a_pod_is_its_elements_and_no_chain(store: Store) -> None:
    for item in decode([pod("a/new", "10.0.1.1", labels={"app": "web", "pod-template-hash": "1"})]):
        store.put(item)
    facts = store.take()
    assert sum(len(addresses) for addresses in membership_of(facts).selected.values()) == 1
    assert [type(fact) for fact in facts if not isinstance(fact, Members)] == [LocalPod]
    for item in decode([pod("a/new", "10.0.1.1", labels={"app": "web", "pod-template-hash": "2"})]):
        store.put(item)
    assert store.take() == {}


def test_a_pod_of_another_node_is_one_element(store: Store) -> None:
    for item in decode([pod("a/new", "10.0.1.1", labels={"app": "web"}, node="node-2")]):
        store.put(item)
    facts = store.take()
    assert {type(fact) for fact in facts} == {Members}
    assert list(membership_of(facts).selected.values()) == [{bytes((10, 0, 1, 1)): True}]


def test_equal_selectors_are_one_set() -> None:
    one = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "a"}}, "podSelector": {}}
    two: Document = {"podSelector": {"matchExpressions": []}}
    three = {
        "namespaceSelector": {
            "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "a"]}]
        }
    }
    documents = [policy(f"a/{number}", {}, ingress=[{"from": [peer]}]) for number, peer in enumerate((one, two, three))]
    facts = store_of(documents, "node-1").take()
    assert len([fact for fact in facts if isinstance(fact, PeerSet)]) == 1


def test_a_policy_that_changes_leaves_what_it_keeps(store: Store) -> None:
    compiler = TableCompiler(Family.IPV4, PolicySettings())
    changed = policy(
        "a/web",
        {"app": "web"},
        ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 80}]}],
    )
    for item in decode([changed]):
        store.put(item)
    facts = store.take()
    assert [str(fact.policy) for fact in facts] == ["NetworkPolicy a/web"]  # type: ignore[union-attr]
    delta = compiler.update(facts, ())
    assert all(key[0].is_chains for key in delta.added)


def test_addresses_that_a_pod_loses_are_told(store: Store) -> None:
    assert store.take_lost() == []
    store.remove_pod("a", "p1")
    for item in decode([pod("a/p2", "10.0.0.2", labels={"app": "db"}), pod("a/p3", "10.0.0.3", uid="another")]):
        store.put(item)
    assert store.take_lost() == [bytes((10, 0, 0, 1)), bytes((10, 0, 0, 3))]
    isolation = store.isolation(bytes((10, 0, 0, 4)))
    assert isolation is not None
    assert isolation.of(Direction.EGRESS) is None


def test_the_ranges_of_pods_stay_while_the_own_node_is_made_anew() -> None:
    first, anew, later, other = decode(
        [
            node("node-1", "192.168.0.1", cidrs=("10.0.0.0/24", "fd00::/64")),
            node("node-1", "192.168.0.1"),
            node("node-1", "192.168.0.1", cidrs=("10.0.1.0/24",)),
            node("node-2", "192.168.0.2", cidrs=("10.0.2.0/24",)),
        ]
    )
    known = Store("node-1")
    for step, expected in (
        (anew, ((), ())),
        (first, (("10.0.0.0/24",), ("fd00::/64",))),
        (other, (("10.0.0.0/24",), ("fd00::/64",))),
        (anew, (("10.0.0.0/24",), ("fd00::/64",))),
        (later, (("10.0.1.0/24",), ())),
    ):
        known.put(step)
        assert tuple(known.pod_ranges(family) for family in Family) == expected
        known.remove_node("node-1")
        assert tuple(known.pod_ranges(family) for family in Family) == expected


# ---- what a change costs ----


def cost_of_a_policy(pods: int) -> int:
    """Of one that asks for a label which one before it has asked for."""
    labelled = [pod(f"shop/{number}", f"10.0.1.{number + 1}", labels={"app": "web"}) for number in range(pods)]
    known = store_of([*labelled, policy("shop/first", {"app": "db"})], "node-1")
    (another,) = decode([policy("shop/second", {"app": "cache"})])
    return lines_run(lambda: known.put(another))


def test_a_policy_costs_nothing_for_each_pod_of_its_namespace() -> None:
    assert cost_of_a_policy(pods=200) == cost_of_a_policy(pods=20)


def cost_of_a_node(policies: int) -> int:
    known = store_of([policy(f"shop/{number}", {"app": str(number)}) for number in range(policies)], "node-1")
    (here,) = decode([node("node-1", "192.168.0.1")])
    return lines_run(lambda: known.put(here))


def test_a_node_costs_nothing_for_each_policy() -> None:
    assert cost_of_a_node(policies=200) == cost_of_a_node(policies=20)
