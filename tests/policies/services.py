"""Services and policies together: a node of the flows' world with pods, and what must become of a packet to a Service.

The oracle of the Services says where a packet may go and from whom; each way is then judged by the oracle of the
policies, after DNAT and before SNAT, as this node has to.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from tests.flows.checks import MISSED_ONE_IN, Flow
from tests.flows.oracle import Expected
from tests.flows.oracle import Oracle as ServiceOracle
from tests.flows.random_worlds import RandomWorld
from tests.flows.world import ELSEWHERE, HERE, World
from tests.lab import Fate, Lab, Outcome
from tests.lab.statistics import packets_to_see_all
from tests.policies import catalogue, cluster, documents
from tests.policies.documents import Document
from tests.policies.oracle import Flow as PolicyFlow
from tests.policies.oracle import Oracle

# Of the node; of others; of a node that no slice names. The flows' clusters use the first two of each as endpoints.
_PLACES = {
    HERE: ("10.128.0", "fd00:10:128:"),
    ELSEWHERE: ("10.128.1", "fd00:10:128:1:"),
    "": ("10.128.2", "fd00:10:128:2:"),
}
_NUMBERS = (1, 2, 9)
_POLICIES = 10
# Those of the flows' endpoints.
_TARGETS = range(9000, 9004)


class PolicyWorld:
    """A random cluster of the flows, with a pod at each address of its pods, and policies.

    `objects`: pods, namespaces, nodes and policies. `with_names`: policies may ask for ports by name.
    """

    def __init__(self, seed: int, *, with_names: bool = True) -> None:
        self._chance = random.Random(f"policies {seed}")
        self._flows = RandomWorld(seed)
        # Rules are for the families that the host has; what it has no rules for it does not send.
        self._flows.world = replace(self._flows.world, families=("IPv4", "IPv6"))
        self._with_names = with_names
        self._count = 0
        self._pods = [self._pod(node, number) for node in _PLACES for number in _NUMBERS]
        self._policies: list[Document] = []
        self._change_policies()

    @property
    def world(self) -> World:
        return self._flows.world

    @property
    def objects(self) -> list[Document]:
        nodes = [documents.node(HERE, self.world.internal_ips), documents.node(ELSEWHERE, ["192.0.2.11"])]
        return [*nodes, *cluster.namespace_documents(), *self._pods, *self._policies]

    def change(self) -> None:
        """Services and policies change, and some pods."""
        self._flows.change()
        self._change_policies()
        for index, (node, number) in enumerate((node, number) for node in _PLACES for number in _NUMBERS):
            if self._chance.random() < 0.2:
                self._pods[index] = self._pod(node, number)

    def flows(self, count: int) -> Iterator[Flow]:
        """Packets to Services, and from pod to pod."""
        return self._flows.flows(count)

    def _pod(self, node: str, number: int) -> Document:
        self._count += 1
        v4, v6 = _PLACES[node]
        role = self._chance.choice(cluster.NAMES)
        ports = [
            documents.container_port(self._chance.choice(_TARGETS), f"{name}-{protocol.lower()}", protocol)
            for name in ("web", "alt")
            for protocol in cluster.PROTOCOLS
        ]
        return documents.pod(
            self._chance.choice(cluster.NAMESPACES),
            f"{role}-{self._count}",
            [f"{v4}.{number}", f"{v6}:{number}"],
            node or "node-third",
            cluster.POD_LABELS[role],
            ports,
        )

    def _change_policies(self) -> None:
        chance = self._chance
        kept = [policy for policy in self._policies if chance.random() < 0.5]
        while len(kept) < _POLICIES:
            policy = self._policy()
            if self._with_names or not catalogue.has_named_port(policy):
                kept.append(policy)
        self._policies = kept

    def _policy(self) -> Document:
        chance = self._chance
        self._count += 1
        name = f"p-{self._count}"
        if chance.random() < 0.3:
            types = chance.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
            return documents.policy(self._namespace_here(), name, {}, policyTypes=types)
        if chance.random() < 0.7:
            return _retargeted(catalogue.random_policy(chance, name))
        return _retargeted(catalogue.random_cluster_policy(chance, name, self._count))

    def _namespace_here(self) -> str:
        """Of a pod of the node."""
        here = [pod["metadata"]["namespace"] for pod in self._pods if pod["spec"]["nodeName"] == HERE]
        return str(self._chance.choice(here))


def _retargeted(document: Document) -> Document:
    """The catalogue's ports are 80 and 81; those of the endpoints are others."""
    return {key: _moved(value) if key == "spec" else value for key, value in document.items()}


