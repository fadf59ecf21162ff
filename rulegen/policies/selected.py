"""A selector in use: who uses it, and what it selects at the moment. The store keeps it so."""

from __future__ import annotations

from collections import Counter

from rulegen.policies.model import Address, Direction, PolicyName
from rulegen.policies.names import digest
from rulegen.policies.pods import PodClass
from rulegen.policies.selectors import (
    IndexKey,
    Labels,
    Requirements,
    Selector,
    Selects,
    fulfils,
    index_keys,
    keys_of_labels,
)


def selector_id(selector: Selector) -> str:
    """Names a selector by what it means: `pods-` or `nodes-` and a digest."""
    return f"{selector.of.value}-{digest((_plain(selector.namespaces), _plain(selector.labels)))}"


def _plain(requirements: Requirements) -> list[tuple[str, ...]]:
    return [(item.key, item.operator.value, *item.values) for item in requirements]


class Selected:
    """One selector with its users and what it selects.

    `peers`: policies in whose rules it stands; only with them its members are told one by one. `subjects`: policies
    that it is the subject of. `classes`: of pods. `nodes`: how many nodes have an address.
    """

    __slots__ = ("classes", "id", "nodes", "peers", "selector", "subjects")

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.id = selector_id(selector)
        self.peers: set[tuple[PolicyName, Direction]] = set()
        self.subjects: set[PolicyName] = set()
        self.classes: set[PodClass] = set()
        self.nodes: Counter[Address] = Counter()

    @property
    def is_used(self) -> bool:
        """Whether a policy needs it."""
        return bool(self.peers or self.subjects)

    def addresses(self) -> list[Address]:
        """All that it selects now."""
        if self.selector.of is Selects.NODES:
            return list(self.nodes)
        return [address for pod_class in self.classes for address in pod_class.addresses]


class SelectorIndex:
    """Selectors of pods, by labels that they ask for: a pod meets those only with which it has a label in common."""

    def __init__(self) -> None:
        self._by_namespace: dict[IndexKey, dict[IndexKey, dict[Selected, None]]] = {}

    def add(self, selected: Selected) -> None:
        """Takes a selector in."""
        for namespace_key in index_keys(selected.selector.namespaces):
            by_label = self._by_namespace.setdefault(namespace_key, {})
            for label_key in index_keys(selected.selector.labels):
                by_label.setdefault(label_key, {})[selected] = None

    def discard(self, selected: Selected) -> None:
        """Forgets a selector."""
        for namespace_key in index_keys(selected.selector.namespaces):
            by_label = self._by_namespace.get(namespace_key, {})
            for label_key in index_keys(selected.selector.labels):
                found = by_label.get(label_key, {})
                found.pop(selected, None)
                if not found:
                    by_label.pop(label_key, None)
            if not by_label:
                self._by_namespace.pop(namespace_key, None)

    def matching(self, namespace: Labels, labels: Labels) -> set[Selected]:
        """All selectors that match a pod with these labels in a namespace with those."""
        found = set()
        label_keys = list(keys_of_labels(labels))
        for namespace_key in keys_of_labels(namespace):
            by_label = self._by_namespace.get(namespace_key)
            if by_label is None:
                continue
            for label_key in label_keys:
                for selected in by_label.get(label_key, ()):
                    if fulfils(selected.selector.labels, labels) and fulfils(selected.selector.namespaces, namespace):
                        found.add(selected)
        return found
