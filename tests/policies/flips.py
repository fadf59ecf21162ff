"""Pairs of clusters that agree about one packet, and differ in every part of how they come to it.

A node that changes from one to the other and back, as fast as it can, must treat that packet the same all the time.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

from tests.policies import cluster
from tests.policies import documents as d
from tests.policies.cluster import BY_NAME, NODE_1, Probe
from tests.policies.documents import Document, Labels

# Two pods of one node, so that it decides both directions.
SOURCE, DESTINATION = BY_NAME["x/a"], BY_NAME["x/b"]
PROBE = Probe(SOURCE, DESTINATION, 4, "TCP", 80)
_ON = {"on": "yes"}


class Flip(NamedTuple):
    """Two states, and whether the probe may pass in both; where not, the first forbids it at its destination alone."""

    states: tuple[list[Document], list[Document]]
    is_allowed: bool


def _pod(key: str, labels: Labels, *ports: Document) -> Document:
    made = copy.deepcopy(cluster.pod_document(key))
    made["metadata"]["labels"] = {"pod": made["metadata"]["name"], **labels}
    made["spec"]["containers"][0]["ports"] = list(ports)
    return made


def _state(source: Document, destination: Document, *policies: Document) -> list[Document]:
    others = [one for one in cluster.node_documents() if one["metadata"]["name"] == NODE_1]
    return [*others, *cluster.namespace_documents(), source, destination, *policies]


def _labelled(source: Labels, destination: Labels, *policies: Document) -> list[Document]:
    return _state(_pod("x/a", source), _pod("x/b", destination), *policies)


def _closed_by_label(direction: str) -> Document:
    return d.policy("x", f"no-{direction}", d.selector({f"no-{direction}": "yes"}), policyTypes=[direction.title()])


def _from(*labels: Labels) -> list[Document]:
    return [d.rule([d.peer(d.selector(one)) for one in labels])]


def _other_end() -> Flip:
    """The source's egress closes when the destination's ingress opens: labels of both pods change."""
    policies = _closed_by_label("egress"), _closed_by_label("ingress")
    return Flip(
        (
            _labelled({}, {"no-ingress": "yes"}, *policies),
            _labelled({"no-egress": "yes"}, {}, *policies),
        ),
        is_allowed=False,
    )


def _one_pod() -> Flip:
    """The same by one label of the source: it may send, and is nobody's peer, or the other way round."""
    policies = (
        _closed_by_label("egress"),
        d.policy("x", "in", d.selector({"pod": "b"}), ingress=_from({"no-egress": "yes"})),
    )
    return Flip((_labelled({}, {}, *policies), _labelled({"no-egress": "yes"}, {}, *policies)), is_allowed=False)


def _policies_alone() -> Flip:
    """The same by policies that come and go."""
    return Flip(
        (
            _labelled({}, {}, d.policy("x", "in", d.selector({"pod": "b"}))),
            _labelled({}, {}, d.policy("x", "out", d.selector({"pod": "a"}), policyTypes=["Egress"])),
        ),
        is_allowed=False,
    )


def _peer_and_port() -> Flip:
    """One rule asks for a peer and a port by its name: only one of them is right, now this, now that."""
    policy = d.policy("x", "in", d.selector({"pod": "b"}), ingress=[d.rule([d.peer(d.selector(_ON))], [d.port("web")])])
    web, other = d.container_port(80, "web"), d.container_port(81, "web")
    return Flip(
        (
            _state(_pod("x/a", _ON), _pod("x/b", {}, other), policy),
            _state(_pod("x/a", {}), _pod("x/b", {}, web), policy),
        ),
        is_allowed=False,
    )


def _denied_in_front() -> Flip:
    """Nobody accepts the source, or one rule does, and a ClusterNetworkPolicy denies it first."""
    denying = d.cluster_rule("Deny", [d.pods(d.selector(_ON))])
    policies = (
        d.cluster_policy("deny", "Admin", 1, d.namespaces(), ingress=[denying]),
        d.policy("x", "in", d.selector({"pod": "b"}), ingress=_from(_ON)),
    )
    return Flip((_labelled({}, {}, *policies), _labelled(_ON, {}, *policies)), is_allowed=False)


def _other_peer() -> Flip:
    """Two rules accept two kinds of peers; the source is of one or of the other."""
    policy = d.policy("x", "in", d.selector({"pod": "b"}), ingress=_from({"is": "this"}, {"is": "that"}))
    return Flip((_labelled({"is": "this"}, {}, policy), _labelled({"is": "that"}, {}, policy)), is_allowed=True)


def _other_policy() -> Flip:
    """Two policies, the same."""
    policies = [
        d.policy("x", f"in-{word}", d.selector({"pod": "b"}), ingress=_from({"is": word})) for word in ("this", "that")
    ]
    return Flip((_labelled({"is": "this"}, {}, *policies), _labelled({"is": "that"}, {}, *policies)), is_allowed=True)


def _rule_and_peer() -> Flip:
    """A policy asks for another label when the source gets it; another policy keeps both in use."""
    keeping = d.policy("y", "any", {}, ingress=_from({"is": "this"}, {"is": "that"}))

    def state(word: str) -> list[Document]:
        policy = d.policy("x", "in", d.selector({"pod": "b"}), ingress=_from({"is": word}))
        keeping_here = d.policy("x", "other", d.selector({"pod": "c"}), ingress=_from({"is": "this"}, {"is": "that"}))
        return _labelled({"is": word}, {}, policy, keeping, keeping_here)

    return Flip((state("this"), state("that")), is_allowed=True)


FLIPS = {
    "the other end": _other_end(),
    "one pod": _one_pod(),
    "policies": _policies_alone(),
    "peer and port": _peer_and_port(),
    "denied in front": _denied_in_front(),
    "another peer": _other_peer(),
    "another policy": _other_policy(),
    "rule and peer": _rule_and_peer(),
}
