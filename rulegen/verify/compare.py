"""Two answers to the same packets come in, of rules and of what is meant or of two rulesets; what differs goes out.

A class of packets is what neither side tells apart any further. Of each the distributions over outcomes are compared:
the same outcomes are possible, and each share agrees within a bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from rulegen.netfilter.intervals import EMPTY, Intervals
from rulegen.netfilter.machine import Ending, Endpoint, Fate, Outcome
from rulegen.netfilter.regions import DST, MARK, SRC, Cube, Domain, Region, intersect_bits, split_bits

# What is rounded at each rule that draws: the kernel scales 32 random bits, or compares 31 of them.
ROUNDING = Fraction(1, 1 << 30)

# An endpoint; whether it is the client; whether it is the node's; whether the mark was set before. None: whatever.
Atom: TypeAlias = "tuple[Endpoint | None, bool | None, bool | None, bool | None]"
Shares: TypeAlias = "dict[Outcome, Fraction]"
Distribution: TypeAlias = "dict[Atom, Shares]"
Follow: TypeAlias = Callable[[Region], Iterable[list[Ending]]]
# What a share may differ by, given both sides' Endings.
Bound: TypeAlias = "Callable[[Endpoint | None, Fraction], Fraction]"


class Sides(NamedTuple):
    """Who is compared. `is_sent`: the packets are the node's own. `mark`: the bit that is told apart."""

    local_addresses: Intervals
    is_sent: bool
    mark: int
    foreign_addresses: Intervals = EMPTY


class Deviation(NamedTuple):
    """A share that differs: of the packets of a class that `atom` describes, the outcome's on both sides."""

    atom: Atom
    outcome: Outcome
    left: Fraction
    right: Fraction


class Compared(NamedTuple):
    """One class. `deviations`: how the sides differ, empty when they are equal.

    `unknown`: which rule is not understood, "" when all are.
    """

    region: Region
    deviations: tuple[Deviation, ...]
    unknown: str
    left: list[Ending]
    right: list[Ending]


def compare(sides: Sides, cells: Iterable[list[Ending]], other: Follow, bound: Bound) -> Iterator[Compared]:
    """Every class of `cells` (the left side's answers), as `other` says it. `bound`: of a share, beyond rounding."""
    for endings in cells:
        for answer in other(endings[0].cell):
            region = answer[0].cell
            left = within(endings, region)
            if left:
                yield from _compare_cell(sides, region, left, answer, bound)


def within(endings: list[Ending], region: Region) -> list[Ending]:
    """The same Endings of fewer packets; those that have none of them are left out."""
    cell = endings[0].cell
    if cell is region:
        return endings
    found = []
    for ending in endings:
        smaller = region if ending.region is cell else intersect(ending.region, region)
        if smaller is not None:
            found.append(ending._replace(cell=region, region=smaller))
    return found


def intersect(one: Region, other: Region) -> Region | None:
    """The packets of both; None where there are none by any single domain or fact."""
    domains: list[Domain] = []
    for mine, theirs in zip(one.domains, other.domains, strict=True):
        if mine is theirs:
            domains.append(mine)
            continue
        both = intersect_bits(mine, theirs) if isinstance(mine, Cube) else mine & theirs  # type: ignore[operator,arg-type]
        if both is None or (isinstance(both, Intervals) and not both):
            return None
        domains.append(both)
    known = dict(one.facts)
    for name, value in other.facts:
        if known.setdefault(name, value) != value:
            return None
    if one.linked is not None and other.linked is not None and one.linked is not other.linked:
        return None
    excluded = tuple(dict.fromkeys((*one.excluded, *other.excluded)))
    linked = one.linked if one.linked is not None else other.linked
    return Region(tuple(domains), tuple(known.items()), excluded, linked)


