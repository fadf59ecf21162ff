"""Sets of packets that rules treat alike so far: for each thing that a rule can ask, what is known of it.

A Region is a product of domains, one for each variable (`SRC`, `DST`, ...), less the tuples that a lookup missed, with
facts beside that no address or port tells: whether an address is the node's own. Values that never change.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias

from rulegen.netfilter.intervals import Intervals

SRC, DST, PROTO, SPORT, DPORT, IIF, OIF, MARK, PRIO = range(9)
# MARK and PRIO are sets of bits, all others of numbers.
_FIRST_BITS = MARK

Fact: TypeAlias = Hashable


class Cube(NamedTuple):
    """Numbers of 32 bits of which those in `mask` are known to be as in `value`."""

    mask: int
    value: int


ANY_BITS = Cube(0, 0)
_ALL_BITS = 0xFFFFFFFF

Domain: TypeAlias = Intervals | Cube


class Excluded(Protocol):
    """Tuples of values that a packet of a Region does not have."""

    variables: tuple[int, ...]

    def has(self, values: tuple[int, ...]) -> bool:
        """Whether the tuple is one of them."""
        ...

    def taken(self, variable: int, found: Mapping[int, int]) -> Intervals:
        """The numbers of a variable that make such a tuple together with those `found` of all the others."""
        ...


class Region:
    """`domains`: by variable. `facts`: what was decided about the packet besides. `excluded`: tuples that it is not."""

    __slots__ = ("_hash", "domains", "excluded", "facts", "linked")

    def __init__(
        self,
        domains: tuple[Domain, ...],
        facts: tuple[tuple[Fact, Hashable], ...] = (),
        excluded: tuple[Excluded, ...] = (),
        linked: bool | None = None,
    ) -> None:
        """`linked`: source and destination are equal, are not, or (None) nobody has asked."""
        self.domains = domains
        self.facts = facts
        self.excluded = excluded
        self.linked = linked
        self._hash = 0

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Region)
            and self.domains == other.domains
            and self.linked == other.linked
            and frozenset(self.facts) == frozenset(other.facts)
            and frozenset(self.excluded) == frozenset(other.excluded)
        )

    def __hash__(self) -> int:
        if not self._hash:
            self._hash = hash(self.domains)
        return self._hash

    def numbers(self, variable: int) -> Intervals:
        """The domain of a variable that is a set of numbers."""
        domain = self.domains[variable]
        assert isinstance(domain, Intervals)  # noqa: S101 - what `variable` says
        return domain

    def bits(self, variable: int) -> Cube:
        """The domain of MARK or PRIO."""
        domain = self.domains[variable]
        assert isinstance(domain, Cube)  # noqa: S101 - what `variable` says
        return domain

    def narrowed(self, variable: int, domain: Domain) -> Region:
        """The same with another domain for a variable, a part of the one before."""
        domains = self.domains
        changed = (*domains[:variable], domain, *domains[variable + 1 :])
        if self.linked and variable in {SRC, DST}:
            changed = (domain, domain, *changed[2:])
        return Region(changed, self.facts, self.excluded, self.linked)

    def narrowed_to(self, values: Mapping[int, Domain]) -> Region:
        """The same for several variables."""
        changed = list(self.domains)
        for variable, domain in values.items():
            changed[variable] = domain
            if self.linked and variable in {SRC, DST}:
                changed[SRC] = changed[DST] = domain
        return Region(tuple(changed), self.facts, self.excluded, self.linked)

    def without(self, excluded: Excluded) -> Region:
        """The same less some tuples."""
        return Region(self.domains, self.facts, (*self.excluded, excluded), self.linked)

    def fact(self, name: Fact) -> Hashable:
        """What was decided; None when nothing was."""
        for known, value in self.facts:
            if known == name:
                return value
        return None

    def knowing(self, name: Fact, value: Hashable) -> Region:
        """The same with a decision."""
        return Region(self.domains, (*self.facts, (name, value)), self.excluded, self.linked)

    def equal_ends(self) -> Iterator[tuple[Region, bool]]:
        """Split by whether source and destination are the same address; the parts that are not empty."""
        if self.linked is not None:
            yield self, self.linked
            return
        both = self.numbers(SRC) & self.numbers(DST)
        if not both:
            yield self, False
            return
        yield self.with_equal_ends(both), True
        if self.numbers(SRC).only is None or self.numbers(DST).only is None:
            yield self._with_different_ends(both), False

    def with_equal_ends(self, both: Intervals) -> Region:
        """The packets from an address to itself; `both`: which ones."""
        return Region((both, both, *self.domains[2:]), self.facts, self.excluded, linked=True)

    def _with_different_ends(self, both: Intervals) -> Region:
        for one, other in ((SRC, DST), (DST, SRC)):
            if both == self.domains[one] and both.only is not None:
                return self.narrowed(other, self.numbers(other) - both)
        return Region(self.domains, self.facts, self.excluded, linked=False)

    def is_excluded(self) -> bool:
        """Whether every variable of one of the exclusions has just one value left, and those are excluded."""
        for excluded in self.excluded:
            values = tuple(self.numbers(variable).only for variable in excluded.variables)
            if None not in values and excluded.has(values):  # type: ignore[arg-type]
                return True
        return bool(
            self.linked is False and self.numbers(SRC).only is not None and self.domains[SRC] == self.domains[DST]
        )


def intersect_bits(one: Cube, other: Cube) -> Cube | None:
    """What is in both; None for nothing."""
    if (one.value ^ other.value) & one.mask & other.mask:
        return None
    return Cube(one.mask | other.mask, one.value | other.value)


def split_bits(cube: Cube, mask: int, value: int) -> tuple[Cube | None, list[Cube]]:
    """The part whose bits in `mask` are as in `value`, and disjoint parts that make up the rest."""
    wrong = (cube.value ^ value) & cube.mask & mask
    if wrong:
        return None, [cube]
    free = mask & ~cube.mask
    equal = Cube(cube.mask | free, cube.value | (value & free))
    rest = []
    known = cube
    while free:
        bit = free & -free
        free ^= bit
        rest.append(Cube(known.mask | bit, known.value | (~value & bit)))
        known = Cube(known.mask | bit, known.value | (value & bit))
    return equal, rest


# ---- a packet of a Region ----

_PATIENCE = 200_000
# So many values of a variable are tried before it is asked which are excluded.
_FEW_TRIES = 64
# After so many it is asked of each value whether it leaves something for the other variables.
_LONG_SEARCH = 1000


class Undecided(Exception):  # noqa: N818 - no error: nobody knows whether the Region has a packet
    """So many packets of a Region were excluded that the search was given up."""


def simplest(region: Region, preferred: Mapping[int, Iterable[int]]) -> tuple[int, ...] | None:
    """One packet of a Region, a number for each variable; None when there is none.

    `preferred`: values that are easy to read, tried first where the Region has them. Raises Undecided.
    """
    if not all(region.numbers(variable) for variable in range(_FIRST_BITS)):
        return None
    search = _Search(region, preferred)
    if not search.assign(0):
        return None
    numbers = (search.found[variable] for variable in range(_FIRST_BITS))
    return (*numbers, region.bits(MARK).value, region.bits(PRIO).value)


class _Search:
    """One value after the other for each variable that is constrained; of the others the first will do."""

    _ORDER = (SPORT, IIF, OIF, PROTO, DPORT, DST, SRC)

    def __init__(self, region: Region, preferred: Mapping[int, Iterable[int]]) -> None:
        self._region = region
        self._preferred = preferred
        self._constrained = {variable for excluded in region.excluded for variable in excluded.variables}
        if region.linked is not None:
            self._constrained |= {SRC, DST}
        # Those of which few are left come first: where these are excluded, the others need not be tried. The sort is
        # stable: of two that are equal the destination stays in front.
        self._order = sorted(self._ORDER, key=lambda variable: region.numbers(variable).count)
        self._tries = 0
        self.found: dict[int, int] = {}

    def assign(self, depth: int) -> bool:
        """Finds values for the variables from a place in the order on."""
        if depth == len(self._order):
            return True
        variable = self._order[depth]
        for value in self._candidates(variable):
            self._tries += 1
            if self._tries > _PATIENCE:
                raise Undecided
            self.found[variable] = value
            if not self._is_excluded() and not self._is_in_vain() and self.assign(depth + 1):
                return True
            del self.found[variable]
        return False

    def _candidates(self, variable: int) -> Iterator[int]:
        domain = self._region.numbers(variable)
        if self._region.linked and variable == SRC:
            yield self.found[DST]
            return
        readable = [value for value in self._preferred.get(variable, ()) if value in domain]
        if variable not in self._constrained:
            yield readable[0] if readable else domain.lows[0]
            return
        yield from readable
        others = (value for value in domain if value not in readable)
        yield from islice(others, _FEW_TRIES)
        first = next(others, None)
        if first is not None:
            # So many were in vain: perhaps whole ranges are excluded.
            rest = self._without_taken(variable, domain & Intervals((first,), (domain.highs[-1],)))
            yield from (value for value in rest if value not in readable)

    def _is_in_vain(self) -> bool:
        """Whether nothing is left for a variable that has no value yet; asked when the search has become long."""
        if self._tries < _LONG_SEARCH:
            return False
        nearly = (
            open_ones[0]
            for excluded in self._region.excluded
            if len(open_ones := [one for one in excluded.variables if one not in self.found]) == 1
        )
        return not all(self._without_taken(one, self._region.numbers(one)) for one in nearly)

    def _without_taken(self, variable: int, domain: Intervals) -> Intervals:
        """Without what is excluded whatever the variables will be that have no value yet."""
        for excluded in self._region.excluded:
            if variable in excluded.variables and all(
                one == variable or one in self.found for one in excluded.variables
            ):
                domain = domain - excluded.taken(variable, self.found)
        return domain

    def _is_excluded(self) -> bool:
        found = self.found
        if self._region.linked is False and SRC in found and found[SRC] == found.get(DST):
            return True
        return any(
            all(variable in found for variable in excluded.variables)
            and excluded.has(tuple(found[variable] for variable in excluded.variables))
            for excluded in self._region.excluded
        )


def single(values: tuple[int, ...], facts: tuple[tuple[Fact, Hashable], ...]) -> Region:
    """The Region of one packet."""
    numbers: tuple[Domain, ...] = tuple(Intervals.one(value) for value in values[:_FIRST_BITS])
    return Region((*numbers, Cube(_ALL_BITS, values[MARK]), Cube(_ALL_BITS, values[PRIO])), facts)
