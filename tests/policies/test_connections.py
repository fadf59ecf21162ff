"""Connections that policies do not let live: of changed policies where that is asked for, of addresses that moved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rulegen.policies.conntrack import PolicyConnections
from rulegen.policies.facts import PolicyFacts
from rulegen.policies.pods import packed
from rulegen.policies.store import Store
from tests.policies import cluster
from tests.policies import documents as d
from tests.policies.cluster import BY_NAME, FAMILIES, Party, Probe
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

    def __init__(self, lab: Lab, node: str, *, strict: bool) -> None:
        self._lab = lab
        self._node = node
        self.store: Store = store_of(cluster.objects(), node)
        self.connections = PolicyConnections(self.store, strict=strict)
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
