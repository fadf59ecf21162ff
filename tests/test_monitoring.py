"""What is in deploy/monitoring: alerts and a dashboard of metrics that the agent has, as docs/metrics.md says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rulegen.config import AgentConfiguration

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
def documented() -> dict[str, set[str]]:
    """Those of docs/metrics.md with their labels, to which tests hold what the agent answers; the process's own."""
    text = (REPOSITORY / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \| \w+(.*?) \|", text, re.MULTILINE)
    labels = {name: set(re.findall(r"`(\w+)`", words)) for name, words in rows}
    return {**labels, "process_resident_memory_bytes": set()}


def test_each_metric_in_the_dashboard_and_the_alerts_exists(documented: dict[str, set[str]]) -> None:
    named = {_series(name) for expression in _expressions() for name in _metrics_in(expression)}
    assert len(named) > 15
    assert named - documented.keys() == set()


# What Prometheus adds, the PodMonitor with `targetLabel` and the operator.
_OF_THE_TARGET = {"node", "job", "pod"}


def _labelled() -> Iterator[tuple[str, set[str]]]:
    """Each expression with the labels that it, its legend or its alert's text asks for."""
    for rule in RULES:
        yield rule["expr"], set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    for panel in _panels():
        for target in panel.get("targets", ()):
            yield target["expr"], set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))


def test_each_label_that_is_asked_for_is_one_of_the_metric(documented: dict[str, set[str]]) -> None:
    """A label that is not there would be an empty one: no series, or all in one."""
    asked = set()
    for expression, shown in _labelled():
        grouped = {label for labels in re.findall(r"\bby *\(([^)]*)\)", expression) for label in labels.split(", ")}
        matched = set(re.findall(r"[{,] *(\w+) *(?:=|!)~?", "".join(re.findall(r"\{[^}]*\}", expression))))
        (labels,) = {frozenset(documented[_series(name)]) for name in _metrics_in(expression)}
        assert (grouped | matched | shown) - labels - _OF_THE_TARGET <= {"le"} & grouped, expression
        asked |= grouped | matched | shown
    assert asked > {"kind", "reason", "ip_family", "traffic_policy", "change", "node"}


def test_only_the_agents_container_is_a_target() -> None:
    """A pod has a target for each container without ports, ended or not; tests/packages asks Prometheus."""
    monitor = next(yaml.safe_load_all((MONITORING / "podmonitor.yaml").read_text()))["spec"]
    documents = yaml.safe_load_all((REPOSITORY / "deploy/base/rulegen.yaml").read_text())
    template = next(one for one in documents if one["kind"] == "DaemonSet")["spec"]["template"]
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    # The address is put together, as the container names no port that an endpoint could.
    assert "ports" not in container
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint.keys() == {"path", "relabelings"}
    kept = {"sourceLabels": ["__meta_kubernetes_pod_container_name"], "regex": container["name"], "action": "keep"}
    assert endpoint["relabelings"][0] == kept
    ports = {one["replacement"].rpartition(":")[2] for one in endpoint["relabelings"] if "replacement" in one}
    assert ports == {str(AgentConfiguration().metrics_bind_address.port)}


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
