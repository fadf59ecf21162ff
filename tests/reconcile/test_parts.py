"""Mappings in parts are what they are in one piece, and so is what differs between two."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from rulegen.reconcile.delta import Change, Delta, diff
from rulegen.reconcile.parts import InParts, together

WHOLE = st.dictionaries(st.integers(0, 30), st.integers(1, 3), max_size=30)


def _in_parts(whole: Mapping[int, int]) -> InParts[int, int]:
    """Of a key is known in which part it is; empty parts are there or not."""
    parts: dict[Hashable, dict[int, int]] = {None: {}}
    for key, value in whole.items():
        parts.setdefault(key % 3 or None, {})[key] = value
    return InParts(parts)


def _plain(delta: Delta[int, int]) -> tuple[dict[int, int], dict[int, Change[int]], dict[int, int]]:
    return dict(delta.added), dict(delta.changed), dict(delta.removed)


@given(WHOLE)
def test_it_is_the_same_in_one_piece(whole: dict[int, int]) -> None:
    parts = _in_parts(whole)
    assert parts == whole
    assert len(parts) == len(whole)
    assert dict(parts.items()) == whole
    assert [parts.get(key) for key in range(31)] == [whole.get(key) for key in range(31)]


@given(WHOLE, WHOLE)
def test_the_same_differs(live: dict[int, int], desired: dict[int, int]) -> None:
    wanted = _plain(diff(live, desired))
    assert _plain(diff(_in_parts(live), _in_parts(desired))) == wanted
    # What comes from a file is in one piece.
    assert _plain(diff(live, _in_parts(desired))) == wanted
    assert _plain(diff(_in_parts(live), desired)) == wanted


@given(WHOLE, WHOLE)
def test_those_of_two_features_are_put_together(one: dict[int, int], other: dict[int, int]) -> None:
    other = {key + 100: value for key, value in other.items()}
    both = {**one, **other}
    assert together(one, other) == both
    assert together(_in_parts(one), other) == both
    assert together(one, _in_parts(other)) == both
    assert together(_in_parts(one), _in_parts(other)) == both
