"""Weights come in, the probabilities of consecutive rules go out, as `-m statistic --mode random` keeps them. Pure.

The kernel draws a number of 31 bits for each such rule and compares it with the rule's threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

_RANGE = 1 << 31


@lru_cache(maxsize=4096)
def thresholds(weights: tuple[int, ...]) -> tuple[int, ...]:
    """The threshold of every rule but the last, which takes what is left; weights are at least 1.

    Each is computed from what the rules before it really let through, so that rounding does not add up: every share is
    within 2^-31 of what it should be, and none is 0.
    """
    total = sum(weights)
    rest = total
    reached = 1.0
    found = []
    for weight in weights[:-1]:
        rest -= weight
        threshold = min(_RANGE - 1, max(1, round(_RANGE * (1 - rest / total / reached))))
        found.append(threshold)
        reached *= 1 - threshold / _RANGE
    return tuple(found)


def shares(rules: Sequence[int]) -> list[float]:
    """What each of consecutive rules with these thresholds gets, and a last one without."""
    reached = 1.0
    found = []
    for threshold in rules:
        found.append(reached * threshold / _RANGE)
        reached -= found[-1]
    return [*found, reached]


@lru_cache(maxsize=65536)
def match(threshold: int) -> str:
    """The match of one rule, as iptables-save writes it: eleven decimals tell every threshold from its neighbours."""
    return f"-m statistic --mode random --probability {threshold / _RANGE:.11f}"
