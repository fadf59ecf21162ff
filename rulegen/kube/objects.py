"""The Kubernetes objects that a Service proxy reads, with only the fields it reads (spec §1, §3; others are ignored).

Types carry the API's own bounds (a port is 1 to 65535), so that decoding is validation. Values that the spec says to
skip one by one (an unusable externalIP, SVC-12) stay plain strings here and are judged in `services`. No defaults of
policy: absent stays None where the spec distinguishes it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

SERVICE_NAME: Final = "kubernetes.io/service-name"
SERVICE_PROXY_NAME: Final = "service.kubernetes.io/service-proxy-name"
# Of a namespaced object that states none.
DEFAULT_NAMESPACE: Final = "default"
HEADLESS: Final = "service.kubernetes.io/headless"

# In a type's Meta: "" means the same as nothing.
EMPTY_IS_ABSENT: Final[dict[str, Any]] = {"empty": "absent"}

# \Z and not $, which would accept a newline after the name.
_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z"
_DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z"

# A description says in a message what was expected of a value that has the right type.
DnsLabel: TypeAlias = Annotated[str, Meta(pattern=_DNS_LABEL, description="a DNS label")]
DnsSubdomain: TypeAlias = Annotated[
    str, Meta(pattern=_DNS_SUBDOMAIN, max_length=253, description="a DNS subdomain name")
]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65535, description="a port from 1 to 65535")]
PortOrZero: TypeAlias = Annotated[int, Meta(ge=0, le=65535, description="a port from 0 to 65535")]
# A Service's or slice's port name: a DNS label, or "" for the only port of a Service.
PortName: TypeAlias = Annotated[str, Meta(pattern=rf"^({_DNS_LABEL[1:-2]})?\Z", description='a DNS label or ""')]
Protocol: TypeAlias = Annotated[Literal["TCP", "UDP", "SCTP"], Meta(description="TCP, UDP or SCTP")]
# Of fields that the API server sets when they are empty; elsewhere it refuses "".
NamespaceName: TypeAlias = Annotated[DnsLabel, Meta(extra=EMPTY_IS_ABSENT)]
ProtocolOrEmpty: TypeAlias = Annotated[Protocol, Meta(extra=EMPTY_IS_ABSENT)]
ServiceType: TypeAlias = Annotated[
    Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
    Meta(
        description="ClusterIP, NodePort, LoadBalancer or ExternalName",
        extra=EMPTY_IS_ABSENT,
    ),
]
IPFamily: TypeAlias = Annotated[Literal["IPv4", "IPv6"], Meta(description="IPv4 or IPv6")]
AddressType: TypeAlias = Annotated[Literal["IPv4", "IPv6", "FQDN"], Meta(description="IPv4, IPv6 or FQDN")]
InternalPolicy: TypeAlias = Annotated[Literal["Cluster", "Local"], Meta(description="Cluster or Local")]
ExternalPolicy: TypeAlias = Annotated[Literal["Cluster", "Local", ""], Meta(description="Cluster or Local")]
Affinity: TypeAlias = Annotated[Literal["None", "ClientIP", ""], Meta(description="None or ClientIP")]
# Others may come.
IPMode: TypeAlias = Annotated[str, Meta(min_length=1, description="VIP or Proxy")]
AffinityTimeout: TypeAlias = Annotated[int, Meta(ge=1, le=86400, description="seconds from 1 to 86400")]


class KubeStruct(Struct, frozen=True, kw_only=True, gc=False, rename="camel", omit_defaults=True):
    """Base of all objects: camelCase in JSON, immutable, and only values inside, so the collector can skip them."""


class _ObjectMetadata(KubeStruct, frozen=True):
    """What is read of every object's metadata. `creation_timestamp` and `deletion_timestamp` are RFC 3339."""

    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    uid: str = ""


class ServiceMetadata(_ObjectMetadata, frozen=True, kw_only=True):
    name: DnsLabel
    namespace: NamespaceName = DEFAULT_NAMESPACE


class NamespacedMetadata(_ObjectMetadata, frozen=True, kw_only=True):
    name: DnsSubdomain
    namespace: NamespaceName = DEFAULT_NAMESPACE


class Metadata(_ObjectMetadata, frozen=True, kw_only=True):
    """Of cluster-scoped objects."""

    name: DnsSubdomain


class ServicePort(KubeStruct, frozen=True):
    port: Port
    name: PortName = ""
    protocol: ProtocolOrEmpty = "TCP"
    node_port: PortOrZero = 0


class ClientIPConfig(KubeStruct, frozen=True):
    timeout_seconds: AffinityTimeout | None = None


class SessionAffinityConfig(KubeStruct, frozen=True):
    client_ip: ClientIPConfig | None = msgspec.field(name="clientIP", default=None)


class ServiceSpec(KubeStruct, frozen=True):
    type: ServiceType = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    external_name: str = ""
    ip_families: list[IPFamily] | None = None
    ports: list[ServicePort] | None = None
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    internal_traffic_policy: InternalPolicy | None = None
    external_traffic_policy: ExternalPolicy | None = None
    health_check_node_port: PortOrZero = 0
    load_balancer_source_ranges: list[str] | None = None
    session_affinity: Affinity | None = None
    session_affinity_config: SessionAffinityConfig | None = None


