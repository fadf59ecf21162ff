"""Connections that policies do not let live: of changed policies where that is asked for, of addresses that moved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rulegen.config import PolicySettings
from rulegen.policies.conntrack import PolicyConnections
from rulegen.policies.facts import PolicyFacts
from rulegen.policies.pods import packed
from rulegen.policies.store import Store
from tests.policies import cluster
from tests.policies import documents as d
from tests.policies.cluster import BY_NAME, FAMILIES, NODE_ADDRESSES, Party, Probe
from tests.policies.decoding import decode
from tests.policies.documents import Document
from tests.policies.fixtures import lab_or_skip
from tests.policies.lab import NODES, Lab
from tests.policies.traffic import Connection, lost
from tests.policies.whole import filled, store_of

pytestmark = pytest.mark.kernel

A, B, C = BY_NAME["x/a"], BY_NAME["x/b"], BY_NAME["y/a"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


class Kept:
    """A node's store, and who ends connections for it."""

    def __init__(self, lab: Lab, node: str, *, strict: bool, node_input: bool = False) -> None:
        self._lab = lab
        self._node = node
        self.store: Store = store_of(cluster.objects(), node)
        self.connections = PolicyConnections(self.store, PolicySettings(strict=strict, node_input=node_input))
        self.connections.note(self._facts())
        self.end()

    def _facts(self) -> PolicyFacts:
        return PolicyFacts(self.store.take(), lost=tuple(self.store.take_lost()))

    def change(self, *objects: Document) -> None:
        filled(self.store, decode(objects))
        self.connections.note(self._facts())

    def end(self) -> int:
        with self._lab.entered(self._node):
            return self.connections.end().removed


def closed(party: Party) -> Document:
    return d.policy(party.name[0], "in", d.selector({"pod": party.name[2]}), policyTypes=["Ingress"])


def connected(lab: Lab, other: Party, family: int) -> None:
    assert lost(lab, Connection(Probe(A, other, family, "TCP", 80)).handshake()) == 0


@pytest.mark.parametrize("other", [B, C], ids=["one node", "two nodes"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strict", [False, True])
def test_strict_ends_what_is_forbidden_now(strict: bool, family: int, other: Party, lab: Lab) -> None:
    lab.forget_connections()
    nodes = {node: Kept(lab, node, strict=strict) for node in NODES}
    connected(lab, other, family)
    for kept in nodes.values():
        kept.change(closed(other))
    # The node of the pod that is isolated, and no other.
    assert sum(kept.connections.is_pending and kept.end() for kept in nodes.values()) == (1 if strict else 0)
    assert not any(kept.connections.is_pending for kept in nodes.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_only_theirs_end(family: int, lab: Lab) -> None:
    lab.forget_connections()
    kept = Kept(lab, NODES[0], strict=True)
    connected(lab, B, family)
    connected(lab, C, family)
    kept.change(closed(B))
    assert kept.end() == 1
    assert kept.end() == 0


@pytest.mark.parametrize("node_input", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_node_has_with_its_pods_is_as_little_asked_about_as_packets(
    family: int, node_input: bool, lab: Lab
) -> None:
    """Its probes, and what a pod has with the node's own services, which may be translated."""
    lab.forget_connections()
    kept = Kept(lab, NODES[0], strict=True, node_input=node_input)
    node = Party(NODES[0], NODE_ADDRESSES[NODES[0]], NODES[0])
    lab.sent([Probe(ends[0], ends[1], family, "UDP", 80) for ends in ((node, A), (A, node))])
    kept.change(d.policy("x", "none", {}, policyTypes=["Ingress", "Egress"]))
    assert kept.end() == (1 if node_input else 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_address_that_a_pod_loses_takes_its_connections_along(family: int, lab: Lab) -> None:
    lab.forget_connections()
    kept = Kept(lab, NODES[0], strict=False)
    connected(lab, B, family)
    assert not kept.connections.is_pending
    kept.store.remove_pod("x", "b")
    kept.change()
    assert kept.connections.is_pending
    assert packed(str(B.addresses.of(family))) in kept.connections._lost
    assert kept.end() == 1
    assert not kept.connections.is_pending


@pytest.mark.parametrize("begins", ["the old owner", "the other"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_owner_inherits_no_connection(family: int, begins: str, lab: Lab) -> None:
    """In one change, whoever began it; what others have with each other goes on, and so does what comes next."""
    lab.forget_connections()
    kept = Kept(lab, NODES[0], strict=False)
    ends = (B, A) if begins == "the old owner" else (A, B)
    old, others = (Connection(Probe(*pair, family, "TCP", 80)) for pair in (ends, (A, C)))
    assert lost(lab, old.handshake()) == 0
    assert lost(lab, others.handshake()) == 0
    kept.store.remove_pod("x", "b")
    heir = d.pod("y", "heir", B.addresses, NODES[0], {"pod": "heir"}, created="2026-03-01T00:00:00Z")
    kept.change(heir)
    assert kept.end() == 1
    assert not kept.connections.is_pending
    assert lost(lab, others.turn()) == 0
    assert lost(lab, Connection(Probe(*ends, family, "TCP", 81)).handshake()) == 0
    kept.change(heir)
    assert not kept.connections.is_pending


def test_of_two_with_one_address_the_newer_running_one_takes_the_connections(lab: Lab) -> None:
    """The older one terminates: the address is the newer one's from then on, and the older one's flows end."""
    lab.forget_connections()
    kept = Kept(lab, NODES[0], strict=False)
    connected(lab, B, 4)
    terminating = d.pod("x", "b", B.addresses, NODES[0], {"pod": "b"}, terminating=True)
    kept.change(terminating)
    # Alone it is still there.
    assert not kept.connections.is_pending
    kept.change(d.pod("x", "b-2", B.addresses, NODES[0], {"pod": "b"}, created="2026-03-01T00:00:00Z"))
    assert kept.end() == 1
