"""Plain values of Kubernetes objects come in; the objects that policies are made of go out. Other kinds are ignored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rulegen.kube.decode import convert_object
from rulegen.kube.objects import ClusterNetworkPolicy, KubeStruct, Namespace, NetworkPolicy, Node, Pod
from rulegen.policies.store import PolicyObject

_KINDS: dict[tuple[str, str], type[KubeStruct]] = {
    ("v1", "Pod"): Pod,
    ("v1", "Namespace"): Namespace,
    ("v1", "Node"): Node,
    ("networking.k8s.io/v1", "NetworkPolicy"): NetworkPolicy,
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"): ClusterNetworkPolicy,
}


def decode(documents: Iterable[Mapping[str, Any]]) -> Iterator[PolicyObject]:
    """The objects among documents. Raises ObjectError for one whose metadata cannot be read."""
    for document in documents:
        kind = _KINDS.get((str(document.get("apiVersion")), str(document.get("kind"))))
        if kind is not None:
            yield convert_object(kind, document)  # type: ignore[misc]
