"""What is in deploy/monitoring: alerts and a dashboard of metrics that the agent has, as docs/metrics.md says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
MONITORING = REPOSITORY / "deploy/monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]["groups"][0][
    "rules"
]

# Words of PromQL that look like metrics.
_FUNCTIONS = {"sum", "max", "min", "count", "rate", "increase", "histogram_quantile", "by", "or", "and", "label_values"}
_WORD = re.compile(r"\b[a-z][a-z0-9_:]+\b")


def _metrics_in(expression: str) -> set[str]:
    """The names of series, without those of labels and what is between quotes."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without) *\([^)]*\)", "", expression)
    return set(_WORD.findall(bare)) - _FUNCTIONS


def _series(name: str) -> str:
    """The metric that a series is of."""
    return re.sub(r"_(?:bucket|sum|count)$", "", name)


def _panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield from (panel, *panel.get("panels", ()))


def _expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in _panels() for target in panel.get("targets", ()))
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"].partition(",")[0]


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """Those of docs/metrics.md, which tests of the agent hold to what it answers, and the process's own."""
    text = (REPOSITORY / "docs/metrics.md").read_text()
    return {*re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE), "process_resident_memory_bytes"}


def test_each_metric_in_the_dashboard_and_the_alerts_exists(documented: set[str]) -> None:
    named = {_series(name) for expression in _expressions() for name in _metrics_in(expression)}
    assert len(named) > 15
    assert named - documented == set()


def test_each_alert_of_the_documentation_is_a_rule() -> None:
    section = (REPOSITORY / "docs/metrics.md").read_text().partition("## Alerts to begin with")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `(.*?)`", section, re.MULTILINE)[0:]
    expressions = [rule["expr"] for rule in RULES]
    assert len(told) == len(expressions) == 8
    for words, expression in zip(told, expressions, strict=True):
        assert expression.startswith(words)


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_dashboard_has_a_place_for_each_panel() -> None:
    numbers = [panel["id"] for panel in _panels()]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in _panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])
