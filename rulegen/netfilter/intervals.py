"""Sets of numbers as sorted, disjoint, inclusive ranges. Values that never change."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """A set of whole numbers; `lows` and `highs` are the inclusive ends of its ranges, in ascending order."""

    __slots__ = ("_hash", "highs", "lows")

    def __init__(self, lows: tuple[int, ...], highs: tuple[int, ...]) -> None:
        """The ends, already sorted, disjoint and not adjacent."""
        self.lows = lows
        self.highs = highs
        self._hash = 0

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> Intervals:
        """From inclusive ranges in any order, which may overlap."""
        lows: list[int] = []
        highs: list[int] = []
        for low, high in sorted(ranges):
            if highs and low <= highs[-1] + 1:
                highs[-1] = max(highs[-1], high)
            else:
                lows.append(low)
                highs.append(high)
        return cls(tuple(lows), tuple(highs))

    @classmethod
    def one(cls, value: int) -> Intervals:
        """A single number."""
        return cls((value,), (value,))

    @classmethod
    def all_of(cls, bits: int) -> Intervals:
        """Every number of so many bits."""
        return cls((0,), ((1 << bits) - 1,))

    def __bool__(self) -> bool:
        return bool(self.lows)

    def __contains__(self, value: int) -> bool:
        place = bisect_right(self.lows, value) - 1
        return place >= 0 and value <= self.highs[place]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Intervals) and self.lows == other.lows and self.highs == other.highs

    def __hash__(self) -> int:
        if not self._hash:
            self._hash = hash((self.lows, self.highs))
        return self._hash

    def __repr__(self) -> str:
        parts = (f"{low}" if low == high else f"{low}-{high}" for low, high in zip(self.lows, self.highs, strict=True))
        return "{" + ", ".join(parts) + "}"

    def __iter__(self) -> Iterator[int]:
        for low, high in zip(self.lows, self.highs, strict=True):
            yield from range(low, high + 1)

    @property
    def only(self) -> int | None:
        """Its one member, where it has just one."""
        return self.lows[0] if len(self.lows) == 1 and self.lows[0] == self.highs[0] else None

    @property
    def count(self) -> int:
        """How many members there are."""
        return sum(self.highs) - sum(self.lows) + len(self.lows)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The inclusive ranges."""
        return zip(self.lows, self.highs, strict=True)

    def __and__(self, other: Intervals) -> Intervals:
        short, long = (other, self) if len(self.lows) > len(other.lows) else (self, other)
        lows, highs = long.lows, long.highs
        if len(short.lows) == 1:
            # The usual case: one range within a long list.
            low, high = short.lows[0], short.highs[0]
            first, last = bisect_left(highs, low), bisect_right(lows, high)
            if first >= last:
                return EMPTY
            if low <= lows[first] and highs[last - 1] <= high:
                return long if not first and last == len(lows) else Intervals(lows[first:last], highs[first:last])
            found_lows = (max(low, lows[first]), *lows[first + 1 : last])
            found_highs = (*highs[first : last - 1], min(high, highs[last - 1]))
            return Intervals(found_lows, found_highs)
        new_lows: list[int] = []
        new_highs: list[int] = []
        for low, high in short.ranges():
            place = bisect_left(highs, low)
            while place < len(lows) and lows[place] <= high:
                new_lows.append(max(low, lows[place]))
                new_highs.append(min(high, highs[place]))
                place += 1
        return Intervals(tuple(new_lows), tuple(new_highs))

    def __sub__(self, other: Intervals) -> Intervals:
        if not other.lows or not self.lows:
            return self
        if len(other.lows) == 1:
            return self._without_range(other.lows[0], other.highs[0])
        return self & other.complement(max(self.highs[-1], other.highs[-1]))

    def _without_range(self, low: int, high: int) -> Intervals:
        lows, highs = self.lows, self.highs
        first, last = bisect_left(highs, low), bisect_right(lows, high)
        if first >= last:
            return self
        middle_lows: tuple[int, ...] = ()
        middle_highs: tuple[int, ...] = ()
        if lows[first] < low:
            middle_lows, middle_highs = (lows[first],), (low - 1,)
        if highs[last - 1] > high:
            middle_lows, middle_highs = (*middle_lows, high + 1), (*middle_highs, highs[last - 1])
        return Intervals(lows[:first] + middle_lows + lows[last:], highs[:first] + middle_highs + highs[last:])

    def __or__(self, other: Intervals) -> Intervals:
        return Intervals.of((*self.ranges(), *other.ranges()))

    def complement(self, highest: int) -> Intervals:
        """What of 0 to `highest` is not in it."""
        lows, highs = [], []
        start = 0
        for low, high in self.ranges():
            if start < low:
                lows.append(start)
                highs.append(low - 1)
            start = high + 1
        if start <= highest:
            lows.append(start)
            highs.append(highest)
        return Intervals(tuple(lows), tuple(highs))


EMPTY = Intervals((), ())
