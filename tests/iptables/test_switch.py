"""From one target to another, and from kube-proxy: every new connection arrives, all the time."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from rulegen.iptables.programs import Variant
from tests.lab import Fate, Lab, Packet
from tests.lab.fixtures import MakeLab

pytestmark = pytest.mark.kernel

CLUSTER_IP, NODE_PORT = "10.96.0.10", 30080
# Connections during a switch, below which nothing would be shown.
MANY = 20
OBJECTS = """
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  ports: [{port: 80, protocol: TCP, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.128.0.5]}, {addresses: [10.128.1.6]}]
"""
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


class Node:
    """A lab's node, on which rulegen is run while packets are sent to it."""

    def __init__(self, lab: Lab, manifests: Path) -> None:
        self.lab = lab
        self._manifests = manifests

    def rulegen(self, *arguments: str) -> None:
        command = [sys.executable, "-c", "from rulegen.cli import main; main()", *arguments]
        with self.lab.entered():
            run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr

    def apply(self, *arguments: str) -> None:
        self.rulegen("apply", "-f", str(self._manifests), "--node", "node-1", *arguments)

    def fates_during(self, work: Callable[[], None]) -> Counter[Fate]:
        """What becomes of new connections, one after another, until some while after the work is done."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told in the test's own thread
                failed.append(error)

        worker = threading.Thread(target=run)
        fates: Counter[Fate] = Counter()
        worker.start()
        while worker.is_alive():
            fates += self._connect()
        worker.join()
        if failed:
            raise failed[0]
        assert sum(fates.values()) >= MANY
        return fates + self._connect()

    def _connect(self) -> Counter[Fate]:
        outcomes = self.lab.send(
            [
                Packet("203.0.113.9", CLUSTER_IP, 80),
                Packet("10.128.0.250", CLUSTER_IP, 80),
                Packet("203.0.113.9", "192.0.2.10", NODE_PORT),
                Packet("node", CLUSTER_IP, 80),
            ]
        )
        return Counter(outcome.fate for outcome in outcomes)


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
