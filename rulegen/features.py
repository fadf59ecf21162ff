"""The one registry of features: names come in, features go out. What is off is not imported.

A feature is a folder of its own and a line here; see "To add a feature" in docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from rulegen.config import NodeConfiguration
from rulegen.errors import InputError, shown
from rulegen.kube.kinds import Resource, served_kinds
from rulegen.reconcile.feature import Feature, Need, WithConditions


class Entry(NamedTuple):
    """Where a feature's class is; it is called with the node's configuration.

    `extends`: the feature that takes in what this one makes (by `extend`), and has the rules; "" for one of its own.
    `asked_by`: a kind that others read as well, whose objects say themselves (`is_asked_for`) that they need this one.
    `driver`: of one that runs once for a cluster, in a run of its own, what keeps its entries; "": those of a node.
    `each_replica`: every replica of such a run keeps something of its own, as the nginx beside it; else one does, that
    which has a Lease.
    """

    module: str
    attribute: str
    extends: str = ""
    asked_by: str = ""
    driver: str = ""
    each_replica: bool = False


# In the order in which features come everywhere.
REGISTRY: dict[str, Entry] = {
    "services": Entry("rulegen.services.feature", "ServicesFeature"),
    "host-ports": Entry("rulegen.services.feature", "PodHostPorts", extends="services", asked_by="Pod"),
    "egress-masquerade": Entry("rulegen.egress.feature", "EgressMasquerade"),
    "network-policies": Entry("rulegen.policies.feature", "NetworkPolicies"),
    "records": Entry("rulegen.records.feature", "RecordsFeature", driver="dns"),
    "ingress": Entry("rulegen.ingress.feature", "IngressFeature", driver="nginx", each_replica=True),
}
# What is on whatever the configuration says, on a node.
ALWAYS = ("services",)


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The features that are on, where these are asked for. Raises InputError for one that there is not."""
    if unknown := dict.fromkeys(name for name in names if name not in REGISTRY):
        raise InputError(f"no feature {', '.join(map(shown, unknown))}; there is {', '.join(REGISTRY)}")
    alone = next((name for name in REGISTRY if name in names and REGISTRY[name].driver), "")
    if alone:
        for name in names:
            if name != alone:
                raise InputError(f"the feature {alone} runs once for a cluster, without {name}: run it by itself")
        return (alone,)
    return tuple(name for name in REGISTRY if name in ALWAYS or name in names)


def cluster_driver(names: Sequence[str]) -> str:
    """What keeps the entries of the feature that runs once for a cluster; "" on a node. Raises InputError."""
    return REGISTRY[chosen(names)[0]].driver


def each_replica_works(names: Sequence[str]) -> bool:
    """Whether all replicas keep what the features want, each something of its own. Raises InputError."""
    return REGISTRY[chosen(names)[0]].each_replica


def of_a_node() -> tuple[str, ...]:
    """The names of the features that have rules on nodes."""
    return tuple(name for name, entry in REGISTRY.items() if not entry.driver)


def make(names: Sequence[str], node: NodeConfiguration) -> list[Feature]:
    """The features that are on, where these are asked for; none has an object yet. Raises InputError."""
    made: dict[str, Any] = {}
    for name in chosen(names):
        item, extended = _class(name)(node), REGISTRY[name].extends
        if extended:
            made[extended].extend(item)
        else:
            made[name] = item
    return list(made.values())


def kinds_of(names: Sequence[str]) -> dict[type, Need]:
    """The kinds that the features read which are on, and what is needed of each. Raises InputError."""
    needs: dict[type, Need] = {}
    for name in chosen(names):
        for kind, need in _class(name).kinds.items():
            needs[kind] = need if kind not in needs else needs[kind].and_for(need)
    return needs


def written_kinds_of(names: Sequence[str]) -> list[type]:
    """The kinds whose objects' status the features that are on may write. Raises InputError."""
    return [kind for name in chosen(names) for kind in getattr(_class(name), "tells", ())]


def resources(names: Sequence[str], node_name: str) -> list[Resource]:
    """What the features that are on have listed and watched, for the node. Raises InputError."""
    needs = kinds_of(names)
    return [kind.resource(node_name if needs[kind.struct] is Need.OWN_NODE else "") for kind in served_kinds(needs)]


def feed(features: Sequence[Feature], objects: Iterable[Any]) -> None:
    """Hands objects to the features that read their kinds."""
    readers: dict[type, list[Feature]] = {}
    for item in objects:
        kind = type(item)
        if kind not in readers:
            readers[kind] = [feature for feature in features if kind in feature.kinds]
        for feature in readers[kind]:
            feature.put(item)


def check_conditions(features: Iterable[Feature]) -> None:
    """Raises InputError where a feature that has read all objects cannot begin."""
    lines = [feature.lacks for feature in features if isinstance(feature, WithConditions) and feature.lacks]
    if lines:
        raise InputError("\n".join(lines))


def passed_over(names: Sequence[str], objects: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    """Features that are off and that an object asks for which others read: kind, field, the feature's name."""
    read, on = {kind.__name__ for kind in kinds_of(names)}, chosen(names)
    wanted: dict[str, Any] = {
        name: _class(name)
        for name, entry in REGISTRY.items()
        if name not in on and entry.asked_by in read and not cluster_driver(names)
    }
    found: set[tuple[str, str, str]] = set()
    if wanted:
        for item in objects:
            for name, made in wanted.items():
                if type(item) in made.kinds and (field := made.is_asked_for(item)):
                    found.add((type(item).__name__, field, name))
    yield from sorted(found)


class _FeatureClass(Protocol):
    kinds: Mapping[type, Need]

    def __call__(self, node: NodeConfiguration, /) -> Feature: ...


def _class(name: str) -> _FeatureClass:
    entry = REGISTRY[name]
    found: _FeatureClass = getattr(import_module(entry.module), entry.attribute)
    return found
