"""What a node is told about itself, apart from the cluster's objects. Plain values; no I/O, no defaults of a host.

`services` reads the choices that decide where a packet goes; a target reads the mark bit; the agent reads the rest.
`configuration_file` makes them from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from rulegen.claims import MASQUERADE_BIT


class Family(Enum):
    """An IP family. The value is the name that Kubernetes gives it."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"

    # Enum's own is written in Python, and keys with a family in them are looked up a hundred times for each Service.
    __hash__ = object.__hash__


# By the names that Kubernetes gives them; to look them up here takes a fifth of what a call of the class does.
FAMILIES: Mapping[str, Family] = {family.value: family for family in Family}


class Target(Enum):
    """What the rules are written for; values as in a KubeProxyConfiguration's `mode`."""

    NFTABLES = "nftables"
    IPTABLES = "iptables"


class IptablesLoader(Enum):
    """What loads rules into legacy iptables; values as a person names them."""

    RESTORE = "iptables-restore"
    PYTHON = "python-iptables"


class DetectLocalMode(Enum):
    """How traffic of local pods is told from other traffic (spec §8); values as in a KubeProxyConfiguration."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


PRIMARY_ADDRESSES = ("primary",)

Cidr: TypeAlias = str


class Denial(Enum):
    """What becomes of a packet that no policy allows; values as in a RulegenConfiguration."""

    DROP = "Drop"
    REJECT = "Reject"


class PolicySettings(Struct, frozen=True, kw_only=True):
    """How network policies are enforced.

    `strict`: connections that a changed policy forbids end, and cannot be picked up again. `fail_closed`: traffic of
    this node's pods that nobody has told of yet is dropped. `node_input`: egress policies hold for the node itself as
    a destination, too. `log_group`: the nflog group to which denials are told, None for none. `ipsets`: on iptables,
    sets of ipset are used where the host has them.
    """

    denial: Denial = Denial.DROP
    strict: bool = False
    fail_closed: bool = False
    node_input: bool = False
    log_group: int | None = None
    ipsets: bool = True


class PodRange(Enum):
    """By which addresses a node's own pods are known; values as in a RulegenConfiguration."""

    NODE_CIDR = "NodeCIDR"
    CLUSTER_CIDR = "ClusterCIDR"


class EgressSettings(Struct, frozen=True, kw_only=True):
    """How egress masquerading is done.

    `config_file`: where ip-masq-agent's file is, "" for where that agent has it. `pod_range`: of the node's own pods.
    What the file says, or that agent's defaults: `non_masquerade_cidrs` (canonical), and whether traffic to link-local
    addresses of either family is masqueraded. `unusable`: why the file cannot be used, of which nothing is known then.
    """

    config_file: str = ""
    pod_range: PodRange = PodRange.NODE_CIDR
    non_masquerade_cidrs: tuple[Cidr, ...] = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    masq_link_local: bool = False
    masq_link_local_ipv6: bool = False
    unusable: str = ""


