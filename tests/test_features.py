"""Features that are off: what a person who gives objects for them is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rulegen.cli import main
from tests.policies.objects import pod, policy

MEANS_NOTHING = "hostPort of Pod: without --feature host-ports, it means nothing"


def with_host_port(**spec: Any) -> dict[str, Any]:
    made = pod("shop/web", "10.0.0.1", node="node-2")
    made["spec"]["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 8080}]
    made["spec"] |= spec
    return made


def as_sidecar() -> dict[str, Any]:
    made = with_host_port()
    containers = made["spec"]["containers"]
    made["spec"] |= {"initContainers": [{**containers[0], "restartPolicy": "Always"}], "containers": []}
    return made


def said(folder: Path, *arguments: str, objects: list[dict[str, Any]]) -> str:
    path = folder / "cluster.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    result = CliRunner().invoke(main, ["render", "-f", str(path), "--node", "node-1", *arguments])
    assert not result.exit_code, result.output
    return result.stderr


@pytest.mark.parametrize("made", [with_host_port(), as_sidecar()], ids=["container", "sidecar"])
def test_host_ports_of_pods_that_only_policies_are_read_from(made: dict[str, Any], tmp_path: Path) -> None:
    assert MEANS_NOTHING in said(tmp_path, "--feature", "network-policies", objects=[made])


@pytest.mark.parametrize(
    ("features", "made"),
    [
        (["host-ports", "network-policies"], with_host_port()),
        (["network-policies"], pod("shop/web", "10.0.0.1")),
        # Its ports are the node's whatever anybody does.
        (["network-policies"], with_host_port(hostNetwork=True)),
    ],
)
def test_nothing_is_said_where_nothing_is_missing(features: list[str], made: dict[str, Any], tmp_path: Path) -> None:
    chosen = [word for name in features for word in ("--feature", name)]
    assert "without --feature" not in said(tmp_path, *chosen, objects=[made])


def test_kinds_that_nobody_reads(tmp_path: Path) -> None:
    """Of pods each feature is named that would read them, of policies theirs alone."""
    words = said(tmp_path, objects=[with_host_port(), policy("shop/web")])
    assert "Pod: without --feature host-ports, these mean nothing" in words
    assert "NetworkPolicy, Pod: without --feature network-policies, these mean nothing" in words
    one = said(tmp_path, "--feature", "host-ports", objects=[with_host_port(), policy("shop/web")])
    assert "NetworkPolicy: without --feature network-policies, these mean nothing" in one
    assert "host-ports" not in one
