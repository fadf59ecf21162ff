"""What a feature of Services hands on: `ServicePort`s with `Frontend`s and `Backend`s, and what the node contributes.

A `ServicePort` is one service-port in one IP family. Its Frontends are what a client connects to; they share its two
lists of Backends (SVC-26 to SVC-27) and its affinity. Only values: building them is `services`' work, turning them into
entries a target's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from rulegen.config import Cidr, Family
from rulegen.reference import Finding, ObjectReference

# Namespace and name.
ServiceKey: TypeAlias = tuple[str, str]


# The kind of object that most service-ports come from.
SERVICE = "Service"


class ServicePortName(NamedTuple):
    """Identifies a service-port: the spec's (namespace, name, port name, protocol). Sorts as a tuple.

    `kind`: of the object that it comes from.
    """

    namespace: str
    name: str
    port: str
    protocol: str
    kind: str = SERVICE

    def __str__(self) -> str:
        """`namespace/name:port`, or `namespace/name` for an unnamed port; the kind before it if it is another one."""
        name = f"{self.namespace}/{self.name}:{self.port}" if self.port else f"{self.namespace}/{self.name}"
        return name if self.kind == SERVICE else f"{self.kind} {name}"

    @property
    def title(self) -> str:
        """The same, always with the kind: `Service default/web:http`."""
        return f"{SERVICE} {self}" if self.kind == SERVICE else str(self)

    @property
    def parts(self) -> tuple[str, ...]:
        """What tells it from all others, as texts; of a Service's without the kind, as ever."""
        return self[:4] if self.kind == SERVICE else self


def owner_text(reference: ObjectReference) -> str:
    """How the names of an object's service-ports begin, as `str` writes them."""
    name = f"{reference.namespace}/{reference.name}"
    return name if reference.kind == SERVICE else f"{reference.kind} {name}"


class Backend(Struct, frozen=True, order=True, gc=False):
    """An endpoint with its weight (D9), behind a Frontend.

    `address` is canonical; `weight` is 1 to 65535, and 0 only in `ServicePort.draining` and `ServicePort.serving`.
    `local`: on this node (SVC-20).
    """

    address: str
    port: int
    weight: int = 1
    local: bool = False

    def __str__(self) -> str:
        """`address:port`, with brackets around an IPv6 address."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class FrontendKind(Enum):
    """What a client connects to (SVC-9)."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "externalIP"
    LOAD_BALANCER = "load-balancer VIP"
    NODE_PORT = "NodePort"
    # Of a pod on this node.
    HOST_PORT = "hostPort"


class TrafficPolicy(Enum):
    """Whose endpoints a Frontend uses: every one's, or this node's (SVC-15, SVC-41 to SVC-43)."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Verdict(Enum):
    """What becomes of a packet to a Frontend that nobody short-circuits (SVC-36, SVC-37)."""

    BALANCE = "balance"
    REJECT = "reject"
    DROP = "drop"


class Frontend(Struct, frozen=True, gc=False):
    """One address, protocol and port that a Service is reached by; the protocol is the ServicePort's.

    `address` is canonical, "" for a NodePort (it is accepted on `NodeSettings.nodeport_addresses`), and for a host port
    that is accepted on every address of the node but loopback. `policy` is the
    internal one for a ClusterIP and the external one else. `verdict` REJECT: no endpoint anywhere. DROP: policy LOCAL
    and none on this node; sources that are short-circuited to the Cluster list (SVC-43a, SVC-43b) still reach it.
    `allowed_sources`: None lets all in; else the CIDRs (canonical, sorted) outside of which a packet is dropped before
    all else (SVC-50 to SVC-54).
    """

    kind: FrontendKind
    address: str
    port: int
    policy: TrafficPolicy
    verdict: Verdict
    allowed_sources: tuple[Cidr, ...] | None = None


class ServicePort(Struct, frozen=True, gc=False):
    """A service-port in one family.

    `cluster_endpoints` and `local_endpoints` are sorted by `str(backend)` (SVC-22), weights applied (never 0), empty
    when the spec says that the service-port does not use that list; `local_endpoints` can hold some that
    `cluster_endpoints` lacks (SVC-27). `affinity_timeout`: seconds, or None without session affinity. `frontends`:
    those that this ServicePort owns (D2), ClusterIP first, then by kind, address and port. `draining`: the endpoints of
    weight 0 to which affinity records still lead, when there is affinity (D9): those that the lists would hold if their
    weight were 1. `serving`: the endpoints whose established flows live on (SVC-73, SVC-76), for UDP only, empty for
    other protocols; no rule depends on it. `health_check_port`: where load balancers ask about the Service, 0 where
    they do not (SVC-84).
    """

    name: ServicePortName
    family: Family
    frontends: tuple[Frontend, ...]
    cluster_endpoints: tuple[Backend, ...]
    local_endpoints: tuple[Backend, ...]
    affinity_timeout: int | None = None
    draining: tuple[Backend, ...] = ()
    serving: tuple[Backend, ...] = ()
    health_check_port: int = 0


ServicePortKey: TypeAlias = tuple[ServicePortName, Family]


class PodDetector(Struct, frozen=True):
    """How the source of a packet is recognised as a local pod (spec §8): exactly one field is set."""

    cidr: Cidr | None = None
    interface: str | None = None
    interface_prefix: str | None = None


class NodeSettings(Struct, frozen=True):
    """What the node, not a Service, contributes to one family.

    `detector` None: the no-op detector (SVC-48). `nodeport_addresses`: canonical CIDRs, collapsed and sorted, within
    which a local, non-loopback address accepts NodePorts (SVC-60 to SVC-63); match-all is one CIDR of prefix length 0.
    `service_cidrs`: canonical, collapsed, sorted (SVC-67).
    """

    family: Family
    detector: PodDetector | None
    masquerade_all: bool
    nodeport_addresses: tuple[Cidr, ...]
    service_cidrs: tuple[Cidr, ...]


class HealthCheck(Struct, frozen=True, gc=False):
    """What a Service tells load balancers about this node in one family, on a port of its own (SVC-77, SVC-81).

    `local_endpoints`: how many different addresses the ready endpoints on this node have; those of weight 0 are none.
    """

    service: ServiceKey
    family: Family
    port: int
    local_endpoints: int


HealthCheckKey: TypeAlias = tuple[ServiceKey, Family]


class Changes(NamedTuple):
    """What differs from what was taken last: ServicePorts and health checks (None: gone), the node's part by family."""

    service_ports: dict[ServicePortKey, ServicePort | None]
    node: dict[Family, NodeSettings]
    health_checks: dict[HealthCheckKey, HealthCheck | None]

    @property
    def items(self) -> Mapping[ServicePortKey, ServicePort | None]:
        """See `reconcile.feature.Taken`."""
        return self.service_ports

    @property
    def context(self) -> Mapping[Family, NodeSettings]:
        """See `reconcile.feature.Taken`."""
        return self.node

    def followed_by(self, later: Changes) -> Changes:
        """Both as one; of what is in both, the later."""
        return Changes(
            self.service_ports | later.service_ports,
            self.node | later.node,
            self.health_checks | later.health_checks,
        )


