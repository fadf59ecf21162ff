"""A node on which rulegen is run while new connections are sent to it, one after another, none of which may fail."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.lab import Fate, Lab, Packet

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
