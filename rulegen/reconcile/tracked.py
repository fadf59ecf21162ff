"""A mapping that knows what differs from what was taken of it last. No I/O; knows nothing of its keys and values."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import Generic, TypeVar

from rulegen.reconcile.delta import Change

K = TypeVar("K")
V = TypeVar("V")


class Tracked(Generic[K, V]):
    """Values by key as they are now; what changes costs its own keys only, however many there are."""

    def __init__(self) -> None:
        self._now: dict[K, V] = {}
        # What keys that were set since the last `take` had then; None: nothing.
        self._before: dict[K, V | None] = {}

    def set(self, key: K, value: V | None) -> None:
        """The value that a key has from now on; None: it has none any more."""
        before = self._now.get(key)
        if before == value:
            return
        self._before.setdefault(key, before)
        if value is None:
            del self._now[key]
        else:
            self._now[key] = value

    def take(self) -> dict[K, Change[V | None]]:
        """What differs from what was taken last, in the order in which it first changed; the first time, everything."""
        before, self._before = self._before, {}
        return {key: Change(value, after) for key, value in before.items() if (after := self._now.get(key)) != value}

    @property
    def now(self) -> Mapping[K, V]:
        """All of it, which goes on changing."""
        return self._now

    def get(self, key: K) -> V | None:
        """The value of a key as it is now; None: it has none."""
        return self._now.get(key)

    def items(self) -> ItemsView[K, V]:
        """All keys and values as they are now."""
        return self._now.items()

    def __contains__(self, key: object) -> bool:
        return key in self._now

    def __iter__(self) -> Iterator[K]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)
