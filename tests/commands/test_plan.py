"""`rulegen plan` and `rulegen apply PLAN`: exactly what was shown, or nothing; in a real kernel, on both targets."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rulegen.demo.namespaces import NetworkNamespace
from tests.apiserver import ApiServer
from tests.builders import endpoint_port, endpoint_slice, node, port
from tests.builders import service as build_service
from tests.commands.running import (
    CART,
    NODE,
    TARGETS,
    WEB,
    WEB_WITH_ONE,
    document,
    error,
    rulegen,
    service,
    written,
)
from tests.commands.test_diff import POLICY

pytestmark = pytest.mark.kernel
each_target = pytest.mark.parametrize("target", TARGETS)
INTRUDER = {
    "nftables": ["nft", "add element ip rulegen cluster-ips { 10.96.9.9 }"],
    "iptables": ["iptables", "-t", "nat", "-A", "RULEGEN-VIPS", "-d", "10.96.9.9", "-j", "RETURN"],
}
OTHERS = {
    "nftables": "table ip mine {\nchain a {\ntype filter hook input priority 5\ntcp dport 22 accept\n}\n}\n",
    "iptables": "*filter\n:MINE - [0:0]\n-A INPUT -p tcp --dport 22 -j MINE\n-A MINE -j ACCEPT\nCOMMIT\n",
}


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace, namespace.entered():
        yield namespace


def ruleset() -> str:
    """All rules of the namespace, without what counts packets."""
    commands = (["nft", "list", "ruleset"], ["iptables-legacy-save"], ["ip6tables-legacy-save"])
    listed = (subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in commands)
    return "\n".join(line for text in listed for line in text.splitlines() if line[:1] not in "#:")


def put_others(target: str) -> None:
    words = ["nft", "-f", "-"] if target == "nftables" else ["iptables-restore", "--noflush"]
    subprocess.run(words, input=OTHERS[target], text=True, check=True)


@each_target
def test_a_plan_is_applied_as_it_is_or_not_at_all(namespace: NetworkNamespace, tmp_path: Path, target: str) -> None:
    cluster, plan = tmp_path / "cluster.yaml", tmp_path / "rules.plan"
    base = ("--node", "node-a", "--target", target)
    written(cluster, WEB)
    put_others(target)
    others = ruleset()
    # Nothing is there yet. A plan changes nothing, and says what diff says.
    shown = rulegen("plan", "-f", cluster, *base, "-o", plan).stdout
    assert ruleset() == others
    assert stat.S_IMODE(plan.stat().st_mode) == 0o600
    assert shown.removesuffix(": planned\n") == rulegen("diff", "-f", cluster, *base, status=1).stdout.removesuffix(
        "\n"
    )
    assert document("apply", plan, "--dry-run")["result"] == "checked"
    assert rulegen("apply", plan).stdout.endswith("applied\n")
    assert rulegen("diff", "-f", cluster, *base).stdout == "0 added, 0 changed, 0 removed\n"
    # What it was made for is not so any more.
    applied = ruleset()
    assert "the rules in the kernel are not those" in error("apply", plan)

    # Services that come get numbers of their own, the same ones.
    written(cluster, WEB_WITH_ONE, CART, service("third", "10.96.0.30", ["10.244.0.9"]))
    rulegen("plan", "-f", cluster, *base, "-o", plan)
    written(cluster, WEB, CART)
    refused = error("apply", plan)
    assert f"{cluster} or the settings ask for other rules" in refused
    assert "shop/third:http" in refused
    assert ruleset() == applied
    # An object that says the same in other words, and one that means nothing here, are no reason to refuse.
    outside = "---\napiVersion: v1\nkind: Service\nmetadata: {name: out}\nspec: {type: ExternalName, externalName: a}\n"
    cluster.write_text("".join((CART, outside, WEB_WITH_ONE, service("third", "10.96.0.30", ["10.244.0.9"]), NODE)))
    subprocess.run(INTRUDER[target], check=True)
    assert "the rules in the kernel are not those" in error("apply", plan)
    rulegen("plan", "-f", cluster, *base, "-o", plan)
    # What others do with their own rules is their business.
    put_others(target)
    found = document("apply", plan)
    assert found["result"] == "applied"
    assert found["changes"] == json.loads(plan.read_text())["changes"]
    assert "10.96.9.9" not in ruleset()
    assert rulegen("diff", "-f", cluster, *base).exit_code == 0
    rulegen("cleanup")
    assert "dport 22" in ruleset()


@each_target
def test_rules_that_an_earlier_run_left_elsewhere(namespace: NetworkNamespace, tmp_path: Path, target: str) -> None:
    """They are in the plan, and go when the new ones are in force; so are features that are on."""
    (other,) = set(TARGETS) - {target}
    cluster, plan = written(tmp_path / "cluster.yaml", WEB, POLICY), tmp_path / "rules.plan"
    rulegen("apply", "-f", cluster, "--node", "node-a", "--target", other)
    base = ("-f", cluster, "--node", "node-a", "--target", target, "--feature", "network-policies")
    shown = rulegen("plan", *base, "-o", plan).stdout
    places = json.loads(plan.read_text())["leftovers"]
    assert places
    assert all(f"- all of rulegen's in {place}\n" in shown for place in places)
    rulegen("cleanup")
    assert "elsewhere" in error("apply", plan)
    rulegen("apply", "-f", cluster, "--node", "node-a", "--target", other)
    done = document("apply", plan)
    assert done["removed"] == places
    assert "network-policies" in {change["feature"] for change in done["changes"]}
    assert not rulegen("diff", *base).exit_code
    assert document("apply", *base)["result"] == "unchanged"


def test_a_plan_of_standard_input_and_of_a_configuration(namespace: NetworkNamespace, tmp_path: Path) -> None:
    plan, configuration = tmp_path / "rules.plan", tmp_path / "config.yaml"
    text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n"
    configuration.write_text(text)
    words = ("plan", "-f", "-", "--node", "node-a", "--config", configuration, "-o", plan)
    rulegen(*words, input=WEB)
    configuration.write_text(f"{text}iptables: {{masqueradeBit: 9}}\n")
    assert "ask for other rules" in error("apply", plan, input=WEB)
    configuration.write_text(text)
    assert "ask for other rules" in error("apply", plan, input=CART)
    assert rulegen("apply", plan, input=WEB).stdout.endswith("applied\n")


def test_a_plan_of_a_cluster(namespace: NetworkNamespace, tmp_path: Path) -> None:
    """What nothing depends on may change there, as a Node's own heartbeats do all the time."""
    web = build_service("web", ["10.96.0.10"], [port(80, "http")])
    with ApiServer() as server:
        server.put(web, endpoint_slice(["10.244.0.5"], ports=[endpoint_port(8080, "http")]), node("node-a"))
        plan, kubeconfig = tmp_path / "rules.plan", server.kubeconfig(tmp_path / "kubeconfig")
        base = ("--kubeconfig", kubeconfig, "--node", "node-a")
        rulegen("plan", *base, "-o", plan)
        server.put(endpoint_slice(["10.244.0.6"], ports=[endpoint_port(8080, "http")]))
        assert "the cluster or the settings ask for other rules" in error("apply", plan)
        rulegen("plan", *base, "-o", plan)
        server.put(node("node-b"), build_service("web", ["10.96.0.10"], [port(80, "http")], labels={"new": "label"}))
        assert rulegen("apply", plan).stdout.endswith("applied\n")
        assert rulegen("diff", *base).stdout == "0 added, 0 changed, 0 removed\n"


