"""Weights become slots, and slots keep their endpoints. Pure.

A list of endpoints stands in numbered slots, all equally likely; a weight is a number of slots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import reduce
from heapq import heapify, heapreplace
from math import gcd
from typing import TypeVar

Item = TypeVar("Item")

MAX_SLOTS = 4096
# The rounding that is accepted before the next larger number of slots is tried (D9).
TOLERANCE = 0.01


def slot_counts(weights: Sequence[int]) -> list[int]:
    """How many slots each weight (at least 1) takes.

    Exact where that takes at most `MAX_SLOTS` slots. Else the smallest power of two at which every endpoint's
    probability is within `TOLERANCE` of its share, and at most `MAX_SLOTS` (or one slot each, if there are more
    endpoints than that); no weight is left without a slot.
    """
    if not weights:
        return []
    if weights.count(weights[0]) == len(weights):
        # As nearly always.
        return [1] * len(weights)
    divisor = reduce(gcd, weights)
    total = sum(weights) // divisor
    if total <= MAX_SLOTS:
        return [weight // divisor for weight in weights]
    if len(weights) >= MAX_SLOTS:
        return [1] * len(weights)
    slots = 1 << (len(weights) - 1).bit_length()
    counts = _apportion(weights, slots)
    while slots < MAX_SLOTS and rounding_error(weights, counts) > TOLERANCE:
        slots *= 2
        counts = _apportion(weights, slots)
    return counts


def rounding_error(weights: Sequence[int], counts: Sequence[int]) -> float:
    """The largest relative difference between an endpoint's probability and its share of the weights."""
    total, slots = sum(weights), sum(counts)
    pairs = zip(weights, counts, strict=True)
    return max((abs(count * total / (slots * weight) - 1) for weight, count in pairs), default=0.0)


def _apportion(weights: Sequence[int], slots: int) -> list[int]:
    """Largest remainders over `slots`, at least one slot each, the heaviest giving way; ties in the given order."""
    total = sum(weights)
    counts = [max(1, weight * slots // total) for weight in weights]
    remainders = sorted(range(len(weights)), key=lambda i: (-(weights[i] * slots % total), i))
    missing = slots - sum(counts)
    for index in remainders[: max(0, missing)]:
        counts[index] += 1
    heaviest = [(-count, index) for index, count in enumerate(counts)]
    heapify(heaviest)
    for _ in range(-missing):
        count, index = heaviest[0]
        heapreplace(heaviest, (count + 1, index))
        counts[index] -= 1
    return counts


def assign_slots(before: Sequence[Item | None], wanted: Mapping[Item, int]) -> list[Item]:
    """Places every wanted item in as many slots as it wants; the result has no holes.

    Items stay where `before` has them; new ones fill the slots of those that left, then come at the end; remaining
    holes are filled from the end. Without a `before` the order is that of `wanted`.
    """
    if len(before) == len(wanted) == len(wanted.keys() & before) and sum(wanted.values()) == len(wanted):
        # As nearly always when an agent starts again.
        return [item for item in before if item is not None]
    if not before:
        return [item for item, count in wanted.items() for _ in range(count)]
    missing = dict(wanted)
    slots: list[Item | None] = []
    for item in before:
        if item is not None and missing.get(item, 0) > 0:
            slots.append(item)
            missing[item] -= 1
        else:
            slots.append(None)
    new = [item for item, count in missing.items() for _ in range(count)]
    new.reverse()
    for index, item in enumerate(slots):
        if item is None and new:
            slots[index] = new.pop()
    slots.extend(reversed(new))
    return _without_holes(slots)


def _without_holes(slots: list[Item | None]) -> list[Item]:
    """Fills each hole with the last item."""
    filled: list[Item] = []
    waiting = deque(slots)
    while waiting:
        item = waiting.popleft()
        while item is None and waiting:
            item = waiting.pop()
        if item is not None:
            filled.append(item)
    return filled
