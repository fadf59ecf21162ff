"""What a node is told about itself, apart from the cluster's objects. Plain values; no I/O, no defaults of a host.

`routing` reads the choices that decide where a packet goes; a target reads the mark bit.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from msgspec import Struct


class Family(Enum):
    """An IP family. The value is the name that Kubernetes gives it."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class DetectLocalMode(Enum):
    """How traffic of local pods is told from other traffic (spec §8); values as in a KubeProxyConfiguration."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


PRIMARY_ADDRESSES = ("primary",)

Cidr: TypeAlias = str


class NodeConfiguration(Struct, frozen=True, kw_only=True):
    """One node's settings.

    `cluster_cidrs`: canonical CIDRs, at most one of each family (rule 49). `detect_local_interface`: the bridge's name
    or the prefix, for the two interface modes. `bind_address`: a specific canonical address, or "" when unspecified
    (rule 53). `nodeport_addresses`: canonical CIDRs, or `PRIMARY_ADDRESSES` (rules 60-62). `masquerade_bit`: 0 to 31.
    """

    node_name: str = ""
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    bind_address: str = ""
    detect_local_mode: DetectLocalMode = DetectLocalMode.CLUSTER_CIDR
    detect_local_interface: str = ""
    cluster_cidrs: tuple[Cidr, ...] = ()
    nodeport_addresses: tuple[Cidr, ...] = PRIMARY_ADDRESSES
    masquerade_all: bool = False
    masquerade_bit: int = 14
