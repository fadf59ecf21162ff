"""Sets and maps that rules look into: packets come in, the parts that hit, each with its data, and the rest go out.

A lookup costs what it hits. Where a key is known but for one field, the answer is remembered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.regions import DST, SRC, Region, split_bits
from rulegen.netfilter.values import Bits, Part

Data = TypeVar("Data", bound=Hashable)
Range: TypeAlias = tuple[int, int]
KeyPart: TypeAlias = int | Part | Bits


_ENDS = [Part(SRC), Part(DST)]


class TooManyUnknownsError(Exception):
    """A lookup whose key cannot be told apart into known and unknown fields."""


class Found(NamedTuple, Generic[Data]):
    """`hits`: disjoint parts of the Region with their data. `rest`: parts that miss."""

    hits: list[tuple[Region, Data]]
    rest: list[Region]


class KeyTable(Generic[Data]):
    """Elements, each with a range for every field of the key; no two elements contain the same key."""

    def __init__(self, elements: Iterable[tuple[tuple[Range, ...], Data]]) -> None:
        """`elements`: inclusive ranges, and the data."""
        self.elements = list(elements)
        self._exact: dict[tuple[int, ...], Data] = {}
        self._ranges: list[tuple[tuple[Range, ...], Data]] = []
        for key, data in self.elements:
            if all(low == high for low, high in key):
                self._exact[tuple([low for low, _ in key])] = data
            else:
                self._ranges.append((key, data))
        self._groups: dict[tuple[int, tuple[int, ...]], tuple[list[tuple[Data, Intervals]], Intervals]] = {}
        self._indexes: dict[tuple[int, ...], dict[tuple[int, ...], list[tuple[tuple[Range, ...], Data]]]] = {}
        self._wide: dict[tuple[int, ...], list[tuple[tuple[Range, ...], Data]]] = {}

    def get(self, key: tuple[int, ...]) -> tuple[Data] | None:
        """The data of a key, in a tuple; None when it is not there."""
        if key in self._exact:
            return (self._exact[key],)
        for ranges, data in self._ranges:
            if all(low <= value <= high for value, (low, high) in zip(key, ranges, strict=True)):
                return (data,)
        return None

    def lookup(self, region: Region, parts: Sequence[KeyPart]) -> Found[Data]:
        """`parts`: the fields of the key. Raises TooManyUnknownsError."""
        known: list[int | None] = [part if type(part) is int else part.known(region) for part in parts]  # type: ignore[union-attr]
        unknown = [place for place, value in enumerate(known) if value is None]
        if unknown and any(isinstance(one, Missed) and one.covers(self, parts, known) for one in region.excluded):
            return Found([], [region])
        if not unknown:
            found = self.get(tuple(known))  # type: ignore[arg-type]
            return Found([], [region]) if found is None else Found([(region, found[0])], [])
        if len(unknown) == 1:
            part = parts[unknown[0]]
            if isinstance(part, Bits):
                return self._lookup_bits(region, part, known, unknown[0])
            assert isinstance(part, Part)  # noqa: S101 - known ones are not unknown
            return self._lookup_one(region, part, known, unknown[0])
        return self._lookup_many(region, parts, known, unknown)

    # -- one field unknown --

    def _lookup_one(self, region: Region, part: Part, known: list[int | None], place: int) -> Found[Data]:
        groups, union = self._grouped(tuple(known), place)  # type: ignore[arg-type]
        variable = part.variable
        domain = region.numbers(variable)
        hits = []
        for data, numbers in groups:
            inside = domain & part.widened(numbers)
            if inside:
                hits.append((region.narrowed(variable, inside), data))
        if not hits:
            return Found([], [region])
        outside = domain - part.widened(union)
        if region.excluded:
            hits = [hit for hit in hits if not hit[0].is_excluded()]
        return Found(hits, [region.narrowed(variable, outside)] if outside else [])

    def _grouped(self, key: tuple[int, ...], place: int) -> tuple[list[tuple[Data, Intervals]], Intervals]:
        """By data, the numbers in one place of the key, where the other places are as in `key`; and all of them."""
        found = self._groups.get((place, key))
        if found is None:
            ranges: dict[Data, list[Range]] = defaultdict(list)
            for element, data in self._candidates(key, [place]):
                ranges[data].append(element[place])
            groups = [(data, Intervals.of(numbers)) for data, numbers in ranges.items()]
            union = Intervals.of(one for numbers in ranges.values() for one in numbers)
            found = self._groups[place, key] = (groups, union)
        return found

    def numbers(self, key: Sequence[int | None], place: int) -> Intervals:
        """Those in one place of the elements that agree with the others of a key."""
        return Intervals.of(element[place] for element, _ in self._candidates(key, [place]))

    def _candidates(
        self, key: Sequence[int | None], unknown: Sequence[int]
    ) -> Iterator[tuple[tuple[Range, ...], Data]]:
        """The elements that agree with the known places of a key."""
        places = tuple(place for place in range(len(key)) if place not in unknown)
        if not places:
            yield from self.elements
            return
        if places not in self._indexes:
            self._build_index(places)
        wanted = tuple([key[place] for place in places])
        yield from self._indexes[places].get(wanted, ())  # type: ignore[arg-type]
        for element, data in self._wide[places]:
            if all(element[place][0] <= key[place] <= element[place][1] for place in places):  # type: ignore[operator]
                yield element, data

    def _build_index(self, places: tuple[int, ...]) -> None:
        index: dict[tuple[int, ...], list[tuple[tuple[Range, ...], Data]]] = defaultdict(list)
        wide = []
        for element, data in self.elements:
            if all(element[place][0] == element[place][1] for place in places):
                index[tuple([element[place][0] for place in places])].append((element, data))
            else:
                wide.append((element, data))
        self._indexes[places] = dict(index)
        self._wide[places] = wide

    # -- several fields unknown --

    def _lookup_many(
        self, region: Region, parts: Sequence[KeyPart], known: list[int | None], unknown: list[int]
    ) -> Found[Data]:
        variables = [part for place in unknown if isinstance(part := parts[place], Part)]
        if len({part.variable for part in variables}) < len(unknown):
            raise TooManyUnknownsError
        missed = Missed(self, parts, known)
        hits: list[tuple[Region, Data]] = []
        candidates: Iterable[tuple[tuple[Range, ...], Data]] = self._candidates(known, unknown)
        if variables == _ENDS:
            candidates, hits = self._equal_ends(region, candidates, unknown)
        for element, data in candidates:
            smaller = _narrowed(region, variables, [element[place] for place in unknown])
            if smaller is not None and not (region.excluded and smaller.is_excluded()):
                hits.append((smaller, data))
        if any(hit.domains == region.domains and hit.linked is region.linked for hit, _ in hits):
            return Found(hits, [])
        return Found(hits, [region.without(missed)] if hits else [region])

    @staticmethod
    def _equal_ends(
        region: Region, elements: Iterable[tuple[tuple[Range, ...], Data]], places: Sequence[int]
    ) -> tuple[list[tuple[tuple[Range, ...], Data]], list[tuple[Region, Data]]]:
        """Addresses that are paired with themselves go together; the other elements, and the parts that hit."""
        others = []
        addresses: dict[Data, list[Range]] = defaultdict(list)
        for element, data in elements:
            (low, high), (low_too, high_too) = (element[place] for place in places)
            if low == high == low_too == high_too:
                addresses[data].append((low, high))
            else:
                others.append((element, data))
        hits = []
        for data, ranges in addresses.items():
            both = Intervals.of(ranges) & region.numbers(SRC) & region.numbers(DST)
            if both and region.linked is not False:
                hits.append((region.with_equal_ends(both), data))
        return others, hits

    # -- bits --

    def _lookup_bits(self, region: Region, part: Bits, known: list[int | None], place: int) -> Found[Data]:
        rest = [region.bits(part.variable)]
        hits = []
        for element, data in self._candidates(known, [place]):
            low, high = element[place]
            if low != high:
                raise TooManyUnknownsError
            wanted = low ^ part.flip
            if wanted & ~part.keep:
                continue
            left = []
            for cube in rest:
                equal, others = split_bits(cube, part.keep, wanted)
                if equal is not None:
                    hits.append((region.narrowed(part.variable, equal), data))
                left += others
            rest = left
        return Found(hits, [region.narrowed(part.variable, cube) for cube in rest])


def _narrowed(region: Region, variables: Sequence[Part], ranges: Sequence[Range]) -> Region | None:
    """The packets whose unknown fields are in the ranges; None for none."""
    narrowed = {}
    for part, (low, high) in zip(variables, ranges, strict=True):
        domain = region.numbers(part.variable)
        if low == high and not (part.shift or part.zeros):
            if low not in domain:
                return None
            narrowed[part.variable] = Intervals((low,), (low,))
        else:
            inside = domain & part.widened(Intervals((low,), (high,)))
            if not inside:
                return None
            narrowed[part.variable] = inside
    if region.linked and SRC in narrowed and DST in narrowed:
        both = narrowed[SRC] & narrowed[DST]
        if not both:
            return None
        narrowed[SRC] = narrowed[DST] = both
    return region.narrowed_to(narrowed)


class Missed:
    """The keys of a table that a packet does not have; see `regions.Excluded`."""

    __slots__ = ("_key", "_known", "_parts", "_table", "variables")

    def __init__(self, table: KeyTable[Data], parts: Sequence[KeyPart], known: Sequence[int | None]) -> None:
        """`known`: the places of the key that are known, with None for the others."""
        self._table = table
        self._known = tuple(known)
        self._key = tuple(parts)
        pairs = zip(parts, known, strict=True)
        self._parts = tuple(part for part, value in pairs if value is None and isinstance(part, Part))
        self.variables = tuple(part.variable for part in self._parts)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Missed)
            and self._table is other._table
            and self._parts == other._parts
            and self._known == other._known
        )

    def __hash__(self) -> int:
        return hash((id(self._table), self._parts, self._known))

    def covers(self, table: KeyTable[Any], key: Sequence[KeyPart], known: Sequence[int | None]) -> bool:
        """Whether a lookup misses because this one has: of the same table, with what is known now a part of it."""
        return self._table is table and all(
            one == other if mine is None else mine == value
            for mine, one, other, value in zip(self._known, self._key, key, known, strict=True)
        )

    def taken(self, variable: int, found: Mapping[int, int]) -> Intervals:
        """The numbers of a variable with which the key is in the table; the other variables have those `found`."""
        mine = next(number for number, part in enumerate(self._parts) if part.variable == variable)
        key = list(self._known)
        places = [place for place, value in enumerate(key) if value is None]
        for place, part in zip(places, self._parts, strict=True):
            if part.variable != variable:
                key[place] = found[part.variable] >> part.shift << part.zeros
        return self._parts[mine].widened(self._table.numbers(key, places[mine]))

    def has(self, values: tuple[int, ...]) -> bool:
        """Whether the key with these values of its variables is in the table."""
        unknown = iter(value >> part.shift << part.zeros for value, part in zip(values, self._parts, strict=True))
        return self._table.get(tuple([next(unknown) if value is None else value for value in self._known])) is not None
