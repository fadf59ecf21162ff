"""`rulegen diff`: rules of chains, figures, selections, and other manifests to compare with; on both targets."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rulegen.commands.diffstat import Row, lines
from rulegen.commands.selecting import Owner
from rulegen.demo.namespaces import NetworkNamespace
from tests.commands.running import (
    CART,
    OTHER_CART,
    TARGETS,
    WEB,
    WEB_WITH_ONE,
    chains,
    document,
    error,
    rulegen,
    written,
)

each_target = pytest.mark.parametrize("target", TARGETS)
POLICY = """---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop, labels: {tier: back}}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 8080}]}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a, containers: []}
status: {podIP: 10.244.0.5, podIPs: [{ip: 10.244.0.5}], phase: Running}
"""


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return written(tmp_path / "before.yaml", WEB, CART)


@pytest.fixture
def after(tmp_path: Path) -> Path:
    """web has lost an endpoint, cart has another namespace and another address."""
    return written(tmp_path / "after.yaml", WEB_WITH_ONE, OTHER_CART)


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace, namespace.entered():
        yield namespace


# ---- other manifests ----


@each_target
def test_against_manifests_is_as_against_what_they_render_to(
    before: Path, after: Path, tmp_path: Path, target: str
) -> None:
    """A snapshot, a folder, a pipe and a JSON file say the same as the rules that come of them."""
    base = ("--node", "node-a", "--target", target)
    rules = tmp_path / "rules"
    rules.write_text(rulegen("render", "-f", before, *base).stdout)
    expected = rulegen("diff", "-f", after, *base, "--against", rules, status=1).stdout
    assert rulegen("diff", "-f", after, *base, "--against", before, status=1).stdout == expected
    folder = tmp_path / "folder"
    folder.mkdir()
    written(folder / "all.yaml", WEB, CART)
    assert rulegen("diff", "-f", after, *base, "--against", folder, status=1).stdout == expected
    done = rulegen("diff", "-f", after, *base, "--against", "-", status=1, input=before.read_text())
    assert done.stdout == expected
    # The other way round it is the other way round, and nothing differs from itself.
    back = document("diff", "-f", before, *base, "--against", after, status=1)
    assert back["summary"]["added"] == int(re.findall(r"(\d+) removed", expected)[-1])
    assert rulegen("diff", "-f", after, *base, "--against", after).stdout == "0 added, 0 changed, 0 removed\n"


def test_nodes_of_two_clusters_may_have_two_names(tmp_path: Path) -> None:
    nodeport = WEB.replace("spec: {clusterIP", "spec: {type: NodePort, externalTrafficPolicy: Local, clusterIP")
    nodeport = nodeport.replace("port: 80}", "port: 80, nodePort: 30080}")
    here = written(tmp_path / "here.yaml", nodeport.replace("[10.244.0.5]}", "[10.244.0.5], nodeName: node-a}"))
    there = tmp_path / "there.yaml"
    there.write_text(here.read_text().replace("node-a", "node-b"))
    base = ("diff", "-f", here, "--node", "node-a", "--against", there)
    assert rulegen(*base, "--against-node", "node-b").stdout == "0 added, 0 changed, 0 removed\n"
    assert rulegen(*base, status=1).stdout != "0 added, 0 changed, 0 removed\n"
    assert "--against" in error("diff", "-f", here, "--against-node", "node-b")


def test_what_is_neither_is_one_line(before: Path, tmp_path: Path) -> None:
    base = ("diff", "-f", before, "--node", "node-a", "--against")
    path = tmp_path / "x"
    for content, expected in (
        (b"", "found no table of rulegen"),
        (b"hello", "found no table of rulegen"),
        (b"\xff\xfe\x00", "expected UTF-8"),
        (b"kind: [", "invalid YAML"),
        (b'{"apiVersion": "v1", "kind": "Service"', ""),
    ):
        path.write_bytes(content)
        assert expected in error(*base, path)
    assert "a device" in error(*base, "/dev/null")
    assert "No such file" in error(*base, tmp_path / "missing")
    assert "read once" in error("diff", "-f", "-", "--against", "-", input=WEB)


# ---- figures ----


@each_target
def test_stat_has_a_line_for_each_object_and_kind_of_change(before: Path, after: Path, target: str) -> None:
    base = ("diff", "-f", after, "--node", "node-a", "--target", target, "--against", before)
    *rows, last = rulegen(*base, "--stat", status=1, env={"COLUMNS": "80"}).stdout.splitlines()
    summary = rulegen(*base, status=1).stdout.splitlines()[-1]
    assert last == f" 3 objects, {summary}"
    counts = {}
    for row in rows:
        name, number, graph = re.fullmatch(r" (\S+ +\w+) +\| +(\d+) ([-+~]+)", row).groups()  # type: ignore[union-attr]
        assert len(graph) == int(number)
        counts[tuple(name.split())] = int(number)
    assert ("shop/web", "changed") in counts
    assert {name for name, change in counts if change == "added"} - {"(shared)"} == {"test/cart"}
    assert {name for name, change in counts if change == "removed"} - {"(shared)"} >= {"shop/cart"}
    found = document(*base, "--stat", status=1)
    rows_of_document = {(row["object"] or "(shared)", row["change"]): row["entries"] for row in found["objects"]}
    assert rows_of_document == counts
    assert sum(counts.values()) == sum(found["summary"].values())


def test_widths_are_gits(tmp_path: Path) -> None:
    """git itself, asked for files of the same names and as many lines, cuts names and graphs at the same columns."""
    sizes = {f"shop/{'long-name-' * length}{length}": number for length, number in ((0, 3), (2, 700), (7, 41), (12, 1))}
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name, size in sizes.items():
        # The kind of change is a part of the name here.
        path = tmp_path / f"{name} added"
        path.parent.mkdir(exist_ok=True)
        path.write_text("x\n" * size)
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "add", "."], check=True)
    rows = [Row("services", name, "+", size) for name, size in sizes.items()]
    for width in (40, 60, 80, 120, 300):
        words = [*git, "diff", "--cached", f"--stat={width}"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
        of_git = {re.findall(r"\| +(\d+)", line)[0]: line for line in done.stdout.splitlines()[:-1]}
        for line in lines(rows, width):
            (number,) = re.findall(r"\| +(\d+)", line.text)
            theirs = of_git[number]
            assert (len(line.text.rstrip()), len(line.graph)) == (
                len(theirs.rstrip(" +")),
                theirs.count("+"),
            ), f"{width}: {line.text}{line.graph}\n{theirs}"


# ---- selections ----


@each_target
def test_only_what_is_asked_for(before: Path, after: Path, target: str) -> None:
    base = ("diff", "-f", after, "--node", "node-a", "--target", target, "--against", before)

    def named(*words: str, status: int = 1) -> set[str]:
        found = document(*base, *words, status=status)["changes"]
        return set(re.findall(r"(?:shop|test)/\w+(?::\w+)?", str(found)))

    everything = named()
    assert {"shop/web:http", "shop/cart:http", "test/cart:https"} <= everything
    assert named("shop/web:http") & {"shop/web:http", "shop/web:https"} == {"shop/web:http"}
    assert "shop/web:https" in named("shop/web")
    assert "shop/web:http" in named("web")
    assert {"shop/cart:http", "test/cart:http"} <= named("cart")
    assert "test/cart:http" in named("-n", "test")
    assert "test/cart:http" in named("-n", "test", "cart")
    if target == "iptables":
        # A chain of several Services, of which a rule that differs is for one of these.
        keys = {change["key"] for change in document(*base, "-n", "test", status=1)["changes"]}
        assert "RULEGEN-VIPS" in keys
    assert "shop/web:http" not in named("-n", "test")
    assert {"shop/cart:http", "test/cart:http"} <= named("-l", "tier in (back, none),!old")
    assert "shop/web:http" in named("-l", "app=web")
    assert not named("-l", "app=nothing", status=0)
    # An object that is there and is the same.
    same = ("diff", "web", "-f", after, "--node", "node-a", "--target", target, "--against", after)
    assert rulegen(*same).stdout == "0 added, 0 changed, 0 removed\n"


def test_a_selection_that_cannot_be_meant(before: Path, after: Path) -> None:
    base = ("diff", "-f", after, "--node", "node-a", "--against", before)
    nowhere = "neither in the input nor in what differs"
    assert error(*base, "shop/wep").startswith(f'no "shop/wep": {nowhere}; there is shop/web')
    assert error(*base, "wep").startswith(f'no "wep": {nowhere}; there is web')
    assert error(*base, "-n", "SHOPP") == f'-n: nothing is in namespace "SHOPP", {nowhere}; there is shop'
    assert error(*base, "-n", "x") == f'-n: nothing is in namespace "x", {nowhere}; there is shop, test'
    assert "-n" in error(*base, "shop/web", "-n", "test")
    assert "NAMESPACE/NAME" in error(*base, "a/b/c")
    assert "label selector" in error(*base, "-l", "a=b=c")


def test_labels_that_nothing_has_are_told(before: Path, after: Path) -> None:
    """An object may come to have them: that nothing differs is right, and perhaps not what was meant."""
    base = ("diff", "-f", after, "--node", "node-a", "--against", before)
    assert "warning: -l: no object of the input has these labels" in rulegen(*base, "-l", "app=wep").stderr
    assert "no object" not in rulegen(*base, "-l", "app=web", status=1).stderr


def test_a_namespace_that_is_there_may_be_empty(after: Path, tmp_path: Path) -> None:
    others = written(
        tmp_path / "others.yaml",
        WEB_WITH_ONE,
        OTHER_CART,
        "---\n{apiVersion: v1, kind: Namespace, metadata: {name: new}}\n",
    )
    base = ("diff", "-n", "new", "--node", "node-a", "--against", after, "-f")
    assert rulegen(*base, others, "--feature", "network-policies", status=None).exit_code < 2
    assert "nothing is in namespace" in error(*base, after)


def test_of_what_is_gone_no_labels_are_known(before: Path, after: Path, tmp_path: Path) -> None:
    """The Service is neither in the manifests nor its labels in the rules; among other manifests it has some."""
    base = ("diff", "-f", after, "--node", "node-a", "-l", "tier=back")
    rules = tmp_path / "rules"
    rules.write_text(rulegen("render", "-f", before, "--node", "node-a").stdout)
    done = rulegen(*base, "--against", rules, status=1)
    assert "shop/cart" not in done.stdout
    assert "test/cart" in done.stdout
    assert re.search(r"warning: \d+ entries are left out", done.stderr)
    done = rulegen(*base, "--against", before, status=1)
    assert "shop/cart" in done.stdout
    assert "left out" not in done.stderr


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("default/web:http", Owner("default", "web", "http")),
        ("default/web", Owner("default", "web")),
        ("Pod default/web-1:hostPort", Owner("default", "web-1", "hostPort")),
        ("NetworkPolicy default/deny", Owner("default", "deny")),
        ("ClusterNetworkPolicy metrics", Owner("", "metrics")),
        ("metrics", Owner("", "metrics")),
    ],
)
def test_whose_an_entry_is(text: str, owner: Owner) -> None:
    assert Owner.of(text) == owner


@each_target
def test_policies_are_selected_as_services_are(tmp_path: Path, target: str) -> None:
    plain, closed = written(tmp_path / "a.yaml", WEB), written(tmp_path / "b.yaml", WEB, POLICY)
    words = ("diff", "-f", closed, "--node", "node-a", "--target", target, "--feature", "network-policies")
    base = (*words, "--against", plain)
    found = document(*base, "--stat", status=1)["objects"]
    assert "network-policies" in {row["feature"] for row in found}
    assert "shop/closed" in {row["object"] for row in found}
    changes = document(*base, "closed", status=1)["changes"]
    assert changes
    assert {change["feature"] for change in changes} == {"network-policies"}
    assert document(*base, "-l", "tier=back", status=1)["changes"] == changes
    assert "8080" in str(changes)


# ---- chains ----


@pytest.mark.kernel
def test_rules_of_chains_before_and_after_on_nftables(namespace: NetworkNamespace, before: Path) -> None:
    def nft(command: str) -> None:
        subprocess.run(["nft", command], check=True)

    base = ("-f", before, "--node", "node-a")
    rulegen("apply", *base)
    nft("insert rule ip rulegen prerouting tcp dport 22 accept")
    # Of this chain nft lists hardly a rule in the words that it was given.
    nft("insert rule ip rulegen frontend tcp dport 23 accept")
    nft("flush chain ip rulegen postrouting")
    nft("add chain ip rulegen intruder")
    nft("add rule ip rulegen intruder counter drop")
    found = dict(chains(rulegen("diff", *base, status=1).stdout))
    assert found["~ ip chain prerouting"] == ["- tcp dport 22 accept"]
    assert found["~ ip chain frontend"] == ["- tcp dport 23 accept"]
    assert found["- ip chain intruder"] == ["- counter packets 0 bytes 0 drop"]
    lost = found["~ ip chain postrouting"]
    assert len(lost) > 1
    assert all(rule.startswith("+ ") for rule in lost)
    assert not any("other rules" in line for line in found)
    (change,) = [one for one in document("diff", *base, status=1)["changes"] if one["key"] == "prerouting"]
    assert (change["before"], change["after"]) == (["tcp dport 22 accept"], [])
    nft("delete chain ip rulegen postrouting")
    nft("add chain ip rulegen postrouting { type nat hook postrouting priority 50; }")
    found = dict(chains(rulegen("diff", *base, status=1).stdout))
    assert found["~ ip chain postrouting"][0] == "- type nat hook postrouting priority 50; policy accept;"
    rulegen("apply", *base)
    assert rulegen("diff", *base).stdout == "0 added, 0 changed, 0 removed\n"


def test_rules_of_chains_between_two_rulesets(before: Path, tmp_path: Path) -> None:
    """From a rendered file, and from manifests with other settings in force."""
    base = ("-f", before, "--node", "node-a")
    rules = tmp_path / "rules"
    text = rulegen("render", *base).stdout
    rules.write_text(text.replace("ct status dnat goto translated", "ct status dnat drop", 1))
    found = dict(chains(rulegen("diff", *base, "--against", rules, status=1).stdout))
    assert list(found.values()) == [["- ct status dnat drop", "+ ct status dnat goto translated"]]
    # Two rules in another order differ, too.
    lines_of_text = text.splitlines(keepends=True)
    (place, *_) = [number for number, line in enumerate(lines_of_text) if "goto translated" in line]
    lines_of_text[place - 1 : place + 1] = reversed(lines_of_text[place - 1 : place + 1])
    rules.write_text("".join(lines_of_text))
    ((_, swapped),) = chains(rulegen("diff", *base, "--against", rules, status=1).stdout)
    assert sorted(line[2:] for line in swapped if line[0] == "-") == sorted(
        line[2:] for line in swapped if line[0] == "+"
    )
    assert len(swapped) == 4
