"""From one target to another, and from kube-proxy: every new connection arrives, all the time."""

from __future__ import annotations

import subprocess
from itertools import permutations
from pathlib import Path

import pytest

from rulegen.iptables.binaries import Variant
from tests.lab import Fate, Lab
from tests.lab.fixtures import MakeLab
from tests.switching import OBJECTS, Node

pytestmark = pytest.mark.kernel

# What kube-proxy would have there for these objects, shortened.
KUBE_PROXY_NFT = """
table ip kube-proxy {
  chain services {
    ip daddr 10.96.0.10 tcp dport 80 dnat to 10.128.0.5:8080
    fib daddr type local tcp dport 30080 dnat to 10.128.0.5:8080
  }
  chain pre { type nat hook prerouting priority -100; jump services; }
  chain out { type nat hook output priority -100; jump services; }
}
"""
KUBE_PROXY_IPTABLES = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SVC-TCOU7JCQXEZGVUNU -p tcp -j DNAT --to-destination 10.128.0.5:8080
COMMIT
"""


@pytest.fixture
def node(make_lab: MakeLab, tmp_path: Path) -> Node:
    manifests = tmp_path / "cluster.yaml"
    manifests.write_text(OBJECTS)
    return Node(make_lab(), manifests)


TARGETS = {
    "nftables": ("--target", "nftables"),
    "iptables-nft": ("--target", "iptables", "--iptables-variant", "nft"),
    "iptables-legacy": ("--target", "iptables", "--iptables-variant", "legacy"),
}


@pytest.mark.parametrize(("before", "after"), list(permutations(TARGETS, 2)))
def test_a_switch_loses_no_new_connection(node: Node, before: str, after: str) -> None:
    node.apply(*TARGETS[before])
    fates = node.fates_during(lambda: node.apply(*TARGETS[after]))
    assert set(fates) == {Fate.DELIVERED}
    assert _where(node.lab) == {after}


@pytest.mark.parametrize("mode", ["nftables", "iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize("after", TARGETS)
def test_neither_does_a_switch_from_kube_proxy(node: Node, mode: str, after: str) -> None:
    if mode == "nftables":
        node.lab.nft(KUBE_PROXY_NFT)
    else:
        with node.lab.entered():
            subprocess.run([f"{mode}-restore", "--noflush"], input=KUBE_PROXY_IPTABLES, text=True, check=True)

    def switch() -> None:
        node.apply(*TARGETS[after])
        node.rulegen("cleanup", "--kube-proxy", "--force")

    fates = node.fates_during(switch)
    assert set(fates) == {Fate.DELIVERED}
    assert _where(node.lab) == {after}
    node.rulegen("cleanup")
    assert _where(node.lab) == set()
    assert "KUBE" not in _everything(node.lab)


def _where(lab: Lab) -> set[str]:
    """The targets that have rules of rulegen's."""
    with lab.entered():
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
        found = {"nftables"} if "table ip rulegen" in tables else set()
        for variant in Variant:
            saved = subprocess.run(
                [f"iptables-{variant.value}-save"], capture_output=True, text=True, check=True
            ).stdout
            if "RULEGEN-" in saved:
                found.add(f"iptables-{variant.value}")
    return found


def _everything(lab: Lab) -> str:
    with lab.entered():
        commands = [["nft", "list", "ruleset"], ["iptables-legacy-save"]]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for command in commands]
    return "".join(run.stdout for run in runs)