def test_what_is_no_plan_is_one_line(namespace: NetworkNamespace, tmp_path: Path) -> None:
    cluster, plan = written(tmp_path / "cluster.yaml", WEB), tmp_path / "rules.plan"
    rulegen("plan", "-f", cluster, "--node", "node-a", "-o", plan)
    whole = plan.read_bytes()
    values = json.loads(whole)
    before = ruleset()

    def refusal(content: bytes) -> str:
        plan.write_bytes(content)
        return error("apply", plan)

    for length in (0, 1, 30, len(whole) // 2, len(whole) - 3):
        assert "it was cut off" in refusal(whole[:length]), length
    assert "version 1, got 2" in refusal(json.dumps(values | {"version": 2}).encode())
    assert "expected what `rulegen plan -o` writes" in refusal(b"\xff\x00")
    assert "expected what `rulegen plan -o` writes" in refusal(cluster.read_bytes())
    assert "expected what `rulegen plan -o` writes" in refusal(b"[" * 100_000)
    assert "expected what `rulegen plan -o` writes" in refusal(b'{"version": "\xff", "changes": []}')
    assert "files" in refusal(json.dumps(values | {"input": values["input"] | {"files": 3}}).encode())
    assert "more" in refusal(json.dumps(values | {"more": 1}).encode())
    assert "rulegen 0.0.9 made this plan" in refusal(json.dumps(values | {"rulegen": "0.0.9"}).encode())
    boot = values["host"] | {"boot": "other", "name": "\x1b[31mhost"}
    refused = refusal(json.dumps(values | {"host": boot}).encode())
    assert "another host" in refused
    assert "\x1b" not in refused
    assert "altered" in refusal(json.dumps(values | {"changes": values["changes"][1:]}).encode())
    plan.write_bytes(whole)
    with NetworkNamespace() as elsewhere, elsewhere.entered():
        assert "another network namespace" in error("apply", plan)
    plan.chmod(0o666)
    assert "everybody may write it" in error("apply", plan)
    plan.chmod(0o600)
    assert "a plan says what it was made from" in error("apply", plan, "--target", "iptables")
    os.mkfifo(tmp_path / "pipe")
    assert "a plain file" in error("apply", tmp_path / "pipe")
    assert "a plain file" in error("apply", "/dev/zero")
    assert "No such file" in error("apply", tmp_path / "missing")
    cluster.unlink()
    assert str(cluster) in error("apply", plan)
    assert ruleset() == before


def test_a_plan_is_written_whole_or_not_at_all(
    namespace: NetworkNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cluster, folder = written(tmp_path / "cluster.yaml", WEB), tmp_path / "folder"
    folder.mkdir()
    plan = folder / "rules.plan"
    plan.write_text("what was there\n")
    plan.chmod(0o644)
    base = ("plan", "-f", cluster, "--node", "node-a", "-o")
    link = folder / "link"
    link.symlink_to(plan)
    rulegen(*base, link)
    assert stat.S_IMODE(plan.stat().st_mode) == 0o600
    assert link.is_symlink()
    assert {path.name for path in folder.iterdir()} == {"rules.plan", "link"}
    assert "a plain file" in error(*base, "/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert "a plain file" in error(*base, folder)
    assert "a plain file" in error(*base, "-")
    assert not Path("-").exists()
    assert "No such file" in error(*base, tmp_path / "missing" / "x")


def test_documents_that_cannot_be_read_keep_rules(namespace: NetworkNamespace, tmp_path: Path) -> None:
    cluster, plan = written(tmp_path / "cluster.yaml", WEB, CART), tmp_path / "rules.plan"
    rulegen("apply", "-f", cluster, "--node", "node-a")
    cluster.write_text(f"{WEB}---\nkind: [\n{NODE}")
    base = ("plan", "-f", cluster, "--node", "node-a", "-o", plan)
    assert "nothing was changed" in rulegen(*base, "--skip-invalid", status=2).stderr
    assert not plan.exists()
    rulegen(*base, "--prune-unreadable")
    assert rulegen("apply", plan).stdout.endswith("applied\n")


@pytest.mark.usefixtures("namespace")
def test_a_plan_that_cannot_be_written_shows_no_changes(tmp_path: Path) -> None:
    file = written(tmp_path / "cluster.yaml", WEB)
    done = rulegen("plan", "-f", file, "-o", tmp_path / "none" / "rules.plan", status=2)
    assert "No such file or directory" in done.stderr
    assert done.stdout == ""


def test_an_input_whose_name_is_no_utf_8_is_one_line(namespace: NetworkNamespace, tmp_path: Path) -> None:
    """A plan is JSON, which could not say it."""
    cluster = written(tmp_path / os.fsdecode(b"\xff.yaml"), WEB)
    assert "expected a name in UTF-8" in error("plan", "-f", cluster, "--node", "node-a", "-o", tmp_path / "plan")
    assert not (tmp_path / "plan").exists()
