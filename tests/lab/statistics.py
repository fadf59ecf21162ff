"""Counts of a random choice come in, whether they fit the asked shares comes out: chi-squared, fixed significance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist


def packets_to_see_all(shares: Mapping[str, float], *, one_in: int = 1_000_000) -> int:
    """So many that the chance to miss any of the choices is less than one in `one_in`."""
    least = min(shares.values())
    return 1 if least == 1 else math.ceil(math.log(1 / one_in / len(shares)) / math.log1p(-least))


def assert_shares(counts: Mapping[str, int], shares: Mapping[str, float], *, one_in: int = 100_000) -> None:
    """Fails when `counts` could come from choices with the probabilities `shares` less than once in `one_in` times."""
    assert set(counts) == set(shares)
    total = sum(counts.values())
    statistic = sum((counts[choice] - total * share) ** 2 / (total * share) for choice, share in shares.items())
    assert statistic <= _critical(len(shares) - 1, one_in), (
        f"{dict(counts)} is not {dict(shares)}: chi-squared {statistic:.1f}"
    )


def _critical(freedom: int, one_in: int) -> float:
    """The quantile of chi-squared after Wilson and Hilferty; too large rather than too small this far out."""
    if not freedom:
        return 0.0
    spread = 2 / (9 * freedom)
    quantile = NormalDist().inv_cdf(1 - 1 / one_in)
    return float(freedom * (1 - spread + quantile * math.sqrt(spread)) ** 3)