class LoadBalancerIngress(KubeStruct, frozen=True):
    ip: str = ""
    hostname: str = ""
    ip_mode: IPMode | None = None


class LoadBalancerStatus(KubeStruct, frozen=True):
    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(KubeStruct, frozen=True):
    load_balancer: LoadBalancerStatus | None = None


class Service(KubeStruct, frozen=True):
    metadata: ServiceMetadata
    spec: ServiceSpec
    status: ServiceStatus | None = None


class EndpointConditions(KubeStruct, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(KubeStruct, frozen=True):
    name: str


class ForNode(KubeStruct, frozen=True):
    name: str


class EndpointHints(KubeStruct, frozen=True):
    for_zones: list[ForZone] | None = None
    for_nodes: list[ForNode] | None = None


class ObjectReference(KubeStruct, frozen=True):
    name: str = ""


class Endpoint(KubeStruct, frozen=True):
    addresses: list[str] = msgspec.field(default_factory=list)
    conditions: EndpointConditions | None = None
    node_name: str | None = None
    target_ref: ObjectReference | None = None
    hints: EndpointHints | None = None


class EndpointPort(KubeStruct, frozen=True):
    """`name` None and `port` None or 0 are skipped, never read as "all ports" (SVC-18)."""

    name: PortName | None = None
    port: PortOrZero | None = None
    protocol: Protocol = "TCP"


class EndpointSlice(KubeStruct, frozen=True):
    metadata: NamespacedMetadata
    address_type: AddressType
    # Null is what the API server sends for an empty slice.
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class NodeAddress(KubeStruct, frozen=True):
    type: str
    address: str


class Taint(KubeStruct, frozen=True):
    key: str


class NodeSpec(KubeStruct, frozen=True):
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)
    pod_cidr: str = msgspec.field(name="podCIDR", default="")
    taints: list[Taint] | None = None


class NodeStatus(KubeStruct, frozen=True):
    addresses: list[NodeAddress] | None = None


class Node(KubeStruct, frozen=True):
    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ServiceCIDRSpec(KubeStruct, frozen=True):
    cidrs: list[str]


class ServiceCIDR(KubeStruct, frozen=True):
    metadata: Metadata
    spec: ServiceCIDRSpec


class EndpointAddress(KubeStruct, frozen=True):
    """Of a legacy Endpoints object."""

    ip: str
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class SubsetPort(KubeStruct, frozen=True):
    name: PortName = ""
    port: PortOrZero = 0
    protocol: ProtocolOrEmpty = "TCP"


class EndpointSubset(KubeStruct, frozen=True):
    addresses: list[EndpointAddress] | None = None
    not_ready_addresses: list[EndpointAddress] | None = None
    ports: list[SubsetPort] | None = None


class Endpoints(KubeStruct, frozen=True):
    """The legacy object that EndpointSlices replaced (D10); it has its Service's name."""

    metadata: NamespacedMetadata
    subsets: list[EndpointSubset] | None = None


# ---- what network policies are made of ----


class ContainerPort(KubeStruct, frozen=True):
    """Nothing is required: what the API server has let through is judged where it is used."""

    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0
    host_ip: str = msgspec.field(name="hostIP", default="")


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
    """A pod as policies and host ports see it."""

    metadata: NamespacedMetadata
    spec: PodSpec | None = None
    status: PodStatus | None = None


class Namespace(KubeStruct, frozen=True):
    """Only its labels matter; `kubernetes.io/metadata.name` is there whether the document has it or not."""

    metadata: Metadata


class NetworkPolicy(KubeStruct, frozen=True):
    """networking.k8s.io/v1. The spec is plain values, since a fault in it must not make the object disappear."""

    metadata: NamespacedMetadata
    spec: Any = None


class ClusterNetworkPolicy(KubeStruct, frozen=True):
    """policy.networking.k8s.io/v1alpha2."""

    metadata: Metadata
    spec: Any = None


# ---- what an Ingress is made of ----


class Ingress(KubeStruct, frozen=True):
    """networking.k8s.io/v1. The spec is plain values: what is wrong in it is found where it is read."""

    metadata: NamespacedMetadata
    spec: Any = None
    status: Any = None


class IngressClassSpec(KubeStruct, frozen=True):
    """Which controller serves the class."""

    controller: str = ""


class IngressClass(KubeStruct, frozen=True):
    """networking.k8s.io/v1."""

    metadata: Metadata
    spec: IngressClassSpec | None = None


# The type of those that hold a certificate and its key.
CERTIFICATE_TYPE = "kubernetes.io/tls"


class Secret(KubeStruct, frozen=True):
    """Of a certificate. `data` is plain values, so that no message about a fault can quote it."""

    metadata: NamespacedMetadata
    type: str = ""
    data: Any = None
    string_data: Any = None

    def __repr__(self) -> str:
        """Only its name."""
        return f"Secret({self.metadata.namespace}/{self.metadata.name})"
