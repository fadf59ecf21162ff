"""A cluster that changes: a seed comes in, its states one after the other go out, each with what has changed.

The nine places of the table stay, as addresses on their nodes; who has them, with which labels and ports, changes, and
so do namespaces and policies.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from tests.policies import catalogue, cluster, documents
from tests.policies.cluster import NAMES, NAMESPACES, PODS, Party
from tests.policies.documents import Document

Key: TypeAlias = tuple[str, str, str]


class Step(NamedTuple):
    """`words`: what has changed since the one before."""

    words: str
    objects: list[Document]


def key_of(document: Document) -> Key:
    """Kind, namespace and name."""
    metadata = document["metadata"]
    return document["kind"], metadata.get("namespace", ""), metadata["name"]


class ChangingCluster:
    """`objects` is the present state.

    `with_names`: policies may ask for ports by name. `only_pods`: nothing but pods changes.
    """

    def __init__(self, seed: int, *, with_names: bool = True, only_pods: bool = False) -> None:
        self._chance = random.Random(seed)
        self._changes = _OF_PODS if only_pods else _CHANGES
        self._with_names = with_names
        self._objects = {key_of(one): one for one in cluster.objects()}
        self._count = 0
        for _ in range(4):
            self._add_policy()
        self._add_cluster_policy()

    def steps(self, count: int) -> Iterator[Step]:
        """The state that it starts with, and `count` more."""
        yield Step("at first", self.objects)
        for _ in range(count):
            changes = [self._chance.choice(self._changes) for _ in range(self._chance.choice((1, 1, 1, 2, 5)))]
            yield Step("; ".join(change(self) for change in changes), self.objects)

    @property
    def objects(self) -> list[Document]:
        """In an order of their own each time."""
        found = list(self._objects.values())
        self._chance.shuffle(found)
        return found

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _put(self, document: Document) -> str:
        self._objects[key_of(document)] = document
        return "/".join(part for part in key_of(document) if part)

    def _of(self, kind: str) -> list[Document]:
        return [one for (its_kind, _, _), one in sorted(self._objects.items()) if its_kind == kind]

    def _any(self, kind: str) -> Document | None:
        found = self._of(kind)
        return copy.deepcopy(self._chance.choice(found)) if found else None

    # -- policies --

    def _add_policy(self) -> str:
        return f"{self._put(self._drawn(catalogue.random_policy, f'p-{self._number()}'))} added"

    def _add_cluster_policy(self) -> str:
        number = self._number()
        # Each has a priority of its own: which of two equal ones comes first is no question of these tests.
        priority = (number * 37) % 1001
        return f"{self._put(self._drawn(catalogue.random_cluster_policy, f'c-{number}', priority))} added"

    def _drawn(self, draw: Callable[..., Document], *arguments: Any) -> Document:
        while True:
            found = draw(self._chance, *arguments)
            if self._with_names or not catalogue.has_named_port(found):
                return found

    def _change_policy(self) -> str:
        old = self._any("NetworkPolicy")
        if old is None:
            return self._add_policy()
        old["spec"] = self._drawn(catalogue.random_policy, "any")["spec"]
        return f"{self._put(old)} changed"

    def _change_cluster_policy(self) -> str:
        old = self._any("ClusterNetworkPolicy")
        if old is None:
            return self._add_cluster_policy()
        priority = old["spec"]["priority"]
        old["spec"] = self._drawn(catalogue.random_cluster_policy, "any", priority)["spec"]
        return f"{self._put(old)} changed"

    def _remove_policy(self) -> str:
        old = self._any(self._chance.choice(("NetworkPolicy", "NetworkPolicy", "ClusterNetworkPolicy")))
        if old is None:
            return self._add_policy()
        del self._objects[key_of(old)]
        return f"{old['metadata']['name']} removed"

    # -- namespaces and pods --

    def _relabel_namespace(self) -> str:
        name = self._chance.choice(NAMESPACES)
        labels = self._chance.choice([*cluster.NAMESPACE_LABELS.values(), {}, {"env": "test", "ns": "w"}])
        return f"{self._put(documents.namespace(name, labels))} relabelled to {labels}"

    def _forget_namespace(self) -> str:
        name = self._chance.choice(NAMESPACES)
        known = self._objects.pop(("Namespace", "", name), None)
        return f"Namespace {name} gone" if known else self._relabel_namespace()

    def _holders(self, place: Party) -> list[Document]:
        """Pods with the address of one of the nine places, on the pods' network."""
        return [
            pod
            for pod in self._of("Pod")
            if pod["status"].get("podIP") == place.addresses.v4 and not pod["spec"].get("hostNetwork")
        ]

    def _relabel_pod(self) -> str:
        held = [pod for place in PODS for pod in self._holders(place)]
        pod = copy.deepcopy(self._chance.choice(held)) if held else None
        if pod is None:
            return self._new_owner()
        labels = dict(self._chance.choice([*cluster.POD_LABELS.values(), {}, {"tier": "back", "pod": "a"}]))
        pod["metadata"]["labels"] = labels
        return f"{self._put(pod)} relabelled to {labels}"

    def _remove_pod(self) -> str:
        held = self._holders(self._chance.choice(PODS))
        for pod in held:
            del self._objects[key_of(pod)]
        return f"{', '.join(pod['metadata']['name'] for pod in held)} gone" if held else self._new_owner()

    def _end_pod(self) -> str:
        """It terminates; one that does already has finished."""
        held = self._holders(self._chance.choice(PODS))
        if not held:
            return self._new_owner()
        pod = copy.deepcopy(self._chance.choice(held))
        if "deletionTimestamp" in pod["metadata"]:
            pod["status"]["phase"] = self._chance.choice(("Succeeded", "Failed"))
            return f"{self._put(pod)} finished"
        pod["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
        return f"{self._put(pod)} terminating"

    def _new_owner(self) -> str:
        """A newer pod at one of the places; those that had it terminate, or are gone."""
        place, number = self._chance.choice(PODS), self._number()
        for old in map(copy.deepcopy, self._holders(place)):
            if self._chance.random() < 0.5:
                del self._objects[key_of(old)]
            else:
                old["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
                self._put(old)
        role = self._chance.choice(NAMES)
        pod = documents.pod(
            self._chance.choice(NAMESPACES),
            f"{role}-{number}",
            place.addresses,
            place.node,
            cluster.POD_LABELS[role],
            cluster.POD_PORTS[self._chance.choice(NAMES)],
            created=f"2026-02-01T{number // 60:02}:{number % 60:02}:00Z",
        )
        return f"{self._put(pod)} has the address of {place.name}"


_CHANGES: tuple[Callable[[ChangingCluster], str], ...] = (
    ChangingCluster._add_policy,
    ChangingCluster._add_cluster_policy,
    ChangingCluster._change_policy,
    ChangingCluster._change_policy,
    ChangingCluster._change_cluster_policy,
    ChangingCluster._remove_policy,
    ChangingCluster._relabel_namespace,
    ChangingCluster._forget_namespace,
    ChangingCluster._relabel_pod,
    ChangingCluster._relabel_pod,
    ChangingCluster._remove_pod,
    ChangingCluster._end_pod,
    ChangingCluster._new_owner,
    ChangingCluster._new_owner,
)
_OF_PODS: tuple[Callable[[ChangingCluster], str], ...] = (
    ChangingCluster._relabel_pod,
    ChangingCluster._remove_pod,
    ChangingCluster._end_pod,
    ChangingCluster._new_owner,
)
