"""Every block of commands that a page shows is run, as it stands, in a namespace, or stands below with what it needs.

A block of `console` says what is printed, too: it is that, but for lines of `...`, which stand for any number of lines.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bench import kube_proxy
from bench.clusters import Shape
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.kube.manifests import load
from tests.apiserver import ApiServer
from tests.builders import node
from tests.patience import patience

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CLUSTER = ROOT / "golden/weights/cluster.yaml"
# Besides those of the scenarios: the pages' own, and this host.
NODES = ("worker-1", "stage-1", os.uname().nodename)
RULEGEN = Path(sys.executable).parent / "rulegen"

# What cannot be run here, by a word of the block, and why not.
NOT_RUN = {
    r"^make ": "works on the repository itself: `make test` would run itself, the others take minutes and the network",
    r"^\.venv/bin/python -m bench": "measures for minutes",
    r"\bkubectl ": "needs a cluster; tests/test_replacing.py runs its page whole, tests/test_deploy.py what is more "
    "than one call, each with a kubectl of its own",
    r"\bon worker-1 ": "is kubectl exec, with what the page defines above",
    r"^podman ": "needs a registry; tests/packages builds the image",
    r"^(apt-get|pipx|pip) ": "installs from the network; tests/packages does",
    r"^systemctl ": "needs a systemd of its own; tests/packages boots one",
    r"/etc/modules-load\.d": "changes the host",
    r"^rulegen demo": "takes seconds; tests/test_demo.py runs it",
    r"^\$? ?rulegen (trace|top) ": "waits for traffic; tests/trace and tests/top have some",
    r"^\$? ?rulegen (status|support-bundle)|node-a\.tar\.gz": "asks an agent that runs; so do tests/agent/status, and "
    "tests/commands/test_support_bundle.py reads bundles",
    r"--config records\.yaml": "asks a name server; tests/records does",
    r"^curl ": "asks an agent that runs; tests/agent/http does",
    r"_source rulegen": "is for the start of three shells; tests/commands/test_terminal.py starts them",
}

# In front of the command: 1 says that something differs or was found, and an agent ends when its rules are in force.
COMMAND = """#!/bin/sh
case "$*" in
"cleanup --portmap")
    # A host may have no CNI configuration, or one with portmap.
    mkdir -p "$HOME/cni"
    set -- "$@" --cni-config "$HOME/cni" ;;
esac
case "$1" in
agent)
    log=$(mktemp)
    "$RULEGEN" "$@" 2>"$log" & agent=$!
    until grep -q 'sync mode=full' "$log" || ! kill -0 $agent 2>/dev/null; do sleep 0.05; done
    kill -TERM $agent
    wait $agent || { cat "$log" >&2; exit 3; } ;;
*)
    "$RULEGEN" "$@"
    status=$?
    [ $status = 1 ] || exit $status ;;
