"""Clusters of any size as manifests: the same size gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple

NODE = "node-1"
NODE_ADDRESS = "192.0.2.1"
NODES = 100
ENDPOINTS = 10
POD_CIDRS = ("10.0.0.0/8", "fd00:10::/32")
SERVICE_CIDR = "172.16.0.0/12"
_CLUSTER_IPS = (IPv4Address("172.16.0.0"), IPv6Address("fd00:172::"))
_PODS = (IPv4Address("10.0.0.0"), IPv6Address("fd00:10::"))
_VIPS = IPv4Address("198.18.0.0")


class Kind(Enum):
    """What a first packet may have to be asked besides the lookup of a ClusterIP; the value is part of a name."""

    NODE_PORT = "node-port"
    RANGES = "ranges"
    LOCAL = "local"
    AFFINITY = "affinity"


SOURCE_RANGE = "203.0.113.0/24"


class Shape(NamedTuple):
    """A cluster: so many Services of so many endpoints, `ENDPOINTS` at most.

    `mixed`: dual-stack; of ten Services two have a NodePort, and one is a LoadBalancer with two VIPs and policy Local.
    `special`: behind them one Service of each `Kind`. `headless`: they have no ClusterIP.
    """

    services: int
    mixed: bool = False
    special: bool = False
    endpoints: int = ENDPOINTS
    headless: bool = False

    def __str__(self) -> str:
        each = "" if self.endpoints == ENDPOINTS else f" x {self.endpoints}"
        return f"{self.services:,}{each}{' mixed' if self.mixed else ''}{' headless' if self.headless else ''}"

    @property
    def kinds(self) -> dict[int, Kind]:
        """The numbers of the Services of each kind."""
        return dict(enumerate(Kind, self.services)) if self.special else {}

    @property
    def families(self) -> int:
        """1 or 2."""
        return 2 if self.mixed else 1


def manifest(shape: Shape, folder: Path) -> Path:
    """The file with the cluster, one `List` as `kubectl get -o json` prints it; written when it is not there yet."""
    words = [f"{shape.services}-{shape.endpoints}", *["mixed"] * shape.mixed, *["special"] * shape.special]
    words += ["headless"] * shape.headless
    path = folder / f"{'-'.join(words)}.json"
    if not path.exists():
        with path.open("w") as file:
            file.write('{"apiVersion": "v1", "kind": "List", "items": [\n')
            file.write(",\n".join(json.dumps(item) for item in _items(shape)))
            file.write("\n]}\n")
    return path


def _items(shape: Shape) -> Iterator[dict[str, Any]]:
    yield _node(shape)
    if shape.special:
        yield _SERVICE_CIDR_OBJECT
    for index in range(shape.services):
        yield service(shape, index)
        for family in range(shape.families):
            yield slice_of(index, family, shape.endpoints)
    for index, kind in shape.kinds.items():
        yield _special_service(shape, index, kind)
        yield slice_of(index, 0)


_SERVICE_CIDR_OBJECT = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "ServiceCIDR",
    "metadata": {"name": "kubernetes", "uid": "1", "resourceVersion": "1"},
    "spec": {"cidrs": [SERVICE_CIDR]},
}


def _node(shape: Shape) -> dict[str, Any]:
    addresses = [NODE_ADDRESS, "2001:db8::1"][: shape.families]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "uid": "0", "resourceVersion": "1"},
        "spec": {"podCIDRs": ["10.0.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


def service_name(index: int) -> str:
    """Of the Service with this number, the first being 0."""
    return f"service-{index:05}"


def cluster_ip(index: int, family: int = 0) -> str:
    """Of the Service with this number; `family` 0 is IPv4, 1 is IPv6."""
    return str(_CLUSTER_IPS[family] + index + 1)


def endpoint_address(index: int, endpoint: int, family: int = 0) -> str:
    """Of an endpoint of a Service; those above the first `ENDPOINTS` are nobody else's either."""
    number = index * ENDPOINTS + endpoint if endpoint < ENDPOINTS else (1 << 22) + index * 64 + endpoint
    return str(_PODS[family] + number + 1)


