"""Clusters of pods and network policies as manifests: the same size gives the same bytes.

Each namespace has up to ten policies, one of each `Kind`, and pods of ten applications.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from bench.clusters import NODE, NODE_ADDRESS

POD_CIDR = "10.0.0.0/8"
# As many pods as a node has by default, on the node that is measured.
LOCAL_PODS = 110
APPLICATIONS = 10
_PODS = IPv4Address("10.0.0.0")
_NODES = 100


class Shape(NamedTuple):
    """So many pods in the cluster, `LOCAL_PODS` of them on the node that is measured, and so many policies."""

    pods: int
    policies: int = 1_000

    def __str__(self) -> str:
        """As the tables call it."""
        return f"{self.pods:,} pods, {self.policies:,} policies"

    @property
    def namespaces(self) -> int:
        """How many there are."""
        return max(1, self.policies // len(KINDS))


class Kind(NamedTuple):
    """A policy in words that both layouts are made from.

    `subject`, `peer`: the number of an application of the namespace, None for all its pods. `ports`: of TCP, the first
    and the last; None for all traffic. `block`: a CIDR in place of `peer`, and what is not in it.
    """

    name: str
    direction: str
    subject: int | None = None
    peer: int | None = None
    ports: tuple[int, int] | None = None
    block: tuple[str, str] | None = None
    denies: bool = False


KINDS = (
    Kind("default-deny", "ingress", denies=True),
    Kind("api-from-web", "ingress", 0, 1, (8080, 8080)),
    Kind("web-from-worker", "ingress", 1, 2, (8080, 8089)),
    Kind("metrics-from-monitoring", "ingress", None, 9, (9090, 9090)),
    Kind("cache-from-api", "ingress", 2, 0, (6379, 6379)),
    Kind("queue-from-api", "ingress", 3, 0, (5672, 5672)),
    Kind("ingress-from-office", "ingress", 4, None, (443, 443), ("198.51.100.0/24", "198.51.100.128/25")),
    Kind("web-to-api", "egress", 1, 0, (8080, 8080)),
    Kind("worker-to-outside", "egress", 5, None, (443, 443), ("0.0.0.0/0", "10.0.0.0/8")),
    Kind("batch-from-batch", "ingress", 6, 6, None),
)

# The packet that is measured: from a pod of application 1 to one of application 0, in one namespace, both on the node.
PORT = 8080


def client_and_server(shape: Shape) -> tuple[str, str]:
    """The addresses of two pods of the node, of which the first may speak to the second."""
    return pod_address(shape.namespaces), pod_address(0)


def namespace_of(shape: Shape, pod: int) -> int:
    return pod % shape.namespaces


def application_of(shape: Shape, pod: int) -> int:
    return pod // shape.namespaces % APPLICATIONS


def pod_address(pod: int) -> str:
    """Of the pod with this number; those of the node come first."""
    return str(_PODS + (pod + 1 if pod < LOCAL_PODS else pod + 256))


def kind_of(shape: Shape, policy: int) -> Kind:
    return KINDS[policy // shape.namespaces % len(KINDS)]


def manifest(shape: Shape, folder: Path) -> Path:
    """The file with the cluster, one `List` as `kubectl get -o json` prints it; written when it is not there yet."""
    path = folder / f"policies-{shape.pods}-{shape.policies}.json"
    if not path.exists():
        with path.open("w") as file:
            file.write('{"apiVersion": "v1", "kind": "List", "items": [\n')
            file.write(",\n".join(json.dumps(item) for item in items(shape)))
            file.write("\n]}\n")
    return path


def items(shape: Shape) -> Iterator[dict[str, Any]]:
    yield {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "uid": "0", "resourceVersion": "1"},
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}]},
    }
    for number in range(shape.namespaces):
        yield _namespace(number)
    for number in range(shape.policies):
        yield policy(shape, number)
    for number in range(shape.pods):
        yield pod(shape, number)


def _metadata(name: str, number: int, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "uid": f"00000000-0000-4000-8000-{number:012}",
        "resourceVersion": str(1000 + number),
        "creationTimestamp": "2025-01-01T00:00:00Z",
        "labels": labels,
    }


def _namespace(number: int) -> dict[str, Any]:
    name = f"team-{number}"
    labels = {"kubernetes.io/metadata.name": name, "env": ("prod", "test")[number % 2]}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": _metadata(name, number, labels)}


def pod(shape: Shape, number: int, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """The pod with this number; `labels` beside or in place of its own."""
    application = application_of(shape, number)
    own = {
        "app": f"app-{application}",
        "pod-template-hash": f"{number % 977:08x}",
        "app.kubernetes.io/instance": f"release-{number % 31}",
        "app.kubernetes.io/managed-by": "Helm",
    }
    metadata = _metadata(f"app-{application}-5d4f8c7b9-{number:06}", number, own | (labels or {}))
    node = NODE if number < LOCAL_PODS else f"node-{2 + number % (_NODES - 1)}"
    ports = [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata | {"namespace": f"team-{namespace_of(shape, number)}"},
        "spec": {"nodeName": node, "containers": [{"name": "server", "image": "server", "ports": ports}]},
        "status": {"phase": "Running", "podIP": pod_address(number), "podIPs": [{"ip": pod_address(number)}]},
    }


def policy(shape: Shape, number: int, name: str = "") -> dict[str, Any]:
    """The policy with this number; `name` in place of its own."""
    kind = kind_of(shape, number)
    spec: dict[str, Any] = {"podSelector": _selector(kind.subject), "policyTypes": [kind.direction.title()]}
    if not kind.denies:
        rule: dict[str, Any] = {"from" if kind.direction == "ingress" else "to": [_peer(kind)]}
        if kind.ports is not None:
            first, last = kind.ports
            rule["ports"] = [{"protocol": "TCP", "port": first} | ({"endPort": last} if last > first else {})]
        spec[kind.direction] = [rule]
    metadata = _metadata(name or f"{kind.name}-{number}", number, {})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata | {"namespace": f"team-{number % shape.namespaces}"},
        "spec": spec,
    }


def _selector(application: int | None) -> dict[str, Any]:
    return {} if application is None else {"matchLabels": {"app": f"app-{application}"}}


def _peer(kind: Kind) -> dict[str, Any]:
    if kind.block is None:
        return {"podSelector": _selector(kind.peer)}
    cidr, without = kind.block
    return {"ipBlock": {"cidr": cidr, "except": [without]}}
