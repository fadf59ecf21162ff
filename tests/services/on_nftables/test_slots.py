"""Weights become slots, and slots keep their endpoints."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rulegen.services.on_nftables.slots import (
    MAX_SLOTS,
    TOLERANCE,
    _apportion,
    assign_slots,
    rounding_error,
    slot_counts,
)

weights = st.lists(st.integers(1, 65535), min_size=1, max_size=60)
wanted = st.dictionaries(st.integers(0, 30), st.integers(1, 5), max_size=20)


@given(weights=weights)
def test_d9_every_endpoint_is_within_a_hundredth_of_its_share_or_the_cap_is_reached(weights: list[int]) -> None:
    counts = slot_counts(weights)
    assert min(counts) >= 1
    assert sum(counts) <= MAX_SLOTS
    assert rounding_error(weights, counts) <= TOLERANCE or sum(counts) == MAX_SLOTS


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([], []),
        ([7], [1]),
        ([65535] * 3, [1, 1, 1]),
        ([5, 2, 1], [5, 2, 1]),
        ([50, 20, 10], [5, 2, 1]),
        ([1] * 1024, [1] * 1024),
        ([1] * 5000, [1] * 5000),
        ([1, 4095], [1, 4095]),
    ],
)
def test_d9_small_weights_are_exact(weights: list[int], counts: list[int]) -> None:
    assert slot_counts(weights) == counts


def test_d9_no_weight_is_starved_by_heavy_ones() -> None:
    counts = slot_counts([1] + [65535] * 10)
    assert counts[0] == 1
    assert sum(counts) == MAX_SLOTS
    assert max(counts[1:]) - min(counts[1:]) <= 1
    crowd = slot_counts([65535] + [1] * (MAX_SLOTS + 4))
    assert set(crowd) == {1}


@given(weights=weights, seed=st.integers())
def test_the_order_of_equal_weights_is_the_only_thing_that_order_decides(weights: list[int], seed: int) -> None:
    order = list(range(len(weights)))
    Random(seed).shuffle(order)
    counts = slot_counts(weights)
    shuffled = slot_counts([weights[index] for index in order])
    assert Counter(zip((weights[index] for index in order), shuffled, strict=True)) == Counter(
        zip(weights, counts, strict=True)
    )


@given(before=st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60), wanted=wanted)
def test_slots_are_filled_with_exactly_what_is_wanted(before: list[int | None], wanted: dict[int, int]) -> None:
    slots = assign_slots(before, wanted)
    assert Counter(slots) == Counter(wanted)


@given(before=wanted, wanted=wanted)
def test_what_stays_keeps_its_slot_unless_the_list_gets_shorter(before: dict[int, int], wanted: dict[int, int]) -> None:
    slots = assign_slots((), before)
    after = assign_slots(slots, wanted)
    kept: Counter[int] = Counter()
    for old, new in zip(slots, after, strict=False):
        if old == new:
            kept[old] += 1
    staying = Counter(before) & Counter(wanted)
    moved = (staying - kept).total()
    assert moved <= max(0, len(slots) - len(after))
    assert assign_slots(after, wanted) == after


def test_one_endpoint_less_moves_only_the_last_one() -> None:
    slots = assign_slots((), dict.fromkeys("abcdef", 1))
    assert assign_slots(slots, dict.fromkeys("acdef", 1)) == list("afcde")
    assert assign_slots(slots, dict.fromkeys("abcdefg", 1)) == list("abcdefg")
    assert assign_slots(slots, dict.fromkeys("abXdef", 1)) == list("abXdef")


@given(weights=weights, exponent=st.integers(0, 2))
def test_d9_the_heaviest_give_way_one_slot_at_a_time(weights: list[int], exponent: int) -> None:
    """As the rule says it, which takes the square of the number of endpoints."""
    slots = 1 << (len(weights) - 1).bit_length() + exponent
    total = sum(weights)
    expected = [max(1, weight * slots // total) for weight in weights]
    order = sorted(range(len(weights)), key=lambda index: (-(weights[index] * slots % total), index))
    for index in order[: max(0, slots - sum(expected))]:
        expected[index] += 1
    while sum(expected) > slots:
        expected[max(range(len(weights)), key=lambda index: (expected[index], -index))] -= 1
    assert _apportion(weights, slots) == expected


def test_d9_thousands_of_light_endpoints_and_a_heavy_one() -> None:
    assert slot_counts([1] * 4000 + [65535]) == [1] * 4000 + [96]