class SocketAddress(NamedTuple):
    """Where a server listens: a canonical address, and a port from 1 to 65535."""

    address: str
    port: int

    def __str__(self) -> str:
        """`address:port`, with brackets around an IPv6 address."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class RecordSettings(Struct, frozen=True, kw_only=True):
    """Where names of Services are kept, for a run that is for the cluster and no node.

    `zone`, `reverse_zones`: absolute names in lower case; the defaults are CoreDNS's. `ttl`: seconds, of every record.
    `server`: which name server takes updates, None where nobody says it. `key_file`: with its TSIG key, "" for none.
    """

    zone: str = "cluster.local."
    reverse_zones: tuple[str, ...] = ("in-addr.arpa.", "ip6.arpa.")
    ttl: int = 5
    server: SocketAddress | None = None
    key_file: str = ""


class IngressSettings(Struct, frozen=True, kw_only=True):
    """Which nginx serves Ingresses, for a run that is for the cluster and no node.

    `controller`: that of the IngressClasses that are served. `file`: what rulegen writes, and the nginx that is started
    with `main_file` includes. `certificates`: a folder. `version_address`: where nginx says what it serves.
    `published`: canonical addresses and names by which clients reach it, for the status of Ingresses; none: it is not
    written.
    """

    controller: str = "rulegen.io/ingress"
    main_file: str = "/etc/nginx/nginx.conf"
    file: str = "/etc/nginx/conf.d/rulegen.conf"
    certificates: str = "/var/lib/rulegen/certificates"
    http_port: int = 80
    https_port: int = 443
    version_address: SocketAddress = SocketAddress("127.0.0.1", 10246)
    published: tuple[str, ...] = ()


class NodeConfiguration(Struct, frozen=True, kw_only=True):
    """One node's settings.

    `cluster_cidrs`: canonical CIDRs, at most one of each family (SVC-49). `detect_local_interface`: the bridge's name
    or the prefix, for the two interface modes. `bind_address`: a specific canonical address, or "" when unspecified
    (SVC-53). `nodeport_addresses`: canonical CIDRs, or `PRIMARY_ADDRESSES` (SVC-60 to SVC-62). `masquerade_bit`: 0 to
    31. `seed`: where numbers that may be any (a new Service's id on nftables) begin, so that the same come out again;
    None: anywhere.
    """

    node_name: str = ""
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    bind_address: str = ""
    detect_local_mode: DetectLocalMode = DetectLocalMode.CLUSTER_CIDR
    detect_local_interface: str = ""
    cluster_cidrs: tuple[Cidr, ...] = ()
    nodeport_addresses: tuple[Cidr, ...] = PRIMARY_ADDRESSES
    masquerade_all: bool = False
    masquerade_bit: int = MASQUERADE_BIT
    policies: PolicySettings = PolicySettings()
    egress: EgressSettings = EgressSettings()
    records: RecordSettings = RecordSettings()
    ingress: IngressSettings = IngressSettings()
    seed: int | None = None


class Conntrack(Struct, frozen=True, kw_only=True):
    """The connection tracking that the host should have (SVC-71); timeouts in seconds. 0: left as it is.

    `minimum` bounds what `max_per_core` adds up to, and means nothing without it.
    """

    max_per_core: int = 0
    minimum: int = 131072
    tcp_established_timeout: float = 0.0
    tcp_close_wait_timeout: float = 0.0
    tcp_be_liberal: bool = False
    udp_timeout: float = 0.0
    udp_stream_timeout: float = 0.0


# What kube-proxy sets where its configuration says nothing else (SVC-71).
KUBE_PROXY_CONNTRACK = Conntrack(
    max_per_core=32768, minimum=131072, tcp_established_timeout=86400.0, tcp_close_wait_timeout=3600.0
)


class LogFormat(Enum):
    """How the agent's log is written; values as in a KubeProxyConfiguration."""

    TEXT = "text"
    JSON = "json"


class LeaderElection(Struct, frozen=True, kw_only=True):
    """When another replica takes over, of those of which one works; seconds. The defaults are client-go's.

    `lease_duration`: how long a Lease that nobody renews is its holder's; `renew_deadline`: after so long its holder
    gives up; `retry_period`: between two attempts. Each is longer than the next.
    """

    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0


class AgentConfiguration(Struct, frozen=True, kw_only=True):
    """What only the agent reads; periods in seconds, with 0 <= `min_sync_period` <= `sync_period` (SVC-85 to SVC-97).

    `kubeconfig`: a path, "" when not stated. `bind_address_hard_fail`: a port that is taken ends the agent.
    `accelerate`: established connections to Services go past the node's rules.
    `log_verbosity`: 0 or more, as kube-proxy's `-v`.
    """

    kubeconfig: str = ""
    healthz_bind_address: SocketAddress = SocketAddress("0.0.0.0", 10256)  # noqa: S104 - kube-proxy's default
    metrics_bind_address: SocketAddress = SocketAddress("127.0.0.1", 10249)
    bind_address_hard_fail: bool = False
    sync_period: float = 30.0
    min_sync_period: float = 0.02
    conntrack: Conntrack = Conntrack()
    accelerate: bool = False
    log_format: LogFormat = LogFormat.TEXT
    log_verbosity: int = 0
    leader_election: LeaderElection = LeaderElection()


class Configuration(Struct, frozen=True, kw_only=True):
    """All that a configuration file says. `node` has its name only where the file overrides it (SVC-95).

    `features`: the names of those that are asked for; some are always on.
    """

    target: Target = Target.NFTABLES
    iptables_driver: IptablesLoader = IptablesLoader.RESTORE
    features: tuple[str, ...] = ()
    node: NodeConfiguration = NodeConfiguration()
    agent: AgentConfiguration = AgentConfiguration()
