"""Kubernetes objects as plain values, with as little written as possible."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]


def pod(
    name: str, *addresses: str, labels: dict[str, str] | None = None, node: str = "node-1", **more: Any
) -> Document:
    """`name`: `default/web`. `more`: ports, phase, created, deleted, host_network, uid, init."""
    namespace, _, short = name.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": short,
            "uid": more.get("uid", name),
            "labels": labels or {},
            "creationTimestamp": more.get("created", "2026-01-01T00:00:00Z"),
            "deletionTimestamp": more.get("deleted"),
        },
        "spec": {
            "nodeName": node,
            "hostNetwork": more.get("host_network"),
            "containers": [{"name": "c", "ports": _ports(more.get("ports", {}))}],
            "initContainers": more.get("init", []),
        },
        "status": {"phase": more.get("phase", "Running"), "podIPs": [{"ip": address} for address in addresses]},
    }


def _ports(ports: dict[str, int]) -> list[Document]:
    """By name, or by name and protocol: `{"web": 80, "dns/UDP": 53}`."""
    return [
        {"name": name.partition("/")[0], "containerPort": port, "protocol": name.partition("/")[2] or "TCP"}
        for name, port in ports.items()
    ]


def namespace(name: str, **labels: str) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def node(name: str, *addresses: str, labels: dict[str, str] | None = None, cidrs: tuple[str, ...] = ()) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"podCIDRs": list(cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


def policy(name: str, selector: Document | None = None, **spec: Any) -> Document:
    """A NetworkPolicy: `policy("default/web", {"app": "web"}, ingress=[...])`."""
    namespace_, _, short = name.partition("/")
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace_, "name": short},
        "spec": {"podSelector": {"matchLabels": selector or {}}, **spec},
    }


def cluster_policy(name: str, tier: str = "Admin", priority: int = 0, subject: Any = None, **rules: Any) -> Document:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": priority, "subject": subject or {"namespaces": {}}, **rules},
    }