def _compare_cell(
    sides: Sides, region: Region, left: list[Ending], right: list[Ending], bound: Bound
) -> Iterator[Compared]:
    """Splits the class by what only some of what was drawn depends on, and compares each part."""
    unknown = next((one.why for one in (*left, *right) if one.outcome.fate is Fate.UNKNOWN), None)
    if unknown is not None:
        yield Compared(region, (), unknown or _UNSAID, left, right)
        return
    if _signature(region, left) == _signature(region, right):
        yield Compared(region, (), "", left, right)
        return
    division = _division(sides, region, (*left, *right))
    if division is not None:
        for part in division:
            smaller_left, smaller_right = ([*_inside(side, part)] for side in (left, right))
            yield from _compare_cell(sides, part, smaller_left, smaller_right, bound)
        return
    one, two = (_distribution(sides, region, side) for side in (left, right))
    yield Compared(region, _deviations(one, two, bound), "", left, right)


def _signature(region: Region, endings: Iterable[Ending]) -> Counter[Hashable]:
    """What says that two answers are equal without a look at each endpoint: the same parts with the same shares."""
    return Counter(
        (
            ending.relation,
            ending.is_local,
            ending.outcome,
            ending.endpoints,
            None if ending.region is region else (ending.region.domains, frozenset(ending.region.facts)),
        )
        for ending in endings
    )


# Nothing is said about some packets, so that nothing can be wrong.
_UNSAID = "-"


def is_unsaid(compared: Compared) -> bool:
    """Whether nothing is meant about these packets."""
    return compared.unknown == _UNSAID


def _inside(endings: Iterable[Ending], region: Region) -> Iterator[Ending]:
    for ending in endings:
        smaller = intersect(ending.region, region)
        if smaller is not None:
            yield ending._replace(cell=region, region=smaller)


def _division(sides: Sides, region: Region, endings: Iterable[Ending]) -> list[Region] | None:
    """Disjoint parts of a class, where an Ending is for a part of it that its endpoints do not explain."""
    for ending in endings:
        if ending.region is region:
            continue
        divided = _divide_domains(sides, region, ending) or _divide_facts(region, ending)
        if divided is not None:
            return divided
    return None


def _divide_domains(sides: Sides, region: Region, ending: Ending) -> list[Region] | None:
    for variable, domain in enumerate(ending.region.domains):
        whole = region.domains[variable]
        if domain == whole:
            continue
        parts: list[Domain] | None = None
        if isinstance(domain, Cube) and isinstance(whole, Cube):
            parts = _divide_bits(sides, variable, whole, domain)
        elif isinstance(domain, Intervals) and isinstance(whole, Intervals):
            parts = None if _is_explained(variable, whole, domain, ending) else [whole & domain, whole - domain]
        if parts:
            return [region.narrowed(variable, part) for part in parts if part]
    return None


def _divide_bits(sides: Sides, variable: int, whole: Cube, part: Cube) -> list[Domain] | None:
    more = part.mask & ~whole.mask
    if variable == MARK:
        more &= ~sides.mark
    if not more:
        return None
    equal, others = split_bits(whole, more, part.value)
    return [*([equal] if equal is not None else []), *others]


def _is_explained(variable: int, whole: Intervals, part: Intervals, ending: Ending) -> bool:
    """Whether only the source differs, and that because it is the endpoint or is not."""
    if variable != SRC or len(ending.endpoints.endpoints) != 1:
        return False
    (endpoint,) = ending.endpoints.endpoints
    if endpoint is None:
        return False
    one = Intervals.one(endpoint[0])
    return part == whole & one or part == whole - one


def _divide_facts(region: Region, ending: Ending) -> list[Region] | None:
    """An Ending may know of other addresses than its own endpoint whether they are the node's."""
    known = dict(region.facts)
    own = {endpoint[0] for endpoint in ending.endpoints.endpoints if endpoint is not None}
    for name, value in ending.region.facts:
        if name not in known and name not in own:
            return [region.knowing(name, decided) for decided in (True, False)] if isinstance(value, bool) else None
    if ending.region.linked is not None and region.linked is None:
        return [part for part, _ in region.equal_ends()]
    return None


