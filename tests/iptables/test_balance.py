"""Probabilities: what consecutive rules really give each endpoint."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rulegen.services.on_iptables.balance import match, shares, thresholds

TOLERANCE = 1e-9


@given(st.lists(st.integers(1, 65535), min_size=1, max_size=300))
def test_every_weight_gets_its_share(weights: list[int]) -> None:
    found = shares(thresholds(tuple(weights)))
    assert len(found) == len(weights)
    for share, weight in zip(found, weights, strict=True):
        assert share == pytest.approx(weight / sum(weights), abs=TOLERANCE)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 32, 1_000, 5_000, 20_000])
def test_equal_endpoints_get_equal_shares(count: int) -> None:
    assert shares(thresholds((1,) * count)) == pytest.approx([1 / count] * count, abs=TOLERANCE)


def test_the_lightest_beside_thousands_of_the_heaviest_is_not_starved() -> None:
    found = thresholds((1, *(65535,) * 9_999))
    assert min(found) >= 1
    assert shares(found)[0] == pytest.approx(1 / (1 + 65535 * 9_999), abs=TOLERANCE)


@given(st.integers(1, 2**31 - 1))
def test_the_text_is_what_the_kernel_keeps(threshold: int) -> None:
    """iptables reads a decimal number, keeps 31 bits of it, and lists eleven decimals of those."""
    text = match(threshold)
    probability = re.search(r"--probability ([01]\.\d{11})$", text)
    assert probability is not None
    kept = round(float(probability[1]) * 2**31)
    assert kept == threshold
    assert f"{kept / 2**31:.11f}" == probability[1]
