"""What stands in a packet's fields and in registers: a number, a part of the unknown packet, or what was drawn."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import NamedTuple, TypeAlias

from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.regions import Region


class Part(NamedTuple):
    """The value of a variable that is a set of numbers: without its lowest `shift` bits, then with `zeros` for bits."""

    variable: int
    shift: int = 0
    zeros: int = 0

    def known(self, region: Region) -> int | None:
        """The number, where only one is possible."""
        domain = region.numbers(self.variable)
        if domain and domain.lows[0] >> self.shift == domain.highs[-1] >> self.shift:
            return (domain.lows[0] >> self.shift) << self.zeros
        return None

    def widened(self, numbers: Intervals) -> Intervals:
        """The values of the variable for which the part is in `numbers`."""
        if not (self.shift or self.zeros):
            return numbers
        above, rest = (1 << self.zeros) - 1, (1 << self.shift) - 1
        shrunk = ((low + above >> self.zeros, high >> self.zeros) for low, high in numbers.ranges())
        return Intervals.of((low << self.shift, (high << self.shift) | rest) for low, high in shrunk if low <= high)


class Bits(NamedTuple):
    """The bits `keep` of MARK or PRIO as the packet had them at first, then those in `flip` flipped."""

    variable: int
    keep: int = 0xFFFFFFFF
    flip: int = 0

    def known(self, region: Region) -> int | None:
        """The number, where only one is possible."""
        cube = region.bits(self.variable)
        if self.keep & ~cube.mask:
            return None
        return (cube.value & self.keep) ^ self.flip


class Column(NamedTuple):
    """Depends on what was drawn: a column of the packet's `Choice`."""

    place: int


class Unknown(NamedTuple):
    """A function of the packet that nobody knows more of: a hash, or what no rule of ours reads."""

    of: tuple[object, ...]


Value: TypeAlias = int | Part | Bits | Column | Unknown


class Choice:
    """What rules drew at random: rows, each with a weight out of `total`; columns are numbers that follow from it."""

    __slots__ = ("columns", "total", "weights")

    def __init__(self, weights: tuple[int, ...], total: int, columns: tuple[tuple[int, ...], ...]) -> None:
        """All columns are as long as `weights`; `total` may be more than their sum, when rows have left."""
        self.weights = weights
        self.total = total
        self.columns = columns

    def rows(self, indexes: list[int]) -> Choice:
        """Only some rows."""
        if len(indexes) == len(self.weights):
            return self
        return Choice(
            tuple([self.weights[index] for index in indexes]),
            self.total,
            tuple([tuple([column[index] for index in indexes]) for column in self.columns]),
        )

    def with_column(self, column: tuple[int, ...]) -> tuple[Choice, Column]:
        """One column more."""
        return Choice(self.weights, self.total, (*self.columns, column)), Column(len(self.columns))

    def times(self, count: int, first: int) -> tuple[Choice, Column]:
        """Each row `count` times, with numbers from `first` on in a new column: an independent draw."""
        rows = len(self.weights)
        columns = tuple(tuple([value for value in column for _ in range(count)]) for column in self.columns)
        drawn = tuple(range(first, first + count)) * rows
        weights = tuple([weight for weight in self.weights for _ in range(count)])
        return Choice(weights, self.total * count, (*columns, drawn)), Column(len(columns))

    def share(self, row: int) -> Fraction:
        """How probable a row is."""
        return Fraction(self.weights[row], self.total)


class Shares(NamedTuple):
    """How connections are split over endpoints: `weights` out of `total`, in the endpoints' order, in lowest terms.

    An endpoint is an address and a port; None stands for none.
    """

    endpoints: tuple[tuple[int, int] | None, ...]
    weights: tuple[int, ...]
    total: int

    def items(self) -> Iterator[tuple[tuple[int, int] | None, Fraction]]:
        """Each endpoint with its share."""
        for endpoint, weight in zip(self.endpoints, self.weights, strict=True):
            yield endpoint, Fraction(weight, self.total)


def shares(endpoints: tuple[tuple[int, int] | None, ...], weights: tuple[int, ...], whole: Fraction) -> Shares:
    """The same endpoint may come several times. `whole`: what the weights are parts of, as one weight."""
    return _shares(endpoints, weights, whole.numerator, whole.denominator)


@lru_cache(maxsize=1 << 16)
def _shares(
    endpoints: tuple[tuple[int, int] | None, ...], weights: tuple[int, ...], numerator: int, denominator: int
) -> Shares:
    counts: dict[tuple[int, int] | None, int] = {}
    for endpoint, weight in zip(endpoints, weights, strict=True):
        counts[endpoint] = counts.get(endpoint, 0) + weight * numerator
    divisor = gcd(denominator, *counts.values())
    ordered = sorted(counts.items(), key=lambda item: item[0] or (-1, -1))
    return Shares(
        tuple(endpoint for endpoint, _ in ordered),
        tuple(count // divisor for _, count in ordered),
        denominator // divisor,
    )


NO_CHOICE = Choice((1,), 1, ())