def _distribution(sides: Sides, region: Region, endings: Iterable[Ending]) -> Distribution:
    found: Distribution = {}
    sources = region.numbers(SRC)
    for ending in endings:
        marks = _marks(sides, region, ending)
        for endpoint, share in ending.endpoints.items():
            atoms: Iterable[tuple[bool | None, bool | None]] = (
                [(None, None)] if endpoint is None else _atoms(sides, sources, region, ending, endpoint)
            )
            for equal, is_local in atoms:
                for mark in marks:
                    shares = found.setdefault((endpoint, equal, is_local, mark), {})
                    shares[ending.outcome] = shares.get(ending.outcome, Fraction(0)) + share
    return found


def _atoms(
    sides: Sides, sources: Intervals, region: Region, ending: Ending, endpoint: Endpoint
) -> Iterator[tuple[bool, bool]]:
    """For which of the packets an endpoint of an Ending counts."""
    address = endpoint[0]
    domain = ending.region.numbers(SRC)
    equals = []
    if address in sources and address in domain and ending.relation is not False:
        equals.append(True)
    if domain.only != address and ending.relation is not True:
        equals.append(False)
    for equal in equals:
        yield from ((equal, is_local) for is_local in _locals(sides, region, ending, address, equal=equal))


def _locals(sides: Sides, region: Region, ending: Ending, address: int, *, equal: bool) -> tuple[bool, ...]:
    """Whether the endpoint's address is the node's: what is not ruled out by what is known."""
    known: list[object] = [ending.is_local, region.fact(address), ending.region.fact(address)]
    if address in sides.local_addresses:
        known.append(True)
    if address in sides.foreign_addresses:
        known.append(False)
    if equal:
        known.append(sides.is_sent)
    if region.numbers(DST).only == address:
        known.append(region.fact(("local", DST)))
    ruled = {bool(one) for one in known if one is not None}
    return tuple({True, False} if not ruled else ruled if len(ruled) == 1 else ())


def _marks(sides: Sides, region: Region, ending: Ending) -> tuple[bool | None, ...]:
    if region.bits(MARK).mask & sides.mark == sides.mark:
        return (None,)
    cube = ending.region.bits(MARK)
    if cube.mask & sides.mark == sides.mark:
        return (cube.value & sides.mark == sides.mark,)
    return (True, False)


def _deviations(left: Distribution, right: Distribution, bound: Bound) -> tuple[Deviation, ...]:
    if left == right:
        return ()
    found = []
    for atom in left.keys() | right.keys():
        one, two = left.get(atom, {}), right.get(atom, {})
        if one == two:
            continue
        for outcome in one.keys() | two.keys():
            share, wanted = one.get(outcome, Fraction(0)), two.get(outcome, Fraction(0))
            if bool(share) != bool(wanted) or abs(share - wanted) > bound(atom[0], wanted):
                found.append(Deviation(atom, outcome, share, wanted))
    return tuple(found)


def only(sides: Sides, region: Region, atom: Atom) -> Region | None:
    """The packets of a class that an atom describes; None where there are none."""
    endpoint, equal, _, mark = atom
    if endpoint is not None and equal is not None:
        sources = region.numbers(SRC)
        one = Intervals.one(endpoint[0])
        domain = sources & one if equal else sources - one
        if not domain:
            return None
        region = region.narrowed(SRC, domain)
    if mark is not None:
        marked, others = split_bits(region.bits(MARK), sides.mark, sides.mark)
        cube = marked if mark else next(iter(others), None)
        if cube is None:
            return None
        region = region.narrowed(MARK, cube)
    return region


def rounding(draws: int) -> Bound:
    """Nothing beyond what the kernel rounds at so many rules that draw."""
    bound = ROUNDING * draws
    return lambda _, __: bound
