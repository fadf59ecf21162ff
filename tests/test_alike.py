"""Names that may have been meant, whatever people and tenants call things."""

from __future__ import annotations

from rulegen.alike import alike
from tests.lengths import assert_linear


def test_what_is_spelt_alike_is_found_the_likest_first() -> None:
    names = ["shop/web", "shop/db", "shop/webs", "other/web", "kube-system/kube-dns"]
    assert alike("shop/wbe", names) == ["shop/web", "shop/webs", "shop/db"]
    assert alike("shop/web", names, 1) == ["shop/web"]
    assert alike("nothing", names) == []
    assert alike("kubedns", ["kube-dns", "x" * 1000], 1, 0.75) == ["kube-dns"]


def test_a_name_of_any_length_costs_no_more_than_its_length() -> None:
    candidates = ["ab" * 60, "ba" * 60, "a" * 127] * 3
    assert_linear(lambda size: alike("ab" * size, candidates), 1_000)


def test_names_without_number_cost_no_more_than_their_number() -> None:
    assert_linear(lambda size: alike("ab" * 60, ["ba" * 60, "ab" * 61] * size), 2_000)


def test_what_people_type_is_cut_before_it_is_compared() -> None:
    assert alike("a" * 100_000, ["a" * 128, "a" * 20]) == ["a" * 128]
