"""What differs from what was taken last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rulegen.reconcile.delta import Change, Delta
from rulegen.reconcile.tracked import Tracked


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 2)))))
def test_takes_are_the_differences_of_what_there_was(rounds: list[list[tuple[int, int | None]]]) -> None:
    tracked: Tracked[int, int] = Tracked()
    before: dict[int, int] = {}
    for changes in rounds:
        now = dict(before)
        for key, value in changes:
            tracked.set(key, value)
            if value is None:
                now.pop(key, None)
            else:
                now[key] = value
        keys = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
        assert tracked.take() == {key: Change(before.get(key), now.get(key)) for key in keys}
        assert dict(tracked.items()) == now
        assert (len(tracked), set(tracked)) == (len(now), set(now))
        before = now
    assert tracked.take() == {}


def test_deltas_of_features_are_put_together_without_a_copy_where_there_is_one() -> None:
    one: Delta[str, int] = Delta({"a": 1})
    none: Delta[str, int] = Delta()
    assert none.merged(one) is one
    assert one.merged(none) is one
    both = one.merged(Delta({"b": 2}, {"c": Change(1, 2)}, {"d": 4}))
    assert both == Delta({"a": 1, "b": 2}, {"c": Change(1, 2)}, {"d": 4})
    assert both.counts == (2, 1, 1)
