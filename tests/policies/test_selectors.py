"""Label selectors: their meaning, their one form, and that the index finds all that match."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from rulegen.policies.selected import Selected, SelectorIndex, selector_id
from rulegen.policies.selectors import (
    NAMESPACE_NAME,
    Operator,
    Requirement,
    Selector,
    Selects,
    all_of,
    fulfils,
    in_namespace,
    requirement,
)

KEYS = st.sampled_from(["app", "tier", NAMESPACE_NAME])
VALUES = st.sampled_from(["", "1", "2", "3"])
LABELS = st.dictionaries(KEYS, VALUES)


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    operator = draw(st.sampled_from(Operator))
    takes_values = operator in {Operator.IN, Operator.NOT_IN}
    values = draw(st.lists(VALUES, min_size=1, max_size=3)) if takes_values else []
    return requirement(draw(KEYS), operator, values)


SELECTORS = st.builds(
    Selector,
    st.just(Selects.PODS),
    st.lists(requirements(), max_size=3).map(all_of),
    st.lists(requirements(), max_size=3).map(all_of),
)


@pytest.mark.parametrize(
    ("operator", "values", "matching"),
    [
        (Operator.IN, ["1"], [{"app": "1"}]),
        (Operator.IN, ["1", ""], [{"app": "1"}, {"app": ""}]),
        (Operator.NOT_IN, ["1"], [{}, {"app": "2"}, {"app": ""}]),
        (Operator.EXISTS, [], [{"app": "1"}, {"app": "2"}, {"app": ""}]),
        (Operator.DOES_NOT_EXIST, [], [{}]),
    ],
)
def test_operators(operator: Operator, values: list[str], matching: list[dict[str, str]]) -> None:
    everything: list[dict[str, str]] = [{}, {"app": "1"}, {"app": "2"}, {"app": ""}]
    wanted = requirement("app", operator, values)
    assert [labels for labels in everything if wanted.matches(labels)] == matching


@given(st.lists(SELECTORS, max_size=8), LABELS, LABELS)
def test_the_index_finds_what_matches(
    selectors: list[Selector], namespace: dict[str, str], labels: dict[str, str]
) -> None:
    index = SelectorIndex()
    used = {selector: Selected(selector) for selector in selectors}
    for selected in used.values():
        index.add(selected)
    expected = {
        selector
        for selector in selectors
        if fulfils(selector.namespaces, namespace) and fulfils(selector.labels, labels)
    }
    assert {selected.selector for selected in index.matching(namespace, labels)} == expected
    for selected in used.values():
        index.discard(selected)
    assert not index._by_namespace


@given(st.lists(requirements(), max_size=4), st.randoms())
def test_the_order_of_requirements_means_nothing(items: list[Requirement], shuffled: object) -> None:
    again = [*items, *items]
    shuffled.shuffle(again)  # type: ignore[attr-defined]
    assert all_of(items) == all_of(again)


def test_ids_tell_selectors_apart() -> None:
    app = (requirement("app", Operator.IN, ["web"]),)
    selectors = [
        Selector(Selects.PODS, (), ()),
        Selector(Selects.PODS, app, ()),
        Selector(Selects.PODS, (), app),
        Selector(Selects.PODS, (), (requirement("app", Operator.NOT_IN, ["web"]),)),
        Selector(Selects.PODS, (), (requirement("app", Operator.IN, ["web", "db"]),)),
        Selector(Selects.PODS, (), (requirement("app", Operator.IN, ["web,db"]),)),
        Selector(Selects.NODES, (), app),
    ]
    assert len({selector_id(selector) for selector in selectors}) == len(selectors)


def test_in_words() -> None:
    app = all_of([requirement("app", Operator.IN, ["web"]), requirement("tier", Operator.DOES_NOT_EXIST)])
    assert str(Selector(Selects.PODS, in_namespace("shop"), app)) == "pods app=web,!tier in namespace shop"
    team = (requirement("team", Operator.NOT_IN, ["a", "b"]),)
    assert str(Selector(Selects.PODS, team, ())) == "all pods in namespaces team notin (a,b)"
    assert str(Selector(Selects.NODES, (), ())) == "all nodes"
