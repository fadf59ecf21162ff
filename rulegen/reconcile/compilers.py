"""The compilers of several features as one: calls for each come in, one Delta for the driver goes out.

Features share no set and no chain, so that what they want is put together without a look at it. With one feature, as
mostly, nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

from rulegen.config import NodeConfiguration
from rulegen.errors import TargetError
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.feature import AnyCompiler, AnyDelta, AnyEntries, Feature, ItemErrors, ItemKey
from rulegen.reconcile.parts import together
from rulegen.reference import ObjectReference

# By the feature's name, then by the item's id.
Items: TypeAlias = Mapping[str, Mapping[Any, Any]]


class CompilerSet:
    """`by_feature`: by the feature's name, in the order in which features come everywhere."""

    def __init__(self, by_feature: Mapping[str, AnyCompiler]) -> None:
        self.by_feature = by_feature

    @classmethod
    def of(cls, features: Iterable[Feature], driver: str, node: NodeConfiguration) -> CompilerSet:
        """New compilers of the features. Raises TargetError where a feature does not exist on the driver."""
        return cls({feature.name: feature.compiler(driver, node) for feature in features})

    def adopt(self, live: AnyEntries, unreadable: Mapping[str, Collection[ObjectReference]]) -> None:
        """See `Compiler`; `unreadable`: by feature."""
        for name, compiler in self.by_feature.items():
            compiler.adopt(live, unreadable.get(name, ()))

    def update(self, items: Items, contexts: Mapping[str, Any]) -> tuple[AnyDelta, ItemErrors]:
        """See `Compiler`; `items` and `contexts`: by feature."""
        delta: AnyDelta = Delta()
        errors: dict[ItemKey, TargetError | None] = {}
        for name in items:
            part, failed = self.by_feature[name].update(items[name], contexts.get(name))
            delta = delta.merged(part)
            errors |= {(name, item_id): error for item_id, error in failed.items()}
        return delta, errors

    def entries(self) -> AnyEntries:
        """All that is wanted."""
        return _together(compiler.entries() for compiler in self.by_feature.values())

    def entries_of(self, keys: Collection[ItemKey]) -> AnyEntries:
        """What these items need."""
        found: dict[Any, Any] = {}
        for name, item_id in keys:
            found |= self.by_feature[name].entries_of(item_id)
        return found

    def entries_without(self, keys: Collection[ItemKey]) -> AnyEntries:
        """All that is wanted, but for what only these items need."""
        left_out: dict[str, list[Any]] = {}
        for name, item_id in keys:
            left_out.setdefault(name, []).append(item_id)
        return _together(compiler.entries_without(left_out.get(name, ())) for name, compiler in self.by_feature.items())

    def spare(self, delta: AnyDelta) -> AnyDelta:
        """See `Compiler`."""
        for compiler in self.by_feature.values():
            delta = compiler.spare(delta)
        return delta

    def owners(self, live: AnyEntries) -> Callable[[Any, Any], str]:
        """See `Compiler`."""
        asked = [compiler.owners(live) for compiler in self.by_feature.values()]
        if len(asked) == 1:
            return asked[0]

        def owner(key: Any, value: Any) -> str:
            return next(filter(None, (ask(key, value) for ask in asked)), "")

        return owner


def by_feature(items: Mapping[ItemKey, Any]) -> dict[str, dict[Any, Any]]:
    """Items of all features, as `update` takes them."""
    found: dict[str, dict[Any, Any]] = {}
    for (name, item_id), item in items.items():
        found.setdefault(name, {})[item_id] = item
    return found


def _together(parts: Iterable[AnyEntries]) -> AnyEntries:
    found: AnyEntries = {}
    for part in parts:
        # The first as it is: a compiler makes its entries anew for each call.
        found = together(found, part)
    return found
