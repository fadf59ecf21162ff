"""Which cases of large matrices run: a part chosen by a seed, or all of them with `--exhaustive`.

A test that makes many cases by its parameters is marked `part(N)`: one in N of them is kept. A test that makes them
itself asks for the fixture `extent`. `--one-in N`, for machines that are slow, leaves that many times less of every
test's cases, but for those marked `part(0)`, of which all are needed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import pytest

_one_in = 1


def choose(one_in: int) -> None:
    """What `examples` goes by, before the modules of tests are imported."""
    global _one_in  # noqa: PLW0603 - hypothesis takes numbers when a module is imported
    _one_in = one_in


def examples(usual: int) -> int:
    """How many examples hypothesis makes of a test for which each costs a second or more on a slow machine."""
    return max(2, usual // _one_in)


class Extent(NamedTuple):
    """How much is to be tried. `seed`: chooses the part, where it is not `exhaustive`. `one_in`: and of the part."""

    exhaustive: bool
    seed: int
    one_in: int

    @classmethod
    def of(cls, config: pytest.Config) -> Extent:
        """As the options say."""
        return cls(config.getoption("exhaustive"), config.getoption("part_seed"), config.getoption("one_in"))

    def __str__(self) -> str:
        """For the head of pytest's output."""
        return "all cases" if self.exhaustive else f"a part of the matrices, chosen by seed {self.seed}"


def left_out(items: Sequence[pytest.Item], extent: Extent) -> list[pytest.Item]:
    """The cases that do not belong to the part: of each test all but one in N, rounded up."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    dropped = []
    for name, members in cases.items():
        marker = members[0].get_closest_marker("part")
        one_in = (1 if extent.exhaustive or marker is None else marker.args[0]) * extent.one_in
        kept = -(-len(members) // max(1, one_in))
        dropped += random.Random(f"{extent.seed} {name}").sample(members, len(members) - kept)
    return dropped
