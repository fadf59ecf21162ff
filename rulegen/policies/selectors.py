"""Label selectors in one canonical form, so that two policies that mean the same selector share one set.

In: requirements as somebody wrote them. Out: a `Selector`, whether it matches, and under which labels an index has to
keep it so that a pod finds it without a walk over all selectors. Pure; reads no objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple, TypeAlias

# The API server sets this label on every Namespace, and nobody can change it.
NAMESPACE_NAME = "kubernetes.io/metadata.name"

Labels: TypeAlias = Mapping[str, str]


class Operator(Enum):
    """What a requirement asks of one label; the values are the API's."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(NamedTuple):
    """One condition on one label. `values` are sorted and unique, and empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """As the API defines it: a label that is not there fulfils NotIn."""
        value = labels.get(self.key)
        if self.operator is Operator.IN:
            return value in self.values
        if self.operator is Operator.NOT_IN:
            return value not in self.values
        return (value is not None) is (self.operator is Operator.EXISTS)

    def __str__(self) -> str:
        """As `kubectl get --selector` takes it."""
        if self.operator is Operator.EXISTS:
            return self.key
        if self.operator is Operator.DOES_NOT_EXIST:
            return f"!{self.key}"
        if self.operator is Operator.IN and len(self.values) == 1:
            return f"{self.key}={self.values[0]}"
        word = "in" if self.operator is Operator.IN else "notin"
        return f"{self.key} {word} ({','.join(self.values)})"


Requirements: TypeAlias = tuple[Requirement, ...]


def requirement(key: str, operator: Operator, values: Iterable[str] = ()) -> Requirement:
    """A requirement in its canonical form."""
    return Requirement(key, operator, tuple(sorted(set(values))))


def all_of(requirements: Iterable[Requirement]) -> Requirements:
    """Requirements that must all be fulfilled, in their canonical order."""
    return tuple(sorted(set(requirements), key=lambda item: (item.key, item.operator.value, item.values)))


def in_namespace(name: str) -> Requirements:
    """What selects one namespace by its name."""
    return (Requirement(NAMESPACE_NAME, Operator.IN, (name,)),)


def fulfils(requirements: Requirements, labels: Labels) -> bool:
    """Whether labels fulfil all requirements; none is fulfilled by everything."""
    for item in requirements:  # noqa: SIM110 - called for each pod and selector, and twice as fast as a generator
        if not item.matches(labels):
            return False
    return True


class Selects(Enum):
    """Of what a selector chooses."""

    PODS = "pods"
    NODES = "nodes"


class Selector(NamedTuple):
    """Pods by their labels and their namespace's, or nodes by theirs (`namespaces` is empty then)."""

    of: Selects
    namespaces: Requirements
    labels: Requirements

    def __str__(self) -> str:
        """For people: `pods app=web in namespaces team=a`."""
        if self.of is Selects.NODES:
            return f"nodes {_text(self.labels)}" if self.labels else "all nodes"
        pods = f"pods {_text(self.labels)}" if self.labels else "all pods"
        if not self.namespaces:
            return pods
        only = self.namespaces[0]
        if self.namespaces == in_namespace(only.values[0] if only.values else ""):
            return f"{pods} in namespace {only.values[0]}"
        return f"{pods} in namespaces {_text(self.namespaces)}"


def _text(requirements: Requirements) -> str:
    return ",".join(map(str, requirements))


# ---- the index ----

# What an index keeps a selector under: a label with its value, a label with any value, or nothing.
IndexKey: TypeAlias = tuple[str, str] | str | None
# More values than this are found by the label alone.
_MAX_VALUES = 64


def index_keys(requirements: Requirements) -> list[IndexKey]:
    """The keys of which each one set of labels that fulfils the requirements has at least one."""
    chosen = [item for item in requirements if item.operator is Operator.IN]
    if chosen:
        narrowest = min(chosen, key=lambda item: (item.key != NAMESPACE_NAME, len(item.values)))
        if len(narrowest.values) <= _MAX_VALUES:
            return [(narrowest.key, value) for value in narrowest.values]
        return [narrowest.key]
    there = next((item.key for item in requirements if item.operator is Operator.EXISTS), None)
    return [there]


def keys_of_labels(labels: Labels) -> Iterator[IndexKey]:
    """The keys under which an index has all that labels may fulfil."""
    yield None
    for item in labels.items():
        yield item
        yield item[0]
