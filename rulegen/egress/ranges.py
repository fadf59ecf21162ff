"""The ranges as a compiler of either target has them, and what both compilers do alike. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

from rulegen.config import Cidr, Family
from rulegen.egress.model import Range, Side
from rulegen.errors import TargetError
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.tracked import Tracked

K = TypeVar("K")
V = TypeVar("V")

# Each side's ranges, with whose they are.
Ranges: TypeAlias = dict[Side, dict[Cidr, str]]


def no_ranges() -> Ranges:
    """None of any side."""
    return {side: {} for side in Side}


def is_wanted(ranges: Ranges) -> bool:
    """Without a pod of this node there is nothing to do."""
    return bool(ranges[Side.PODS])


def changed(ranges: Mapping[Family, Ranges], items: Mapping[Range, str | None]) -> dict[Family, set[Range]]:
    """Puts changed items into the ranges; returns those that came or went, by family."""
    touched: dict[Family, set[Range]] = {}
    for item, owner in items.items():
        found = ranges.get(item.family)
        if found is None:
            continue
        of_side = found[item.side]
        if (owner is None) is (item.cidr in of_side):
            touched.setdefault(item.family, set()).add(item)
        if owner is None:
            of_side.pop(item.cidr, None)
        else:
            of_side[item.cidr] = owner
    return touched


class RangeCompiler(ABC, Generic[K, V]):
    """See `reconcile.feature.Compiler`. `families`: those that get rules.

    A family without pods of this node has none. Until it is known whose traffic is meant, what the kernel held at first
    is wanted.
    """

    def __init__(self, families: Iterable[Family]) -> None:
        """Compiles nothing yet."""
        self._ranges: dict[Family, Ranges] = {family: no_ranges() for family in families}
        self._entries: Tracked[K, V] = Tracked()
        # The families in which there is something to do.
        self._present: set[Family] = set()
        self._has_compiled = False

    def update(
        self, items: Mapping[Range, str | None], context: bool | None
    ) -> tuple[Delta[K, V], dict[Any, TargetError]]:
        """Takes changed ranges; `context`: whether they are known from now on."""
        self._has_compiled = True
        if context is not None:
            self._use_adopted(is_wanted=not context)
        for family, touched in changed(self._ranges, items).items():
            self._write(family, touched)
        return Delta.of(self._entries.take()), {}

    def entries(self) -> dict[K, V]:
        """All that is wanted."""
        return dict(self._entries.items())

    def entries_of(self, item_id: Range) -> dict[K, V]:
        """Nothing: no range stands alone."""
        del item_id
        return {}

    def entries_without(self, item_ids: Collection[Range]) -> dict[K, V]:
        """All that is wanted."""
        del item_ids
        return self.entries()

    def spare(self, delta: Delta[K, V]) -> Delta[K, V]:
        """All of it."""
        return delta

    @abstractmethod
    def _use_adopted(self, *, is_wanted: bool) -> None:
        """What was found in the kernel is wanted, or is not any more."""

    @abstractmethod
    def _write(self, family: Family, touched: set[Range]) -> None:
        """Sets the entries that these ranges, which came or went, concern."""
