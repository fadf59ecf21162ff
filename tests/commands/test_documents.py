"""What `-o json` prints is what docs/schemas describes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rulegen.commands.documents import SCHEMAS, schema
from rulegen.demo.namespaces import NetworkNamespace
from tests.commands.running import CART, TARGETS, WEB, WEB_WITH_ONE, document, rulegen, written
from tests.commands.test_diff import POLICY

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "schemas"


def check(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Holds a document against the file of the documentation."""
    jsonschema.Draft202012Validator(json.loads((FOLDER / f"{name}.json").read_text())).validate(found)
    assert next(iter(found.items())) == ("version", 1)
    return found


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace, namespace.entered():
        yield namespace


def test_the_files_are_those_of_the_structs() -> None:
    """`make schemas` writes them."""
    assert {path.stem for path in FOLDER.iterdir()} == set(SCHEMAS)
    for name in SCHEMAS:
        found = json.loads((FOLDER / f"{name}.json").read_text())
        assert found == schema(name), name
        jsonschema.Draft202012Validator.check_schema(found)


def test_each_is_named_on_the_page() -> None:
    page = (ROOT / "docs" / "json.md").read_text()
    assert all(f"(schemas/{name}.json)" in page for name in SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_refuses_what_is_otherwise(name: str) -> None:
    validator = jsonschema.Draft202012Validator(json.loads((FOLDER / f"{name}.json").read_text()))
    wrongs: list[object] = [{}, {"version": 1}, {"version": 2}, []]
    for wrong in wrongs:
        assert not validator.is_valid(wrong)


@pytest.mark.parametrize("target", TARGETS)
def test_diff_and_explain(tmp_path: Path, target: str) -> None:
    before, after = written(tmp_path / "a.yaml", WEB, CART), written(tmp_path / "b.yaml", WEB_WITH_ONE, POLICY)
    base = ("-f", after, "--node", "node-a", "--target", target, "--feature", "network-policies")
    compared = check("diff", document("diff", *base, "--against", before, status=1))
    assert {change["change"] for change in compared["changes"]} == {"added", "changed", "removed"}
    assert any(isinstance(change.get("after"), list) for change in compared["changes"])
    check("diff", document("diff", *base, "--against", before, "--stat", status=1))
    service = check("explain", document("explain", "shop/web", *base))
    assert service["ports"]
    packet = check("explain", document("explain", "--to", "10.96.0.10:80/tcp", *base))
    assert packet["policies"]
    assert "policies" not in check("explain", document("explain", "--to", "10.96.0.10:80/tcp", *base[:-2]))


def test_env_lint_golden_and_verify(tmp_path: Path) -> None:
    variables = check("env", document("env", "shop", "-f", written(tmp_path / "c.yaml", WEB)))["variables"]
    assert variables["WEB_SERVICE_HOST"] == "10.96.0.10"
    # Two Services with one address.
    cluster = written(tmp_path / "a.yaml", WEB.replace("web", "wib"), WEB_WITH_ONE)
    assert check("lint", document("lint", "-f", cluster, "--node", "node-a", status=1))["findings"]
    scenario = tmp_path / "scenario"
    packets = tmp_path / "packets"
    packets.write_text("10.128.0.9 10.96.0.10:80/tcp\n")
    same = written(tmp_path / "b.yaml", WEB)
    rulegen("golden", "record", scenario, "-f", same, "--node", "node-a", "--packets", packets)
    assert not check("golden", document("golden", "check", scenario))["failures"]
    written(scenario / "cluster.yaml", WEB_WITH_ONE)
    assert check("golden", document("golden", "check", scenario, status=1))["failures"]
    flows = check("golden", document("golden", "update", "--flows", scenario))
    assert [Path(path).name for path in flows["rewritten"]] == ["flows.yaml"]
    rules = tmp_path / "rules"
    rules.write_text(rulegen("render", "-f", same, "--node", "node-a", "--target", "iptables").stdout)
    base = ("--node", "node-a", "--rendered", rules)
    assert check("verify", document("verify", "-f", same, *base))["result"] == "equal"
    differing = document("verify", "-f", scenario / "cluster.yaml", *base, status=1)
    assert check("verify", differing)["families"][0]["differences"]


@pytest.mark.kernel
@pytest.mark.parametrize("target", TARGETS)
def test_apply_and_plan(namespace: NetworkNamespace, tmp_path: Path, target: str) -> None:
    base = ("-f", written(tmp_path / "a.yaml", WEB), "--node", "node-a", "--target", target)
    rulegen("plan", *base, "-o", tmp_path / "plan")
    check("plan", json.loads((tmp_path / "plan").read_text()))
    for result in ("applied", "unchanged"):
        assert check("apply", document("apply", *base))["result"] == result
    written(tmp_path / "a.yaml", WEB_WITH_ONE)
    found = check("apply", document("apply", *base, "--dry-run"))
    assert found["result"] == "checked"
    assert found["changes"] == document("diff", *base, status=1)["changes"]


_BYTES = {
    "nftables": (
        ["nft", "-f", "-"],
        b"""add element ip rulegen frontends { 10.96.0.77 . tcp . 80 comment "x\xff" : 8000:1 }
add rule ip rulegen frontend counter comment "x\xff"
""",
    ),
    "iptables": (
        ["iptables-restore", "--noflush"],
        b"""*nat
:RULEGEN-\xff -
-A RULEGEN-SERVICES -m comment --comment "x\xff" -j RULEGEN-\xff
COMMIT
""",
    ),
}


@pytest.mark.kernel
@pytest.mark.parametrize("target", TARGETS)
def test_bytes_of_others_in_the_kernel_that_are_no_text(
    namespace: NetworkNamespace, tmp_path: Path, target: str
) -> None:
    base = ("-f", written(tmp_path / "a.yaml", WEB), "--node", "node-a", "--target", target)
    plan, bundle = tmp_path / "plan", tmp_path / "bundle.tar.gz"
    rulegen("apply", *base)
    command, text = _BYTES[target]
    subprocess.run(command, input=text, check=True, capture_output=True)
    changes = check("diff", document("diff", *base, status=1))["changes"]
    assert r"\\xff" in json.dumps(changes)
    check("diff", document("diff", *base, "--stat", status=1))
    check("explain", document("explain", "shop/web", *base, "--live"))
    check("explain", document("explain", "--to", "10.96.0.10:80/tcp", *base, "--live"))
    check("verify", document("verify", *base, status=int(target == "nftables")))
    rulegen("support-bundle", *base, bundle)
    assert len(document("diff", "-f", bundle, "--target", target, status=1)["changes"]) == len(changes)
    rulegen("plan", *base, "-o", plan)
    assert check("plan", json.loads(plan.read_text()))["changes"] == changes
    assert document("apply", *base, "--dry-run")["changes"] == changes
    rulegen("apply", plan)
    assert document("diff", *base)["changes"] == []