class Reason(StrEnum):
    """Why a Finding was made; stable words for logs, Events and `lint -o json`."""

    DUPLICATE_FRONTEND = "DuplicateFrontend"
    DUPLICATE_PORT = "DuplicatePort"
    UNUSABLE_ADDRESS = "UnusableAddress"
    UNUSED_ADDRESS = "UnusedAddress"
    UNUSABLE_RANGE = "UnusableSourceRange"
    OPEN_FAMILY = "SourceRangesLeaveFamilyOpen"
    MALFORMED_WEIGHT = "MalformedWeight"
    TOO_MANY_ENDPOINTS = "TooManyEndpoints"
    SKIPPED_PORT = "SkippedEndpointPort"
    UNKNOWN_NODE = "UnknownNode"
    HOST_PORT_TAKEN = "HostPortTaken"
    HOST_PORT_ON_LOOPBACK = "HostPortOnLoopback"
    UNUSABLE_HOST_PORT = "UnusableHostPort"
    # Found by the agent at its start, about its host.
    SYSCTL_NOT_SET = "SysctlNotSet"
    # These are found only by `lint`, which sees all objects at once.
    ALL_WEIGHTS_ZERO = "AllWeightsZero"
    IGNORED_AFFINITY_TIMEOUT = "AffinityTimeoutIgnored"
    IGNORED_POLICY = "TrafficPolicyIgnored"
    IGNORED_RANGES = "SourceRangesIgnored"
    MISSING_SERVICE = "SliceWithoutService"
    NO_ENDPOINTS = "NoEndpoints"
    NO_HEALTH_CHECK = "NoHealthCheckNodePort"
    NO_LOCAL_ENDPOINTS = "NoEndpointIsLocalAnywhere"
    OUTSIDE_SERVICE_CIDRS = "OutsideServiceCIDRs"
    PARTIAL_HINTS = "PartialTopologyHints"
    ROUNDED_WEIGHTS = "WeightsRounded"
    UNKNOWN_ANNOTATION = "UnknownAnnotation"
    UNMATCHED_PORT = "NoSlicePort"
    UNMATCHED_SLICE_PORT = "NoServicePort"
    UNMATCHED_WEIGHT = "WeightMatchesNothing"
    # Of the host, by `lint --live` and the agent.
    FOREIGN_DROP = "ForeignDrop"
    # Those of `kube.mistakes`, by the same words.
    CLUSTER_IP_MISMATCH = "ClusterIPMismatch"
    MISSPELT_KIND = "MisspeltKind"
    NO_CLUSTER_IP = "NoClusterIP"
    NO_SERVICES = "NoServices"
    NO_SLICES = "NoSlices"
    REPEATED_KEY = "RepeatedKey"
    UNKNOWN_FIELD = "UnknownField"
    UNREAD_VERSION = "UnreadVersion"
    UNREADABLE_DOCUMENT = "UnreadableDocument"
    UNUSUAL_ADDRESS = "UnusualAddress"


# What a Service's owner can and should do something about; the rest is for the operator of the cluster.
_FOR_OWNERS = frozenset(
    {
        Reason.DUPLICATE_FRONTEND,
        Reason.MALFORMED_WEIGHT,
        Reason.UNUSABLE_ADDRESS,
        Reason.UNUSABLE_RANGE,
        Reason.OPEN_FAMILY,
        Reason.TOO_MANY_ENDPOINTS,
        Reason.HOST_PORT_TAKEN,
        Reason.HOST_PORT_ON_LOOPBACK,
        Reason.UNUSABLE_HOST_PORT,
    }
)


def found(reference: ObjectReference, reason: Reason, message: str) -> Finding:
    """A Finding about a Service, or a slice of one."""
    return Finding(reference, reason, message, reason in _FOR_OWNERS)
