"""Sets of numbers and of packets, beside Python's own sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rulegen.netfilter.bpf import compares_addresses
from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.machine import everything
from rulegen.netfilter.model import Family
from rulegen.netfilter.regions import DPORT, DST, PROTO, SRC, Cube, simplest, split_bits
from rulegen.netfilter.tables import KeyTable
from rulegen.netfilter.values import Part

SMALL = 40
numbers = st.frozensets(st.integers(0, SMALL))


def of(members: frozenset[int]) -> Intervals:
    return Intervals.of((one, one) for one in members)


@given(numbers, numbers)
def test_intervals_are_sets(one: frozenset[int], two: frozenset[int]) -> None:
    left, right = of(one), of(two)
    assert set(left & right) == one & two
    assert set(left - right) == one - two
    assert set(left | right) == one | two
    assert set(left.complement(SMALL)) == set(range(SMALL + 1)) - one
    assert (left == right) is (one == two)
    assert left.count == len(one)
    assert all((number in left) is (number in one) for number in range(SMALL + 2))


@given(numbers, st.integers(0, SMALL), st.integers(0, SMALL))
def test_a_range_is_taken_out(members: frozenset[int], low: int, high: int) -> None:
    left = Intervals.of([(low, high)]) if low <= high else of(frozenset())
    assert set(of(members) - left) == {one for one in members if not low <= one <= high}


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_bits_are_split_into_disjoint_parts(known: int, value: int, mask: int, wanted: int) -> None:
    cube = Cube(known, value & known)
    equal, rest = split_bits(cube, mask, wanted)
    parts = [part for part in (equal, *rest) if part is not None]
    for number in range(256):
        inside = [part for part in parts if number & part.mask == part.value]
        assert len(inside) == (number & cube.mask == cube.value)
        if inside:
            assert (inside[0] is equal) is (number & mask == wanted & mask)


keys = st.frozensets(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 5)), max_size=30)


@given(keys, keys, st.integers(1, 6), st.integers(1, 4), st.integers(1, 6))
def test_two_lookups_split_all_packets(
    first: frozenset[tuple[int, int, int]],
    second: frozenset[tuple[int, int, int]],
    places: int,
    protocols: int,
    ports: int,
) -> None:
    region = everything(Family.IPV4).narrowed_to(
        {
            DST: Intervals.of([(0, places - 1)]),
            PROTO: Intervals.of([(0, protocols - 1)]),
            DPORT: Intervals.of([(0, ports - 1)]),
        }
    )
    parts = [Part(DST), Part(PROTO), Part(DPORT)]
    tables = [KeyTable((tuple((one, one) for one in key), key) for key in some) for some in (first, second)]
    found = tables[0].lookup(region, parts)
    left = list(found.rest)
    reached = {data for one, data in found.hits if simplest(one, {}) is not None}
    for one in left:
        again = tables[1].lookup(one, parts)
        reached |= {data for part, data in again.hits if simplest(part, {}) is not None}
        for rest in again.rest:
            packet = simplest(rest, {})
            assert packet is None or (packet[DST], packet[PROTO], packet[DPORT]) not in first | second
    inside = {key for key in first | second if key[0] < places and key[1] < protocols and key[2] < ports}
    assert reached == inside
    everywhere = {
        (place, protocol, port) for place in range(places) for protocol in range(protocols) for port in range(ports)
    }
    is_left = any(simplest(rest, {}) is not None for one in left for rest in tables[1].lookup(one, parts).rest)
    assert is_left is bool(everywhere - first - second)


@pytest.mark.parametrize(("protocol", "left"), [(17, None), (132, 7), (6, 0)])
def test_whole_ranges_that_were_missed_are_seen(protocol: int, left: int | None) -> None:
    """However many sources there are beside, of which a few have been missed as well."""
    region = everything(Family.IPV4).narrowed_to(
        {
            SRC: Intervals.of([(0, 999)]),
            DST: Intervals.of([(0, 9)]),
            PROTO: Intervals.of([(6, 6), (17, 17), (132, 132)]),
        }
    )
    pairs = KeyTable([(((1, 1), (1, 1)), None), (((2, 2), (3, 3)), None)])
    ports = KeyTable([(((17, 17), (0, 65535)), None), (((132, 132), (0, 6)), None), (((132, 132), (8, 65535)), None)])
    (rest,) = pairs.lookup(region, [Part(SRC), Part(DST)]).rest
    (rest,) = ports.lookup(rest, [Part(PROTO), Part(DPORT)]).rest
    packet = simplest(rest.narrowed(PROTO, Intervals.one(protocol)), {})
    assert (packet and packet[DPORT]) == left


def test_what_is_left_behind_a_large_range_is_found() -> None:
    region = everything(Family.IPV4).narrowed_to({PROTO: Intervals.of([(6, 6), (17, 17)])})
    half = KeyTable([(((17, 17), (0, 1 << 31)), None)])
    (rest,) = half.lookup(region, [Part(PROTO), Part(SRC)]).rest
    packet = simplest(rest.narrowed(PROTO, Intervals.one(17)), {})
    assert packet is not None
    assert packet[SRC] == (1 << 31) + 1


@given(numbers, numbers)
def test_equal_ends(sources: frozenset[int], destinations: frozenset[int]) -> None:
    if not sources or not destinations:
        return
    region = everything(Family.IPV4).narrowed_to({SRC: of(sources), DST: of(destinations)})
    for part, equal in region.equal_ends():
        packet = simplest(part, {})
        if packet is not None:
            assert (packet[SRC] == packet[DST]) is equal
            assert packet[SRC] in sources
            assert packet[DST] in destinations
    found = {equal for part, equal in region.equal_ends() if simplest(part, {}) is not None}
    assert (True in found) is bool(sources & destinations)
    assert (False in found) is (len(sources | destinations) > 1)


IPV4_FILTER = "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 1,6 0 0 0"


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        (IPV4_FILTER, True),
        (IPV4_FILTER.replace("6 0 0 1,6 0 0 0", "6 0 0 0,6 0 0 1"), False),
        (IPV4_FILTER.replace("32 0 0 16", "32 0 0 20"), False),
        (IPV4_FILTER.replace("32 0 0 12", "32 0 0 16"), False),
        (IPV4_FILTER.replace("29 0 1 0", "29 1 0 0"), False),
        ("1,6 0 0 1", False),
        ("7,6 0 0 1", False),
        ("nonsense", False),
        ("1,5 0 0 0", False),
    ],
)
def test_which_filters_compare_addresses(text: str, matches: bool) -> None:
    assert compares_addresses(Family.IPV4, text) is matches
