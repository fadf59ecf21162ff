"""Two mappings of entries come in, the difference goes out. Knows no target and does no I/O.

An entry is the smallest thing that a target changes atomically: on nftables a map element, a set element or a chain's
rules; on iptables a chain's rules.
"""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from rulegen.reconcile.parts import InParts, together

Key = TypeVar("Key")
Value = TypeVar("Value")


class Change(NamedTuple, Generic[Value]):
    """Something whose value differs: what it was, and what it is, or is wanted to be."""

    before: Value
    after: Value


class Counts(NamedTuple):
    """How many entries a Delta touches, by what becomes of them."""

    added: int
    changed: int
    removed: int


@dataclass(frozen=True, slots=True)
class Delta(Generic[Key, Value]):
    """What turns the live entries into the desired ones. Order within a part is that of the input mappings."""

    added: Mapping[Key, Value] = field(default_factory=dict)
    changed: Mapping[Key, Change[Value]] = field(default_factory=dict)
    removed: Mapping[Key, Value] = field(default_factory=dict)

    @classmethod
    def of(cls, changes: Mapping[Key, Change[Value | None]]) -> Delta[Key, Value]:
        """What `Tracked.take` said, as a Delta; None on one side: there was, or is, nothing."""
        added: dict[Key, Value] = {}
        changed: dict[Key, Change[Value]] = {}
        removed: dict[Key, Value] = {}
        for key, (before, after) in changes.items():
            if before is None:
                if after is not None:
                    added[key] = after
            elif after is None:
                removed[key] = before
            else:
                changed[key] = Change(before, after)
        return cls(added, changed, removed)

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def __len__(self) -> int:
        """The number of entries touched."""
        return len(self.added) + len(self.changed) + len(self.removed)

    @property
    def counts(self) -> Counts:
        """The number of entries added, changed and removed."""
        return Counts(len(self.added), len(self.changed), len(self.removed))

    def merged(self, other: Delta[Key, Value]) -> Delta[Key, Value]:
        """Both as one, where no entry is in both; where one is empty, the other itself."""
        if not self:
            return other
        if not other:
            return self
        return Delta(
            together(self.added, other.added),
            together(self.changed, other.changed),
            together(self.removed, other.removed),
        )

    def onto(self, live: Mapping[Key, Value]) -> Delta[Key, Value]:
        """What leads to the same where other entries may be live than this begins with."""
        wanted = {**self.added, **{key: change.after for key, change in self.changed.items()}}
        return diff({key: live[key] for key in (*wanted, *self.removed) if key in live}, wanted)

    def without(self, other: Delta[Key, Value]) -> Delta[Key, Value]:
        """Those entries that `other` does not touch."""
        touched = other.added.keys() | other.changed.keys() | other.removed.keys()
        return Delta(
            {key: value for key, value in self.added.items() if key not in touched},
            {key: change for key, change in self.changed.items() if key not in touched},
            {key: value for key, value in self.removed.items() if key not in touched},
        )


def diff(live: Mapping[Key, Value], desired: Mapping[Key, Value]) -> Delta[Key, Value]:
    """The Delta that makes `live` equal to `desired`, which may be a part of it as it is: nobody changes either."""
    if not live:
        return Delta(desired)
    if isinstance(live, InParts) and isinstance(desired, InParts):
        return _diff_in_parts(live, desired)
    if live == desired:
        # As nearly always at a restart, and much faster than a look at each.
        return Delta()
    added: dict[Key, Value] = {}
    changed: dict[Key, Change[Value]] = {}
    for key, after in desired.items():
        before = live.get(key)
        if before is None:
            added[key] = after
        elif before != after:
            changed[key] = Change(before, after)
    if len(desired) - len(added) == len(live):
        # All that is live was found: mostly so, and as long a search again is spared.
        return Delta(added, changed)
    removed = {key: before for key, before in live.items() if key not in desired}
    return Delta(added, changed, removed)


def _diff_in_parts(live: InParts[Key, Value], desired: InParts[Key, Value]) -> Delta[Key, Value]:
    delta: Delta[Key, Value] = Delta()
    for name in {**live.parts, **desired.parts}:
        delta = delta.merged(diff(live.parts.get(name, {}), desired.parts.get(name, {})))
    return delta


def differing(before: Sequence[Hashable], after: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """The places of what is only in one of two lists, as rules of a chain, in time linear in both.

    Where nothing is, all between the first and the last place that differ: then the order does.
    """
    shorter = min(len(before), len(after))
    start = next((place for place in range(shorter) if before[place] != after[place]), shorter)
    end = next((place for place in range(shorter - start) if before[-1 - place] != after[-1 - place]), shorter - start)
    left, right = range(start, len(before) - end), range(start, len(after) - end)
    common = Multiset(before[place] for place in left) & Multiset(after[place] for place in right)
    only_left, only_right = _unmatched(before, left, common), _unmatched(after, right, common)
    return (only_left, only_right) if only_left or only_right else (list(left), list(right))


def _unmatched(items: Sequence[Hashable], places: Iterable[int], common: Mapping[Hashable, int]) -> list[int]:
    left = Multiset(common)
    found = []
    for place in places:
        if left[items[place]]:
            left[items[place]] -= 1
        else:
            found.append(place)
    return found
