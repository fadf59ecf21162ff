"""The kinds that network policies are made of, with only the fields that decide about packets (others are ignored).

In: JSON or plain values, through `rulegen.kube.decode`. Out: Structs. The spec of a policy stays plain values: what is
wrong in it must not make the whole object disappear, which would open its pods (`reading` judges it).
"""

from __future__ import annotations

from typing import Any

import msgspec

from rulegen.kube.objects import KubeStruct, Metadata, NamespacedMetadata


class ContainerPort(KubeStruct, frozen=True):
    """Nothing is required: what the API server has let through is judged where it is used."""

    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"


class Container(KubeStruct, frozen=True):
    """`restart_policy` Always makes an init container one that stays (a sidecar), whose ports serve."""

    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


class PodIP(KubeStruct, frozen=True):
    """One of a pod's addresses, at most one of each family."""

    ip: str = ""


class PodSpec(KubeStruct, frozen=True):
    """Where a pod runs, and which ports it names."""

    node_name: str | None = None
    host_network: bool | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodStatus(KubeStruct, frozen=True):
    """`phase`: Pending, Running, Succeeded, Failed or Unknown."""

    phase: str | None = None
    pod_ip: str | None = msgspec.field(name="podIP", default=None)
    pod_ips: list[PodIP] | None = msgspec.field(name="podIPs", default=None)


class Pod(KubeStruct, frozen=True):
    """A pod as policies see it."""

    metadata: NamespacedMetadata
    spec: PodSpec | None = None
    status: PodStatus | None = None


class Namespace(KubeStruct, frozen=True):
    """Only its labels matter; `kubernetes.io/metadata.name` is there whether the document has it or not."""

    metadata: Metadata


class NetworkPolicy(KubeStruct, frozen=True):
    """networking.k8s.io/v1."""

    metadata: NamespacedMetadata
    spec: Any = None


class ClusterNetworkPolicy(KubeStruct, frozen=True):
    """policy.networking.k8s.io/v1alpha2."""

    metadata: Metadata
    spec: Any = None
