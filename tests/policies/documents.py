"""Short ways to write the objects that policies are about, as the plain documents that the API serves.

No types of the product: what is written here is read by the oracle and by the product alike, each in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

# An object, or a part of one, as it stands in JSON.
Document: TypeAlias = dict[str, Any]
Labels: TypeAlias = Mapping[str, str]

CREATED = "2026-01-01T00:00:00Z"


def namespace(name: str, labels: Labels) -> Document:
    """With the label that the API server gives to each."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {**labels, "kubernetes.io/metadata.name": name}},
    }


def node(name: str, addresses: Sequence[str], pod_cidrs: Sequence[str] = (), labels: Labels | None = None) -> Document:
    """`addresses`: its InternalIPs."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)} if pod_cidrs else {},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


def container_port(number: int, name: str = "", protocol: str = "TCP") -> Document:
    found: Document = {"containerPort": number, "protocol": protocol}
    return {**found, "name": name} if name else found


def pod(
    namespace: str,
    name: str,
    addresses: Sequence[str],
    on: str,
    labels: Labels | None = None,
    ports: Sequence[Document] = (),
    *,
    phase: str = "Running",
    created: str = CREATED,
    terminating: bool = False,
    host_network: bool = False,
) -> Document:
    """`on`: the node it runs on."""
    metadata: Document = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{namespace}-{name}",
        "creationTimestamp": created,
        "labels": dict(labels or {}),
    }
    if terminating:
        metadata |= {"deletionTimestamp": "2026-01-02T00:00:00Z", "deletionGracePeriodSeconds": 30}
    spec: Document = {"nodeName": on, "containers": [{"name": "server", "image": "server", "ports": list(ports)}]}
    status: Document = {"phase": phase}
    if addresses:
        status |= {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec | ({"hostNetwork": True} if host_network else {}),
        "status": status,
    }


def selector(labels: Labels | None = None, *expressions: tuple[str, str, Sequence[str]]) -> Document:
    """`expressions`: key, operator and values."""
    found: Document = {}
    if labels:
        found["matchLabels"] = dict(labels)
    if expressions:
        found["matchExpressions"] = [
            {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
            for key, operator, values in expressions
        ]
    return found


# ---- NetworkPolicy ----


def policy(namespace: str, name: str, pods: Document | None = None, **spec: Any) -> Document:
    """`spec`: `ingress`, `egress`, `policyTypes`; what is not given is absent."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": CREATED},
        "spec": {"podSelector": pods or {}, **spec},
    }


def rule(peers: Sequence[Document] | None = None, ports: Sequence[Document] | None = None, *, to: bool = False) -> Any:
    """One of `ingress`, or with `to` one of `egress`."""
    found: Document = {}
    if peers is not None:
        found["to" if to else "from"] = list(peers)
    if ports is not None:
        found["ports"] = list(ports)
    return found


def peer(pods: Document | None = None, namespaces: Document | None = None) -> Document:
    """None is absent, {} selects all."""
    given = {"podSelector": pods, "namespaceSelector": namespaces}
    return {key: value for key, value in given.items() if value is not None}


def block(cidr: str, *exceptions: str) -> Document:
    return {"ipBlock": {"cidr": cidr, **({"except": list(exceptions)} if exceptions else {})}}


def port(number: int | str | None = None, protocol: str | None = "TCP", end: int | None = None) -> Document:
    """A port of a NetworkPolicy's rule; None is absent."""
    given = {"port": number, "protocol": protocol, "endPort": end}
    return {key: value for key, value in given.items() if value is not None}


# ---- ClusterNetworkPolicy ----


def cluster_policy(name: str, tier: str, priority: int, subject: Document, **spec: Any) -> Document:
    """`spec`: `ingress`, `egress`."""
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name, "creationTimestamp": CREATED},
        "spec": {"tier": tier, "priority": priority, "subject": subject, **spec},
    }


def cluster_rule(
    action: str, peers: Sequence[Document], protocols: Sequence[Document] | None = None, *, to: bool = False
) -> Document:
    """One of `ingress`, or with `to` one of `egress`."""
    found: Document = {"action": action, "to" if to else "from": list(peers)}
    return found if protocols is None else {**found, "protocols": list(protocols)}


def namespaces(chosen: Document | None = None) -> Document:
    """A subject or peer: all pods of the namespaces that are chosen, {} for all."""
    return {"namespaces": chosen or {}}


def pods(chosen: Document | None = None, of: Document | None = None) -> Document:
    """A subject or peer: pods by their own labels and those of their namespaces."""
    return {"pods": {"podSelector": chosen or {}, "namespaceSelector": of or {}}}


def number(protocol: str, port: int) -> Document:
    return {protocol.lower(): {"destinationPort": {"number": port}}}


def port_range(protocol: str, start: int, end: int) -> Document:
    return {protocol.lower(): {"destinationPort": {"range": {"start": start, "end": end}}}}


def named(name: str) -> Document:
    return {"destinationNamedPort": name}
