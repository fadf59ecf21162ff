"""The catalogue: policies and combinations of them, each with the cluster it stands in. Always the same, in one order.

Peers, ports, protocols, types, conflicts, named ports, ranges and tiers one by one and crossed; and combinations that a
seed draws from all of these.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from tests.policies import cluster
from tests.policies.cluster import BY_NAME, NODE_1, NODE_2, POD_CIDRS
from tests.policies.documents import (
    Document,
    block,
    cluster_policy,
    cluster_rule,
    named,
    namespaces,
    number,
    peer,
    pods,
    policy,
    port,
    port_range,
    rule,
    selector,
)

_RANDOM_NETWORK_POLICIES = 40
_RANDOM_TIERS = 40
_DIRECTIONS = ("ingress", "egress")


class Case(NamedTuple):
    """`policies`: of both kinds. `without`: `Kind/name` of objects of the cluster that are not there."""

    name: str
    policies: tuple[Document, ...]
    without: tuple[str, ...] = ()

    @property
    def is_of_tiers(self) -> bool:
        """Whether there is a ClusterNetworkPolicy."""
        return any(one["kind"] == "ClusterNetworkPolicy" for one in self.policies)

    def objects(self) -> list[Document]:
        """The whole cluster."""
        there = (one for one in cluster.objects() if f"{one['kind']}/{one['metadata']['name']}" not in self.without)
        return [*there, *self.policies]


@cache
def cases() -> tuple[Case, ...]:
    """All of them; no two have the same name or the same objects."""
    return (*_peers(), *_ports(), *_subjects(), *_types(), *_unions(), *_blocks(), *_traps(), *_tiers(), *_drawn())


# ---- NetworkPolicy: peers, ports, subjects ----

A, B, C = (selector({"pod": name}) for name in cluster.NAMES)
X, Y, Z = (selector({"ns": name}) for name in cluster.NAMESPACES)
_ALL_V4, _ALL_V6 = "0.0.0.0/0", "::/0"


def _address_block(name: str, family: int, *exceptions: str) -> Document:
    return block(BY_NAME[name].addresses.of(family) + ("/32" if family == 4 else "/128"), *exceptions)


def _single(name: str, family: int) -> str:
    return str(_address_block(name, family)["ipBlock"]["cidr"])


PEERS: Mapping[str, Sequence[Document] | None] = {
    "missing": None,
    "empty list": [],
    "pods of the namespace": [peer({})],
    "pods a of the namespace": [peer(A)],
    "pods a or b of the namespace": [peer(A), peer(B)],
    "pods that are none": [peer(selector({"pod": "nobody"}))],
    "pods by two labels": [peer(selector({"pod": "a", "tier": "front"}))],
    "pods by two labels that none has": [peer(selector({"pod": "a", "tier": "back"}))],
    "pods in": [peer(selector(None, ("pod", "In", ["a", "c"])), {})],
    "pods not in": [peer(selector(None, ("pod", "NotIn", ["b"])), {})],
    "pods not in, some without the label": [peer(selector(None, ("tier", "NotIn", ["front"])), {})],
    "pods with the label": [peer(selector(None, ("tier", "Exists", [])), {})],
    "pods without the label": [peer(selector(None, ("tier", "DoesNotExist", [])), {})],
    "pods by label and expressions": [
        peer(selector({"tier": "front"}, ("pod", "In", ["a", "b"]), ("pod", "Exists", [])), {})
    ],
    "pods by contradicting expressions": [peer(selector(None, ("pod", "In", ["a"]), ("pod", "NotIn", ["a"])), {})],
    "pods by a label with a prefix": [peer(selector({"app.kubernetes.io/name": "shop"}), {})],
    "all namespaces": [peer(None, {})],
    "all namespaces, all pods": [peer({}, {})],
    "namespace x": [peer(None, X)],
    "namespaces x or z": [peer(None, X), peer(None, Z)],
    "namespaces by name": [peer(None, selector({"kubernetes.io/metadata.name": "y"}))],
    "namespaces by name in": [peer(None, selector(None, ("kubernetes.io/metadata.name", "In", ["x", "z"])))],
    "namespaces not in": [peer(None, selector(None, ("env", "NotIn", ["prod"])))],
    "namespaces with the label": [peer(None, selector(None, ("team", "Exists", [])))],
    "namespaces without the label": [peer(None, selector(None, ("team", "DoesNotExist", [])))],
    "namespaces by two labels": [peer(None, selector({"env": "prod", "team": "red"}))],
    "namespaces that are none": [peer(None, selector({"ns": "nowhere"}))],
    "pods a of namespace y": [peer(A, Y)],
    "pods a, or pods of namespace y": [peer(A), peer(None, Y)],
    "pods a of production": [peer(A, selector({"env": "prod"}))],
    "pods not a of namespaces but x": [
        peer(selector(None, ("pod", "NotIn", ["a"])), selector(None, ("ns", "NotIn", ["x"])))
    ],
    "block: pods of node-1": [block(cidr) for cidr in POD_CIDRS[NODE_1]],
    "block: pods of node-1, IPv4 alone": [block(POD_CIDRS[NODE_1].v4)],
    "block: pods of node-2 but one": [
        block(POD_CIDRS[NODE_2].v4, _single("x/c", 4)),
        block(POD_CIDRS[NODE_2].v6, _single("x/c", 6)),
    ],
    "block: everybody": [block(_ALL_V4), block(_ALL_V6)],
    "block: everybody but the pods": [block(_ALL_V4, "10.128.0.0/14"), block(_ALL_V6, "fd00:10:128::/48")],
    "block: outside, with a hole": [
        block("203.0.113.0/24", "203.0.113.64/26", "203.0.113.128/25"),
        block("2001:db8:9::/64", "2001:db8:9::40/122"),
    ],
    "block: outside, or pods a of namespace z": [block("203.0.113.0/24"), block("2001:db8:9::/64"), peer(A, Z)],
}

PORTS: Mapping[str, Sequence[Document] | None] = {
    "missing": None,
    "empty list": [],
    "TCP 80": [port(80)],
    "TCP 80 by default": [port(80, None)],
    "UDP 80": [port(80, "UDP")],
    "SCTP 81": [port(81, "SCTP")],
    "TCP": [port(None)],
    "TCP by default": [port(None, None)],
    "UDP or SCTP": [port(None, "UDP"), port(None, "SCTP")],
    "TCP 80, UDP 81": [port(80), port(81, "UDP")],
    "all by number": [port(number, protocol) for number in cluster.PORTS for protocol in cluster.PROTOCOLS],
    "another port": [port(8080)],
    "web-tcp": [port("web-tcp")],
    "web-udp": [port("web-udp", "UDP")],
    "web-sctp or alt-tcp": [port("web-sctp", "SCTP"), port("alt-tcp")],
    "odd, TCP": [port("odd")],
    "odd, each protocol": [port("odd", protocol) for protocol in cluster.PROTOCOLS],
    "a name of another protocol": [port("web-tcp", "UDP")],
    "a name that no pod has": [port("nothing")],
    "a name or a number": [port("web-tcp"), port(80)],
    "names and a number of another protocol": [port("alt-udp", "UDP"), port(81)],
    "TCP 80-81": [port(80, "TCP", 81)],
    "UDP 79-80": [port(79, "UDP", 80)],
    "SCTP 81-65535": [port(81, "SCTP", 65535)],
    "TCP 1-65535": [port(1, "TCP", 65535)],
    "TCP 80-80": [port(80, "TCP", 80)],
    "ranges that overlap": [port(70, "TCP", 80), port(75), port(72, "TCP", 90), port(81, "TCP")],
    "ranges that touch": [port(1, "UDP", 79), port(80, "UDP", 80), port(82, "UDP", 100)],
    "ranges beside": [port(82, "TCP", 100), port(1, "UDP", 79)],
    "a range and a name": [port(81, "TCP", 90), port("web-udp", "UDP"), port("odd", "UDP")],
}

SUBJECTS: Mapping[str, Document] = {
    "all pods": {},
    "pods a": A,
    "pods not a": selector(None, ("pod", "NotIn", ["a"])),
    "pods in": selector(None, ("pod", "In", ["b", "c"])),
    "pods with the label": selector(None, ("tier", "Exists", [])),
    "pods without the label": selector(None, ("tier", "DoesNotExist", [])),
    "pods that are none": selector({"pod": "nobody"}),
    "pods by label and expression": selector({"pod": "c"}, ("tier", "DoesNotExist", [])),
}


def _towards(direction: str, peers: Sequence[Document] | None, ports: Sequence[Document] | None = None) -> Document:
    """`spec` with one rule."""
    return {"policyTypes": [direction.title()], direction: [rule(peers, ports, to=direction == "egress")]}


def _peers() -> Iterator[Case]:
    """All peers both ways, alone and with ports that go round."""
    names = list(PORTS)
    for index, (name, peers) in enumerate(PEERS.items()):
        for direction in _DIRECTIONS:
            yield Case(f"{direction}, peers {name}", (policy("x", "one", {}, **_towards(direction, peers)),))
        ports = names[2 + index * 7 % (len(names) - 2)]
        direction = _DIRECTIONS[index % 2]
        spec = _towards(direction, peers, PORTS[ports])
        yield Case(f"{direction}, peers {name}, ports {ports}", (policy("y", "one", B, **spec),))


def _ports() -> Iterator[Case]:
    for name, ports in PORTS.items():
        for direction in _DIRECTIONS:
            spec = _towards(direction, None, ports)
            yield Case(f"{direction}, ports {name}", (policy("y", "one", {}, **spec),))
        spec = _towards("ingress", [peer({}, Z)], ports) | _towards("egress", [peer(A, {})], ports)
        spec["policyTypes"] = ["Ingress", "Egress"]
        yield Case(f"both directions, peers, ports {name}", (policy("z", "one", {}, **spec),))


def _subjects() -> Iterator[Case]:
    for name, subject in SUBJECTS.items():
        for direction in _DIRECTIONS:
            spec = _towards(direction, [peer(B, {})])
            yield Case(f"{direction}, subject {name}", (policy("z", "one", subject, **spec),))


# ---- policyTypes, unions, blocks, what is often got wrong ----


def _types() -> Iterator[Case]:
    ingress, egress = rule([peer(A)], [port(80)]), rule([peer(B, {})], [port(81)], to=True)
    rules: dict[str, Document] = {
        "no rules": {},
        "empty ingress": {"ingress": []},
        "empty egress": {"egress": []},
        "both empty": {"ingress": [], "egress": []},
        "ingress": {"ingress": [ingress]},
        "egress": {"egress": [egress]},
        "both": {"ingress": [ingress], "egress": [egress]},
        "ingress for all": {"ingress": [{}]},
        "egress to all": {"egress": [{}]},
        "all both ways": {"ingress": [{}], "egress": [{}]},
    }
    types: dict[str, Document] = {
        "by default": {},
        "Ingress": {"policyTypes": ["Ingress"]},
        "Egress": {"policyTypes": ["Egress"]},
        "Ingress and Egress": {"policyTypes": ["Ingress", "Egress"]},
    }
    for rules_name, some in rules.items():
        for types_name, stated in types.items():
            yield Case(f"types {types_name}, {rules_name}", (policy("x", "one", {}, **some, **stated),))


def _union(name: str, *policies: tuple[str, Document, Document], without: Sequence[str] = ()) -> Case:
    """Of namespace, subject and spec of each."""
    found = (policy(namespace, f"p-{index}", pods, **spec) for index, (namespace, pods, spec) in enumerate(policies))
    return Case(name, tuple(found), tuple(without))


def _unions() -> Iterator[Case]:
    deny: Document = {"policyTypes": ["Ingress", "Egress"]}
    yield _union("deny and allow one", ("x", {}, deny), ("x", {}, _towards("ingress", [peer(None, Y)])))
    yield _union("deny and allow all", ("x", {}, deny), ("x", A, {"ingress": [{}], "egress": [{}]}))
    yield _union("two that allow different peers", *(("y", {}, _towards("ingress", [peer(p, {})])) for p in (A, B)))
    yield _union(
        "two that allow different ports", *(("y", {}, _towards("ingress", None, [port(number)])) for number in (80, 81))
    )
    yield _union(
        "peer of one and port of the other are no union",
        ("y", {}, _towards("ingress", [peer(A, X)], [port(80)])),
        ("y", {}, _towards("ingress", [peer(B, X)], [port(81, "UDP")])),
    )
    yield _union(
        "two rules of one policy do not mix",
        ("y", {}, {"ingress": [rule([peer(A, X)], [port(80)]), rule([peer(B, X)], [port(81, "UDP")])]}),
    )
    yield _union("everything denied everywhere", *((name, {}, deny) for name in cluster.NAMESPACES))
    yield _union(
        "everything denied, one way opened at both ends",
        *((name, {}, deny) for name in cluster.NAMESPACES),
        ("x", A, _towards("egress", [peer(B, Y)], [port(80)])),
        ("y", B, _towards("ingress", [peer(A, X)], [port(80)])),
    )
    yield _union(
        "a way opened at the source alone", ("y", {}, deny), ("x", {}, _towards("egress", [peer(B, Y)], [port(80)]))
    )
    yield _union(
        "a way opened at the destination alone",
        ("x", {}, deny),
        ("y", {}, _towards("ingress", [peer(None, X)], [port(80)])),
    )
    yield _union(
        "ports of the ends do not meet",
        ("x", {}, _towards("egress", None, [port(80)])),
        ("y", {}, _towards("ingress", None, [port(81), port(80, "UDP")])),
    )
    yield _union(
        "each pod another combination",
        ("x", {}, _towards("ingress", [peer({})])),
        ("x", A, _towards("ingress", [peer(None, Y)], [port("web-tcp")])),
        ("x", selector(None, ("pod", "In", ["a", "b"])), _towards("egress", [peer(A, {})])),
        ("x", selector(None, ("tier", "DoesNotExist", [])), deny),
        ("y", B, _towards("ingress", [peer(B, {})], [port(81, "SCTP")])),
    )
    yield _union(
        "the same name in two namespaces", ("x", {}, _towards("ingress", [peer(A)])), ("y", {}, _towards("egress", []))
    )
    same = _towards("ingress", [peer(A, {})], [port(80)])
    yield _union("two that are the same", ("x", {}, same), ("x", {}, same))


def _blocks() -> Iterator[Case]:
    """Blocks whose ranges overlap, touch and contain each other; `except` holds for its own peer only."""
    x_a, y_b = _single("x/a", 4), _single("y/b", 4)
    inside, beside = block("10.128.0.0/24", x_a, y_b), block("10.128.0.0/24", "10.128.0.0/25")
    combinations: dict[str, Sequence[Document]] = {
        "excepted here, named there": [inside, _address_block("x/a", 4)],
        "excepted here, selected there": [inside, peer(A, X)],
        "excepted twice, in ranges that contain each other": [
            block("10.128.0.0/16", "10.128.0.0/25", "10.128.0.0/24", x_a)
        ],
        "two that except each other's": [
            block("10.128.0.0/24", "10.128.0.0/28"),
            block("10.128.0.0/24", "10.128.0.16/28", "10.128.0.32/28"),
        ],
        "blocks that touch": [block("10.128.0.0/28"), block("10.128.0.16/28"), block("10.128.1.0/25")],
        "blocks that contain each other": [block("10.128.0.0/15"), block("10.128.0.0/24"), block(x_a), beside],
        "all but the block itself": [block("10.128.0.0/24", "10.128.0.0/24")],
        "half and half": [block("0.0.0.0/1"), block("128.0.0.0/1"), block("::/1"), block("8000::/1")],
        "IPv6 with exceptions": [block("fd00:10:128::/48", _single("x/a", 6), "fd00:10:128:1::/64")],
        "host bits set": [block("10.128.0.77/24"), block("fd00:10:128::77/64")],
    }
    for name, peers in combinations.items():
        for direction in _DIRECTIONS:
            yield Case(f"{direction}, {name}", (policy("y", "one", {}, **_towards(direction, peers, [port(80)])),))


def _traps() -> Iterator[Case]:
    deny: Document = {"policyTypes": ["Ingress", "Egress"]}
    nobody = ("Namespace/x", "Namespace/y", "Namespace/z")
    by_name = selector({"kubernetes.io/metadata.name": "x"})
    yield _union(
        "metadata.name without documents", ("z", {}, _towards("ingress", [peer(None, by_name)])), without=nobody
    )
    yield _union("labels of no document", ("z", {}, _towards("ingress", [peer(None, X)])), without=("Namespace/x",))
    yield _union(
        "no label without a document",
        ("z", {}, _towards("egress", [peer(None, selector(None, ("env", "DoesNotExist", [])))])),
        without=("Namespace/y",),
    )
    yield _union("the terminating pod is a subject", ("y", C, deny))
    yield _union("the terminating pod is a peer", ("x", {}, _towards("ingress", [peer(C, Y)])))
    yield _union("the finished pod is no subject", ("x", selector({"pod": "a"}), deny), ("y", B, deny))
    yield _union("an address's new owner counts", ("x", B, _towards("ingress", [peer(C)])), ("z", C, deny))
    yield Case("no policy at all", ())
    yield _union("a policy in a namespace without pods", ("elsewhere", {}, deny))


# ---- ClusterNetworkPolicy ----

CLUSTER_PEERS: dict[str, Sequence[Document]] = {
    "all namespaces": [namespaces()],
    "namespace x": [namespaces(X)],
    "namespaces by name": [namespaces(selector({"kubernetes.io/metadata.name": "y"}))],
    "namespaces not in": [namespaces(selector(None, ("env", "NotIn", ["prod"])))],
    "pods a": [pods(A)],
    "pods not a of production": [pods(selector(None, ("pod", "NotIn", ["a"])), selector({"env": "prod"}))],
    "pods b of y, or namespace z": [pods(B, Y), namespaces(Z)],
    "pods that are none": [pods(selector({"pod": "nobody"}))],
}
CLUSTER_DESTINATIONS: dict[str, Sequence[Document]] = {
    "networks: pods of node-1": [{"networks": list(POD_CIDRS[NODE_1])}],
    "networks: everybody": [{"networks": [_ALL_V4, _ALL_V6]}],
    "networks: outside, IPv4": [{"networks": ["203.0.113.0/26"]}],
    "networks that overlap": [{"networks": ["10.128.0.0/15", "10.128.0.0/24", "10.128.1.0/24", "fd00:10:128::/48"]}],
    "nodes": [{"nodes": {}}],
    "nodes of a role": [{"nodes": selector({"role": "edge"})}],
    "nodes of another role, or pods a": [{"nodes": selector({"role": "worker"})}, pods(A)],
}
PROTOCOLS: Mapping[str, Sequence[Document] | None] = {
    "missing": None,
    "tcp 80": [number("TCP", 80)],
    "udp 80-81": [port_range("UDP", 80, 81)],
    "sctp 1-80": [port_range("SCTP", 1, 80)],
    "tcp 81, udp 80": [number("TCP", 81), number("UDP", 80)],
    "ranges that overlap": [port_range("TCP", 70, 80), port_range("TCP", 75, 90), number("TCP", 80)],
    "odd": [named("odd")],
    "web-tcp or udp 81": [named("web-tcp"), number("UDP", 81)],
}
_ACTIONS = ("Accept", "Deny", "Pass")
_NAMESPACE_DENY = policy("y", "deny", {}, policyTypes=["Ingress", "Egress"])


def _cluster_spec(direction: str, *rules: tuple[str, Sequence[Document], Sequence[Document] | None]) -> Document:
    return {direction: [cluster_rule(*one, to=direction == "egress") for one in rules]}


def _tiers() -> Iterator[Case]:
    yield from _tier_peers()
    yield from _tier_actions()
    yield from _tier_orders()


def _tier_peers() -> Iterator[Case]:
    """Every peer and every kind of port, in rules that deny and in rules that accept before one that denies."""
    ports = list(PROTOCOLS)
    for index, (name, peers) in enumerate((CLUSTER_PEERS | CLUSTER_DESTINATIONS).items()):
        tier = ("Admin", "Baseline")[index % 2]
        for direction in _DIRECTIONS[name in CLUSTER_DESTINATIONS :]:
            some = ports[index % (len(ports) - 2)] if name in CLUSTER_DESTINATIONS else ports[index % len(ports)]
            denying = _cluster_spec(direction, ("Deny", peers, PROTOCOLS[some]))
            yield Case(
                f"{tier} {direction}, Deny {name}, {some}", (cluster_policy("one", tier, 5, namespaces(Y), **denying),)
            )
            accepting = _cluster_spec(direction, ("Accept", peers, None), ("Deny", [namespaces()], None))
            yield Case(
                f"{tier} {direction}, Accept {name}, Deny all",
                (cluster_policy("one", tier, 5, pods(selector(None, ("pod", "In", ["a", "b"]))), **accepting),),
            )
    for name, protocols in PROTOCOLS.items():
        for direction in _DIRECTIONS:
            rules = _cluster_spec(direction, ("Accept", [namespaces()], protocols), ("Deny", [namespaces()], None))
            yield Case(f"Admin {direction}, protocols {name}", (cluster_policy("one", "Admin", 1, pods(B), **rules),))


def _tier_actions() -> Iterator[Case]:
    """Every action in every tier, before and behind a NetworkPolicy."""
    for tier in ("Admin", "Baseline"):
        for action in _ACTIONS:
            for direction in _DIRECTIONS:
                rules = _cluster_spec(direction, (action, [pods(A)], None), ("Deny", [pods(B)], None))
                one = cluster_policy("one", tier, 5, namespaces(), **rules)
                yield Case(f"{tier} {direction}, {action}, with a NetworkPolicy", (one, _NAMESPACE_DENY))
                baseline = cluster_policy(
                    "two", "Baseline", 1, namespaces(), **_cluster_spec(direction, ("Deny", [pods(A)], None))
                )
                yield Case(f"{tier} {direction}, {action}, and Baseline denies", (one, baseline))


def _ordered(name: str, *policies: Document) -> Case:
    return Case(f"tiers: {name}", policies)


def _tier_orders() -> Iterator[Case]:
    everybody = [namespaces()]
    deny_all = {"ingress": [cluster_rule("Deny", everybody)], "egress": [cluster_rule("Deny", everybody, to=True)]}
    accept_80 = {"ingress": [cluster_rule("Accept", everybody, [number("TCP", 80)])]}
    pass_a = {"ingress": [cluster_rule("Pass", [pods(A)])]}
    yield _ordered(
        "a lower number comes first",
        cluster_policy("one", "Admin", 9, namespaces(), **deny_all),
        cluster_policy("two", "Admin", 3, namespaces(), ingress=[cluster_rule("Accept", [pods(A)])]),
    )
    yield _ordered(
        "by number, not by name",
        cluster_policy("b", "Admin", 10, namespaces(), **accept_80),
        cluster_policy("a", "Admin", 100, namespaces(), ingress=[cluster_rule("Deny", everybody)]),
        cluster_policy("c", "Admin", 1000, namespaces(), ingress=[cluster_rule("Accept", everybody)]),
        cluster_policy("d", "Admin", 0, namespaces(X), ingress=[cluster_rule("Deny", [pods(C)])]),
    )
    yield _ordered(
        "Pass skips the rest of the tier",
        cluster_policy("one", "Admin", 1, namespaces(), **pass_a),
        cluster_policy("two", "Admin", 2, namespaces(), ingress=[cluster_rule("Deny", everybody)]),
    )
    yield _ordered(
        "Pass in Baseline is what holds without any",
        cluster_policy("one", "Baseline", 1, namespaces(), **pass_a),
        cluster_policy("two", "Baseline", 2, namespaces(), ingress=[cluster_rule("Deny", everybody)]),
    )
    yield _ordered(
        "Pass through all tiers",
        cluster_policy("one", "Admin", 1, namespaces(), **pass_a),
        cluster_policy("two", "Admin", 2, namespaces(Z), ingress=[cluster_rule("Deny", everybody)]),
        policy("y", "one", B, ingress=[rule([peer(C, {})])]),
        cluster_policy("three", "Baseline", 0, pods(None, Y), ingress=[cluster_rule("Deny", [namespaces(X)])]),
    )
    yield _ordered(
        "Baseline is for pods that no NetworkPolicy isolates, in that direction",
        cluster_policy("one", "Baseline", 0, namespaces(), **deny_all),
        policy("x", "one", A, ingress=[rule([peer(B, {})])]),
        policy("y", "two", B, policyTypes=["Egress"], egress=[rule([peer(A, {})], to=True)]),
    )
    yield _ordered(
        "Accept at one end does not open the other",
        cluster_policy("one", "Admin", 0, pods(A), egress=[cluster_rule("Accept", everybody, to=True)]),
        *(policy(name, "deny", {}, policyTypes=["Ingress"]) for name in cluster.NAMESPACES),
    )
    yield _ordered(
        "within a policy the first rule",
        cluster_policy(
            "one",
            "Admin",
            5,
            namespaces(),
            ingress=[
                cluster_rule("Deny", [pods(C)], [number("TCP", 81)]),
                cluster_rule("Accept", [pods(C)]),
                cluster_rule("Pass", [namespaces(X)], [port_range("UDP", 80, 81)]),
                cluster_rule("Deny", everybody),
            ],
        ),
        policy("z", "one", {}, ingress=[rule([peer(A, {})])]),
    )
    yield _ordered(
        "rules for one direction leave the other alone",
        cluster_policy("one", "Admin", 5, namespaces(X), egress=[cluster_rule("Deny", everybody, to=True)]),
        cluster_policy("two", "Baseline", 5, namespaces(Y), ingress=[cluster_rule("Deny", everybody)]),
        cluster_policy("three", "Admin", 0, namespaces(Z)),
    )
    yield _ordered(
        "networks, but pods before them",
        cluster_policy(
            "one",
            "Admin",
            5,
            namespaces(X),
            egress=[
                cluster_rule("Pass", everybody, to=True),
                cluster_rule("Accept", [{"networks": ["203.0.113.9/32", "2001:db8:9::9/128"]}], to=True),
                cluster_rule("Deny", [{"networks": [_ALL_V4, _ALL_V6]}], to=True),
            ],
        ),
    )


# ---- combinations ----


def _drawn() -> Iterator[Case]:
    for seed in range(_RANDOM_NETWORK_POLICIES):
        chance = random.Random(seed)
        found = (random_policy(chance, f"p-{index}") for index in range(chance.randint(2, 6)))
        yield Case(f"drawn, {seed}", tuple(found))
    for seed in range(_RANDOM_TIERS):
        chance = random.Random(1000 + seed)
        found = (random_policy(chance, f"p-{index}") for index in range(chance.randint(0, 4)))
        priorities = chance.sample(range(1001), chance.randint(1, 6))
        theirs = (random_cluster_policy(chance, f"c-{priority}", priority) for priority in priorities)
        yield Case(f"drawn with tiers, {seed}", (*found, *theirs))


def random_policy(chance: random.Random, name: str) -> Document:
    """A NetworkPolicy in one of the namespaces, of what the catalogue is made of."""
    spec: Document = {}
    for direction in _DIRECTIONS:
        if chance.random() < 0.7:
            drawn = [
                (chance.choice(list(PEERS.values())), chance.choice(list(PORTS.values())))
                for _ in range(chance.choice((0, 1, 1, 2, 3)))
            ]
            spec[direction] = [rule(*one, to=direction == "egress") for one in drawn]
    types = chance.choice((None, ["Ingress"], ["Egress"], ["Ingress", "Egress"]))
    spec |= {} if types is None else {"policyTypes": types}
    return policy(chance.choice(cluster.NAMESPACES), name, chance.choice([{}, *SUBJECTS.values()]), **spec)


def random_cluster_policy(chance: random.Random, name: str, priority: int) -> Document:
    """A ClusterNetworkPolicy in one of its tiers."""
    spec: Document = {}
    for direction in _DIRECTIONS:
        peers = list((CLUSTER_PEERS if direction == "ingress" else CLUSTER_PEERS | CLUSTER_DESTINATIONS).values())
        drawn = [(chance.choice(_ACTIONS), chance.choice(peers)) for _ in range(chance.choice((0, 1, 2, 4)))]
        spec |= _cluster_spec(direction, *((*one, _random_protocols(chance, one[1])) for one in drawn))
    subject = chance.choice([*CLUSTER_PEERS.values()])[0]
    return cluster_policy(name, chance.choice(("Admin", "Baseline")), priority, subject, **spec)


def _random_protocols(chance: random.Random, peers: Sequence[Document]) -> Sequence[Document] | None:
    """The API allows no named port beside peers that are no pods."""
    drawn = chance.choice(list(PROTOCOLS.values()))
    only_pods = all("pods" in peer or "namespaces" in peer for peer in peers)
    return drawn if only_pods or not any("destinationNamedPort" in one for one in drawn or ()) else None


def has_named_port(value: Any) -> bool:
    """Whether a policy, or a part of one, asks for a port by its name."""
    if isinstance(value, dict):
        is_named = "destinationNamedPort" in value or isinstance(value.get("port"), str)
        return is_named or any(map(has_named_port, value.values()))
    return isinstance(value, list) and any(map(has_named_port, value))
