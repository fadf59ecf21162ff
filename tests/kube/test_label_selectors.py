"""Label selectors, judged by what kubectl's documentation says of each form."""

from __future__ import annotations

import pytest

from rulegen.errors import InputError
from rulegen.kube.label_selectors import parse_selector

LABELS = {"app": "web", "tier": "front", "example.com/a-b": "1.0", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("app=web", True),
        ("app==web", True),
        ("app!=web", False),
        ("missing!=web", True),
        ("app", True),
        ("!app", False),
        ("! missing", True),
        ("app in (api, web)", True),
        ("app notin (api,web)", False),
        ("missing notin (a)", True),
        ("missing in (a)", False),
        ("app=web,tier=front", True),
        ("app=web, tier=back", False),
        ("example.com/a-b=1.0", True),
        ("empty=", True),
        ("app=", False),
        ("in=a", False),
        (" app = web , !old ", True),
    ],
)
def test_what_matches(text: str, matches: bool) -> None:
    assert parse_selector(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    "text", ["", ",", "app=web,", "=web", "app in", "app in (", "app in ()", "app in (a", "a b", "a=b=c", "!", "a in a"]
)
def test_what_is_no_selector_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match="label selector"):
        parse_selector(text)


@pytest.mark.parametrize("text", ["app=\x1b[31m", "app;web", "a" * 5000, "ünï=1"])
def test_nothing_of_it_reaches_a_terminal(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_selector(text)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300