esac
"""


class Block(NamedTuple):
    """One block of a page: `line` is where it begins."""

    page: Path
    line: int
    kind: str
    text: str

    @property
    def needs(self) -> str:
        """Why it is not run; "" if it is."""
        found = (reason for word, reason in NOT_RUN.items() if re.search(word, self.text, re.MULTILINE))
        return next(found, "")

    def steps(self) -> Iterator[tuple[str, str | None]]:
        """What the shell is given at a time, and what is printed then, if the page says so."""
        if self.kind == "sh":
            yield self.text, None
        for step in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = step.partition("\n")
            yield command, output or None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = re.finditer(r"^( *)```(sh|console)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text.count("\n", 0, one.start()) + 1, one[2], textwrap.dedent(one[3])) for one in found]


# Each goes on where the one before ended: ingress/test_walk.py and test_replacing.py run them, in one shell.
_IN_ONE_SHELL = ("walk.md", "ingress.md", "replace-kube-proxy.md")

BLOCKS = {
    page: blocks
    for page in PAGES
    if page.name not in _IN_ONE_SHELL and (blocks := [one for one in blocks_of(page) if not one.needs])
}


@pytest.fixture(scope="module")
def rules() -> str:
    """What `rulegen render` makes of the cluster."""
    words = [str(RULEGEN), "render", "-f", "-", "--node", "worker-1"]
    text = _with_nodes(CLUSTER)
    return subprocess.run(words, input=text, check=True, capture_output=True, text=True).stdout


def _with_nodes(cluster: Path) -> str:
    nodes = (f"---\n{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}\n" for name in NODES)
    return "".join([cluster.read_text(), *nodes])


@pytest.fixture
def folder(tmp_path: Path, rules: str) -> Path:
    """What the pages take for granted: a cluster as a file, scenarios, rendered rules, settings; and golden/."""
    golden = ROOT / "golden"
    for name in ("rules.nft", "old.nft", "new.nft"):
        (tmp_path / name).write_text(rules)
    (tmp_path / "golden").symlink_to(golden)
    for name, scenario in (
        ("cluster.yaml", "weights"),
        ("before.yaml", "clusterip"),
        ("staging.yaml", "weights"),
        ("production.yaml", "clusterip"),
        ("manifests/cluster.yaml", "clusterip"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(_with_nodes(golden / scenario / "cluster.yaml"))
    shutil.copytree(golden / "hairpin", tmp_path / "scenarios/hairpin")
    (tmp_path / "kube-proxy.conf").write_text(
        "{apiVersion: kubeproxy.config.k8s.io/v1alpha1, kind: KubeProxyConfiguration, mode: nftables}\n"
    )
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/rulegen"
    command.write_text(COMMAND)
    command.chmod(0o755)
    return tmp_path


@pytest.mark.kernel
@pytest.mark.parametrize("page", BLOCKS, ids=lambda page: page.name)
def test_what_is_shown_runs(page: Path, folder: Path, rules: str) -> None:
    """Each after the other, in one namespace and one folder, with an API server that a kubeconfig leads to.

    The rules are those of a node on which rulegen has run, beside those of kube-proxy where a page speaks of them.
    """
    text = "\n".join(kube_proxy.commands(Shape(1))) if "--replaces kube-proxy" in page.read_text() else ""
    with NetworkNamespace() as namespace, namespace.entered(), ApiServer() as server:
        before = "" if "unshare --net" in page.read_text() else rules
        subprocess.run(["nft", "-f", "-"], input=before + text, text=True, check=True)
        # An agent waits for the Node that it is on.
        server.put(*map(node, NODES), *load([str(CLUSTER)], None).objects())
        (folder / ".kube").mkdir()
        server.kubeconfig(folder / ".kube/config")
        for block in BLOCKS[page]:
            for command, expected in block.steps():
                place = f"{page.name}:{block.line}: {command}"
                printed, told = _run(command, folder, place)
                if expected is not None:
                    assert any(re.fullmatch(pattern(expected), one) for one in (printed, told + printed)), (
                        f"{place}\n{told}{printed}"
                    )


def _run(command: str, folder: Path, place: str) -> tuple[str, str]:
    """What it prints, and what it says on standard error."""
    environment = {
        "PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder),
        "RULEGEN": str(RULEGEN),
        "LC_ALL": "C.UTF-8",
    }
    words = ["sh", "-ec", command]
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            printed, told = process.communicate(timeout=patience(60))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, f"{place}\n{printed}{told}"
    assert "Traceback" not in told, place
    return printed, told


def pattern(shown: str) -> str:
    """Of what is shown, with `...` on a line of its own for any lines.

    How many classes of packets a ruleset tells apart depends on how this version of nft compares addresses.
    """
    found = "".join(r"(?:.*\n)*" if line == "...\n" else re.escape(line) for line in shown.splitlines(keepends=True))
    return re.sub(r"\d+\\ of\\ \d+\\ classes", lambda _: r"\d+ of \d+ classes", found)


def test_what_is_not_run_is_little_and_each_reason_is_needed() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert sum(not block.needs for block in blocks) > len(blocks) / 2
    for word, reason in NOT_RUN.items():
        assert any(re.search(word, block.text, re.MULTILINE) for block in blocks), word
        # Whoever is named does run it.
        for path in re.findall(r"tests/[\w/]+(?:\.py)?", reason):
            assert (ROOT / path).exists(), path


def test_no_command_is_in_a_block_of_another_kind() -> None:
    """Such as one that is merely indented, or fenced without a word: nobody would run it."""
    for page in PAGES:
        text = re.sub(r"^( *)```(sh|console|yaml)\n.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert re.findall(r"^(?:    |\$ )(?:\$ )?(?:rulegen|nft|iptables) [a-z-].*", text, re.MULTILINE) == [], (
            page.name
        )
