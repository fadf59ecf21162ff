"""Entries that several facts may need: each is there as long as somebody needs it. Pure, whatever the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from rulegen.reconcile.tracked import Tracked

K = TypeVar("K")
V = TypeVar("V")


class SharedEntries(Tracked[K, V]):
    """What is `set` belongs to one fact; what is `use`d stays until it was `drop`ped as often."""

    def __init__(self) -> None:
        super().__init__()
        self._uses: Counter[K] = Counter()

    def use(self, entries: Mapping[K, V]) -> None:
        """One more needs these entries."""
        for key, value in entries.items():
            self._uses[key] += 1
            self.set(key, value)

    def drop(self, keys: Iterable[K]) -> None:
        """One that used these entries needs them no more."""
        for key in keys:
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key]
                self.set(key, None)

    def is_used(self, key: K) -> bool:
        """Whether anybody has used the entry and not dropped it."""
        return key in self._uses
