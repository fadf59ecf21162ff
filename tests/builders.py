"""Short ways to write the objects that tests are about; all else is what the API server would default to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, cast

from rulegen.config import NodeConfiguration
from rulegen.kube.objects import (
    AddressType,
    ClientIPConfig,
    Container,
    ContainerPort,
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    EndpointSlice,
    ExternalPolicy,
    ForNode,
    ForZone,
    InternalPolicy,
    LoadBalancerIngress,
    LoadBalancerStatus,
    Metadata,
    NamespacedMetadata,
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    ObjectReference,
    Pod,
    PodSpec,
    PodStatus,
    Protocol,
    Service,
    ServiceCIDR,
    ServiceCIDRSpec,
    ServiceMetadata,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
    ServiceType,
    SessionAffinityConfig,
)
from rulegen.services.store import Store

Item: TypeAlias = Service | EndpointSlice | Node | ServiceCIDR

CONFIGURATION = NodeConfiguration(node_name="node-1", cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/56"))


def port(number: int = 80, name: str = "", protocol: str = "TCP", node_port: int = 0) -> ServicePort:
    return ServicePort(port=number, name=name, protocol=cast(Protocol, protocol), node_port=node_port)


def service(
    name: str = "web",
    cluster_ips: Sequence[str] = ("10.96.0.10",),
    ports: Sequence[ServicePort] = (port(),),
    *,
    namespace: str = "default",
    kind: str = "ClusterIP",
    external_ips: Sequence[str] = (),
    vips: Sequence[str | LoadBalancerIngress] = (),
    internal: str = "Cluster",
    external: str = "Cluster",
    health_check_port: int = 0,
    ranges: Sequence[str] = (),
    affinity: int | None = None,
    created: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Service:
    """`cluster_ips`: the families follow from the addresses. `affinity`: ClientIP with this timeout in seconds."""
    ingress = [LoadBalancerIngress(ip=vip) if isinstance(vip, str) else vip for vip in vips]
    return Service(
        metadata=ServiceMetadata(
            name=name,
            namespace=namespace,
            creation_timestamp=created,
            labels=dict(labels) if labels else None,
            annotations=dict(annotations) if annotations else None,
        ),
        spec=ServiceSpec(
            type=cast(ServiceType, kind),
            cluster_ip=cluster_ips[0] if cluster_ips else "",
            cluster_ips=list(cluster_ips),
            ip_families=["IPv6" if ":" in address else "IPv4" for address in cluster_ips],
            ports=list(ports),
            external_ips=list(external_ips),
            internal_traffic_policy=cast(InternalPolicy, internal),
            external_traffic_policy=cast(ExternalPolicy, external),
            health_check_node_port=health_check_port,
            load_balancer_source_ranges=list(ranges),
            session_affinity="None" if affinity is None else "ClientIP",
            session_affinity_config=(
                None if affinity is None else SessionAffinityConfig(client_ip=ClientIPConfig(timeout_seconds=affinity))
            ),
        ),
        status=ServiceStatus(load_balancer=LoadBalancerStatus(ingress=ingress)),
    )


def endpoint(
    address: str,
    node: str | None = None,
    *,
    ready: bool | None = None,
    serving: bool | None = None,
    terminating: bool | None = None,
    target: str = "",
    zones: Iterable[str] = (),
    nodes: Iterable[str] = (),
) -> Endpoint:
    hints = EndpointHints(
        for_zones=[ForZone(name=zone) for zone in zones] or None,
        for_nodes=[ForNode(name=name) for name in nodes] or None,
    )
    return Endpoint(
        addresses=[address],
        conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating),
        node_name=node,
        target_ref=ObjectReference(name=target) if target else None,
        hints=hints if hints != EndpointHints() else None,
    )


def draining(address: str, node: str | None = None) -> Endpoint:
    """An endpoint that is terminating but still serves."""
    return endpoint(address, node, ready=False, serving=True, terminating=True)


def endpoint_port(number: int | None = 8080, name: str | None = "", protocol: str = "TCP") -> EndpointPort:
    return EndpointPort(name=name, port=number, protocol=cast(Protocol, protocol))


def endpoint_slice(
    endpoints: Sequence[Endpoint | str] = (),
    *,
    service_name: str = "web",
    name: str = "web-1",
    namespace: str = "default",
    family: str = "IPv4",
    ports: Sequence[EndpointPort] = (endpoint_port(),),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> EndpointSlice:
    """`endpoints`: a plain address is a ready endpoint on no node in particular."""
    return EndpointSlice(
        metadata=NamespacedMetadata(
            name=name,
            namespace=namespace,
            labels={"kubernetes.io/service-name": service_name, **(labels or {})},
            annotations=dict(annotations) if annotations else None,
        ),
        address_type=cast(AddressType, family),
        endpoints=[endpoint(item) if isinstance(item, str) else item for item in endpoints],
        ports=list(ports),
    )


def node(
    name: str = "node-1",
    addresses: Sequence[str] = ("192.168.1.10",),
    *,
    external_addresses: Sequence[str] = (),
    zone: str | None = None,
    pod_cidrs: Sequence[str] = (),
) -> Node:
    return Node(
        metadata=Metadata(name=name, labels=None if zone is None else {"topology.kubernetes.io/zone": zone}),
        spec=NodeSpec(pod_cidrs=list(pod_cidrs)),
        status=NodeStatus(
            addresses=[
                *(NodeAddress(type="ExternalIP", address=address) for address in external_addresses),
                *(NodeAddress(type="InternalIP", address=address) for address in addresses),
            ]
        ),
    )


def pod(
    name: str,
    address: str = "",
    at: str = "node-1",
    *,
    namespace: str = "default",
    host_port: int = 0,
    host_network: bool = False,
    phase: str = "Running",
) -> Pod:
    """With one container, which has port 9000, named metrics. `at`: the node."""
    ports = [ContainerPort(container_port=9000, name="metrics", host_port=host_port)]
    return Pod(
        metadata=NamespacedMetadata(name=name, namespace=namespace),
        spec=PodSpec(node_name=at, host_network=host_network, containers=[Container(ports=ports)]),
        status=PodStatus(phase=phase, pod_ip=address or None),
    )


def service_cidr(*cidrs: str, name: str = "kubernetes") -> ServiceCIDR:
    return ServiceCIDR(metadata=Metadata(name=name), spec=ServiceCIDRSpec(cidrs=list(cidrs)))


def store(*items: Item, configuration: NodeConfiguration = CONFIGURATION) -> Store:
    """A Store that was given the objects in this order."""
    made = Store(configuration)
    made.set_objects(items)
    return made
