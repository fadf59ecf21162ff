"""The one registry of features: names come in, features go out. What is off is not imported.

A feature is a folder of its own and a line here; see "To add a feature" in docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from rulegen.config import NodeConfiguration
from rulegen.errors import InputError, shown
from rulegen.reconcile.feature import Feature


class Entry(NamedTuple):
    """Where a feature's class is; it is called with the node's configuration."""

    module: str
    attribute: str


# In the order in which features come everywhere.
REGISTRY: dict[str, Entry] = {
    "services": Entry("rulegen.services.feature", "ServicesFeature"),
}
# What is on whatever the configuration says.
ALWAYS = ("services",)


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The features that are on, where these are asked for. Raises InputError for one that there is not."""
    for name in names:
        if name not in REGISTRY:
            raise InputError(f"no feature {shown(name)}; there is {', '.join(REGISTRY)}")
    return tuple(name for name in REGISTRY if name in ALWAYS or name in names)


def make(names: Sequence[str], node: NodeConfiguration) -> list[Feature]:
    """The features that are on, where these are asked for; none has an object yet. Raises InputError."""
    return [_class(name)(node) for name in chosen(names)]


def feed(features: Sequence[Feature], objects: Iterable[Any]) -> None:
    """Hands objects to the features that read their kinds."""
    readers: dict[type, list[Feature]] = {}
    for item in objects:
        kind = type(item)
        if kind not in readers:
            readers[kind] = [feature for feature in features if kind in feature.kinds]
        for feature in readers[kind]:
            feature.put(item)


def _class(name: str) -> Callable[[NodeConfiguration], Feature]:
    entry = REGISTRY[name]
    found: Callable[[NodeConfiguration], Feature] = getattr(import_module(entry.module), entry.attribute)
    return found
