"""Which cases of large matrices run: a part chosen by a seed, or all of them with `--exhaustive`.

A test that makes many cases by its parameters is marked `part(N)`: one in N of them is kept. A test that makes them
itself asks for the fixture `extent`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import pytest


class Extent(NamedTuple):
    """How much is to be tried. `seed`: chooses the part, where it is not `exhaustive`."""

    exhaustive: bool
    seed: int

    @classmethod
    def of(cls, config: pytest.Config) -> Extent:
        """As the options say."""
        return cls(bool(config.getoption("exhaustive")), int(config.getoption("part_seed")))

    def __str__(self) -> str:
        """For the head of pytest's output."""
        return "all cases" if self.exhaustive else f"a part of the matrices, chosen by seed {self.seed}"


def left_out(items: Sequence[pytest.Item], seed: int) -> list[pytest.Item]:
    """The cases of tests marked `part(N)` that do not belong to the part: of each test all but one in N, rounded up."""
    cases: dict[Hashable, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("part"):
            cases[item.nodeid.partition("[")[0]].append(item)
    dropped = []
    for name, members in cases.items():
        (one_in,) = members[0].get_closest_marker("part").args  # type: ignore[union-attr]
        kept = -(-len(members) // one_in)
        dropped += random.Random(f"{seed} {name}").sample(members, len(members) - kept)
    return dropped