def _moved(value: object, key: str = "") -> object:
    if isinstance(value, dict):
        return {name: _moved(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_moved(inner, key) for inner in value]
    if isinstance(value, int) and key in ("port", "endPort", "number", "start", "end"):
        return value + 8921 if value < 1000 else value
    return value


class Judged(NamedTuple):
    """`expected`: as the Services have it. `denied`: the endpoints that it may not reach, each with a reason.

    `denied_itself`: why the packet as it came would be denied, "" when it would not.
    """

    expected: Expected
    denied: dict[str, str]
    denied_itself: str


class Judge:
    """The two oracles as one."""

    def __init__(self, world: World, objects: Sequence[Document]) -> None:
        self._world = world
        self._services = ServiceOracle(world)
        self._policies = Oracle(objects)

    def judge(self, flow: Flow) -> Judged:
        sent, expected = flow.sent, self._services.expect(flow.sent)
        denied = {}
        for share in expected.shares:
            address, _, port = share.rpartition(":")
            if why := self._denial(flow, address.strip("[]"), int(port)):
                denied[share] = why
        return Judged(expected, denied, self._denial(flow, sent.destination, sent.port))

    def _denial(self, flow: Flow, destination: str, port: int) -> str:
        """Why this node does not forward it, "" when it does; what is for the node itself is not forwarded."""
        sent = flow.sent
        if destination in self._world.own_addresses:
            return ""
        sender = "" if sent.interface else HERE
        verdict = self._policies.judge(PolicyFlow(sent.source, destination, sent.protocol, port, sender), HERE)
        return "" if verdict.allowed else verdict.why


def differences(lab: Lab, world: World, objects: Sequence[Document], flows: Sequence[Flow]) -> list[str]:
    """What the kernel does otherwise than the two oracles say, a sentence for each flow."""
    judge = Judge(world, objects)
    judged = [(flow, judge.judge(flow)) for flow in flows]
    outcomes = iter(lab.send(flow.packet for flow, found in judged for _ in range(_count(found.expected))))
    texts = []
    for flow, found in judged:
        problem = next(_problems(found, list(islice(outcomes, _count(found.expected)))), "")
        if problem:
            texts.append(f"{flow}: by {found.expected.why} {problem}")
    return texts


def _count(expected: Expected) -> int:
    """Packets enough to see every endpoint; a client with affinity sees but one."""
    if not expected.shares or expected.affinity:
        return 1
    return packets_to_see_all(expected.shares, one_in=MISSED_ONE_IN)


def _problems(judged: Judged, outcomes: Sequence[Outcome]) -> Iterator[str]:
    if judged.expected.fate == "delivered":
        yield from _problems_of_delivery(judged, outcomes)
        return
    fates = {Fate(judged.expected.fate)}
    if judged.denied_itself:
        # Whether the Service's refusal or the policy's comes first is nobody's promise.
        fates = {Fate.DROPPED} if fates == {Fate.PASSED} else fates | {Fate.DROPPED}
    for outcome in outcomes:
        if outcome.fate not in fates:
            words = " or ".join(sorted(fate.value for fate in fates))
            yield f"{words}, but {outcome.fate.value} {outcome.endpoint}; policies: {judged.denied_itself or 'allowed'}"


def _problems_of_delivery(judged: Judged, outcomes: Sequence[Outcome]) -> Iterator[str]:
    expected, denied = judged.expected, judged.denied
    allowed = set(expected.shares) - set(denied)
    seen = {outcome.endpoint for outcome in outcomes if outcome.fate is Fate.DELIVERED}
    dropped = any(outcome.fate is Fate.DROPPED for outcome in outcomes)
    if other := {outcome.fate for outcome in outcomes} - {Fate.DELIVERED, Fate.DROPPED}:
        yield f"delivered or denied, but {other}"
    if wrong := seen - allowed:
        yield f"to {sorted(allowed)}, but went to {sorted(wrong)}: {[denied.get(one, 'no endpoint') for one in wrong]}"
    if dropped and not denied:
        yield f"to {sorted(allowed)}, but some were dropped"
    for outcome in outcomes:
        if outcome.fate is Fate.DELIVERED and outcome.masqueraded is not (outcome.endpoint in expected.masqueraded):
            yield f"to {outcome.endpoint}, but masqueraded: {outcome.masqueraded}"
    if not expected.affinity and (missing := allowed - seen):
        yield f"never to {sorted(missing)}"
    if not expected.affinity and denied and not dropped:
        yield f"not to {denied}, but all were delivered"