def _metadata(name: str, number: int) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": f"team-{number % 50}",
        "uid": f"00000000-0000-4000-8000-{number:012}",
        "resourceVersion": str(1000 + number),
        "creationTimestamp": "2025-01-01T00:00:00Z",
        "labels": {"app.kubernetes.io/name": f"service-{number:05}", "app.kubernetes.io/managed-by": "Helm"},
    }


def service(shape: Shape, index: int) -> dict[str, Any]:
    """The Service with this number."""
    port: dict[str, Any] = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}
    spec: dict[str, Any] = {
        "type": "ClusterIP",
        "clusterIP": cluster_ip(index),
        "clusterIPs": [cluster_ip(index, family) for family in range(shape.families)],
        "ipFamilies": ["IPv4", "IPv6"][: shape.families],
        "ipFamilyPolicy": "PreferDualStack" if shape.mixed else "SingleStack",
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "selector": {"app.kubernetes.io/name": service_name(index)},
        "ports": [port],
    }
    status: dict[str, Any] = {"loadBalancer": {}}
    if shape.headless:
        spec |= {"clusterIP": "None", "clusterIPs": ["None"]}
    if shape.mixed and index % 10 in {3, 7}:
        spec |= {"type": "NodePort", "externalTrafficPolicy": "Cluster"}
        port["nodePort"] = 30000 + index // 10 * 2 + (index % 10 == 7)
    elif shape.mixed and index % 10 == 5:
        spec |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": False}
        vips = [vip(index), str(_VIPS + index * 2 + 2)]
        status = {"loadBalancer": {"ingress": [{"ip": vip, "ipMode": "VIP"} for vip in vips]}}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(service_name(index), index),
        "spec": spec,
        "status": status,
    }


def node_port(index: int) -> int:
    """Of the Service with this number, if its kind is NODE_PORT."""
    return 30000 + index % 2768


def vip(index: int) -> str:
    """Of the Service with this number, if it is a LoadBalancer."""
    return str(_VIPS + index * 2 + 1)


def _special_service(shape: Shape, index: int, kind: Kind) -> dict[str, Any]:
    found = service(shape, index)
    spec = found["spec"]
    if kind is Kind.NODE_PORT:
        spec |= {"type": "NodePort", "externalTrafficPolicy": "Cluster"}
        spec["ports"][0]["nodePort"] = node_port(index)
    elif kind is Kind.AFFINITY:
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}}
    else:
        spec |= {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}
        spec["externalTrafficPolicy"] = "Local" if kind is Kind.LOCAL else "Cluster"
        found["status"] = {"loadBalancer": {"ingress": [{"ip": vip(index), "ipMode": "VIP"}]}}
        if kind is Kind.RANGES:
            spec["loadBalancerSourceRanges"] = [SOURCE_RANGE]
    return found


def slice_of(index: int, family: int, endpoints: int = ENDPOINTS) -> dict[str, Any]:
    """Its EndpointSlice of a family: 0 is IPv4, 1 is IPv6."""
    name = f"{service_name(index)}-{'ab'[family]}"
    metadata = _metadata(name, index)
    metadata["labels"] |= {"kubernetes.io/service-name": service_name(index)}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": ("IPv4", "IPv6")[family],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [_endpoint(index, number, family) for number in range(endpoints)],
    }


def _endpoint(index: int, number: int, family: int) -> dict[str, Any]:
    pod = f"{service_name(index)}-5d4f8c7b9-{number:05}"
    return {
        "addresses": [endpoint_address(index, number, family)],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": NODE if not number else f"node-{2 + (index * ENDPOINTS + number) % (NODES - 1)}",
        "targetRef": {"kind": "Pod", "name": pod, "namespace": f"team-{index % 50}", "uid": f"{index:08}-{number:04}"},
        "zone": f"zone-{number % 3}",
    }
