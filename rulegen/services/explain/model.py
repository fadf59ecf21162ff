"""The explanations, as `-o json` writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeAlias

from msgspec import Struct, UnsetType

from rulegen.config import Family, NodeConfiguration
from rulegen.follow.model import Ending
from rulegen.kube.mistakes import Notice
from rulegen.kube.objects import Service
from rulegen.services.model import Backend, ServicePort, ServicePortKey
from rulegen.services.names import NOBODY, Directory
from rulegen.services.on_iptables.annotate import AnnotatedChain
from rulegen.services.on_nftables.annotate import AnnotatedEntry
from rulegen.services.simulate import Decision, Delivery, Outcome, Packet
from rulegen.services.store import Store

Entry: TypeAlias = AnnotatedEntry | AnnotatedChain


class FollowedPacket(NamedTuple):
    """A packet and what `services` says becomes of it, on a node with these addresses."""

    family: Family
    packet: Packet
    outcome: Outcome
    node_addresses: tuple[str, ...]


class Ruleset(Protocol):
    """What a target made of the ServicePorts, and what the kernel holds of it, as explanations speak of it."""

    def weigh(self, backends: Sequence[Backend]) -> Weighed:
        """What becomes of the weights of a list."""
        ...

    def service_port_entries(self, service_port: ServicePortKey) -> tuple[Entry, ...]:
        """The entries that implement a ServicePort; none for an unknown one."""
        ...

    def notes(self, service_port: ServicePort) -> tuple[str, ...]:
        """What the target cannot do as well as the ServicePort asks for."""
        ...

    def on_the_way(self, delivery: Delivery) -> Decision:
        """What becomes of a packet between DNAT and the endpoint; UNTOUCHED if it gets there."""
        ...

    def way(self, followed: FollowedPacket) -> Way:
        """The chains and entries that make the outcome."""
        ...

    def service_ports_agree(self, service_ports: Collection[ServicePortKey]) -> Agreement | None:
        """Whether the kernel has what it should of these service-ports; None when it was not asked."""
        ...

    def packet_agrees(self, followed: FollowedPacket | None) -> Agreement | None:
        """The same of all that decides about a packet; None for `followed`: the node has no rules for its family."""
        ...


class View(NamedTuple):
    """What is explained: the cluster as a node sees it and what it was compiled to.

    `services`: all Services by namespace and name, also those that have no ServicePorts. `directory`: what can be
    named. `notices`: what is probably a mistake in how objects were written.
    """

    store: Store
    configuration: NodeConfiguration
    ruleset: Ruleset
    services: Mapping[tuple[str, str], Service]
    directory: Directory = NOBODY
    notices: Sequence[Notice] = ()

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that there are rules for."""
        return self.configuration.families


class Explained(Struct, frozen=True, rename="camel"):
    """Base of all parts of an explanation."""


class Agreement(Explained, frozen=True):
    """Whether the kernel holds what was compiled; `differences` as `rulegen diff` prints them."""

    agrees: bool
    differences: tuple[str, ...]


class Way(NamedTuple):
    """The chains that decide about a packet, in its order, and the entries that it meets there.

    `endings`: what becomes of it, with the names of chains of other features than Services that decide.
    """

    chains: tuple[str, ...]
    entries: tuple[Entry, ...]
    endings: tuple[WayEnd, ...]


class WayEnd(NamedTuple):
    """`refused_elsewhere`, `masqueraded_elsewhere`: the chain of another feature that does, "" for none."""

    ending: Ending
    refused_elsewhere: str
    masqueraded_elsewhere: str


class Member(Explained, frozen=True):
    """An endpoint in a list. `share`: of the weights; `probability`: what the target makes of it.

    `slots`: how many it takes, where the target has such.
    """

    endpoint: str
    weight: int
    share: float
    slots: int | UnsetType
    probability: float


class Weighed(NamedTuple):
    """The endpoints of a list as a target balances over them; see `ListExplanation`."""

    slots: int | UnsetType
    rounding_error: float
    members: tuple[Member, ...]


class ListExplanation(Explained, frozen=True):
    """The Cluster or the Local list of a service-port; `reason` says how it came to be.

    `slots`: of all members, where the target has such. `rounding_error`: the largest relative difference between a
    probability and its share (D9).
    """

    name: str
    reason: str
    slots: int | UnsetType
    rounding_error: float
    members: tuple[Member, ...]


class SourceExplanation(Explained, frozen=True):
    """What becomes of packets from one kind of source. `endpoints`: Cluster or Local, "" for none."""

    source: str
    fate: str
    endpoints: str
    masquerade: bool
    reason: str


class FrontendExplanation(Explained, frozen=True):
    """What a client connects to. `owner`: the service-port that has it instead (D2), "" normally.

    `address` is "" for a NodePort. `allowed_sources`: None lets all in.
    """

    kind: str
    address: str
    port: int
    policy: str
    verdict: str
    owner: str
    allowed_sources: tuple[str, ...] | None
    sources: tuple[SourceExplanation, ...]


class EndpointExplanation(Explained, frozen=True):
    """An endpoint as a slice lists it; `cluster` and `local` say why it is not in those lists, "" if it is."""

    endpoint: str
    slice: str
    target: str
    node: str
    weight: int
    cluster: str
    local: str


class PortExplanation(Explained, frozen=True):
    """A service-port in one family. `draining`: endpoints of weight 0 that keep the clients they have (D9)."""

    name: str
    family: str
    protocol: str
    frontends: tuple[FrontendExplanation, ...]
    affinity_timeout: int | None
    lists: tuple[ListExplanation, ...]
    endpoints: tuple[EndpointExplanation, ...]
    draining: tuple[str, ...]
    notes: tuple[str, ...]
    entries: tuple[Entry, ...]


class FindingExplanation(Explained, frozen=True):
    """A finding about the Service or one of its slices."""

    object: str
    reason: str
    message: str


class ServiceExplanation(Explained, frozen=True, tag_field="version", tag=1):
    """What becomes of a Service on a node."""

    service: str
    type: str
    node: str
    facts: tuple[str, ...]
    findings: tuple[FindingExplanation, ...]
    ports: tuple[PortExplanation, ...]
    live: Agreement | None


class DeliveryExplanation(Explained, frozen=True):
    """An endpoint that a packet may go to; `decision`: what becomes of it on the way, "" when it arrives."""

    endpoint: str
    share: float
    probability: float
    masquerade: bool
    decision: str


class Cause(StrEnum):
    """What a reason is about; stable words for programs."""

    # Why it gets there, and why to these endpoints.
    ALL_READY = "AllReadyEndpoints"
    LOCAL = "EndpointsOfThisNode"
    HINTS = "TopologyHints"
    HINTS_IGNORED = "TopologyHintsIgnored"
    DRAINING = "OnlyDrainingEndpoints"
    LEFT_OUT = "EndpointsLeftOut"
    WEIGHTS = "Weights"
    LET_IN = "SourceRangeLetsIn"
    ON_THE_WAY = "RefusedOnTheWay"
    OTHER_OWNER = "OtherServiceOwnsIt"
    HOST_PORT = "HostPort"
    # Why nobody answers there.
    RANGES = "SourceRanges"
    NO_LOCAL = "NoEndpointOnThisNode"
    NO_ENDPOINTS = "NoUsableEndpoint"
    NO_SLICES = "NoEndpointSlice"
    STRAY_SLICE = "SliceOfNoService"
    UNREAD_SLICE = "UnreadSlice"
    OTHER_FAMILY = "OtherFamily"
    UNMATCHED_PORT = "SlicePortMatchesNone"
    # Why no Service is concerned.
    WRONG_PORT = "WrongPort"
    WRONG_PROTOCOL = "WrongProtocol"
    TARGET_PORT = "TargetPortUsed"
    NODE_PORT = "NodePortUsed"
    SERVICE_PORT = "ServicePortUsed"
    NOT_ACCEPTED = "NodePortNotAcceptedHere"
    NO_PORTS = "PingOfAService"
    OTHER_NODE = "OtherNode"
    THIS_NODE = "ThisNode"
    POD = "Pod"
    OTHER_PROXY = "NotServedHere"
    HEADLESS = "Headless"
    EXTERNAL_NAME = "ExternalName"
    UNALLOCATED = "NobodysClusterIP"
    UNKNOWN_ADDRESS = "UnknownAddress"
    NO_RULES = "NoRulesForFamily"
    # What else decides.
    DECIDED_ELSEWHERE = "DecidedOnOtherNode"
    POLICY = "NetworkPolicy"


class Why(Explained, frozen=True):
    """A reason for what becomes of a packet, and what would work, "" each where there is nothing to say."""

    cause: Cause
    message: str
    would_work: tuple[str, ...] = ()


class PacketExplanation(Explained, frozen=True, tag_field="version", tag=1):
    """What becomes of the first packet of a connection. `frontend`: the one that decided, "" for none.

    `chains` and `entries`: of the rules that were followed, the kernel's or the compiled ones. `elsewhere`: what rules
    of other features make of it; `otherwise`: what the Services' own do that they should not, or what of them is not
    understood.
    `names`: what source and destination were called, and what else they are. `why`: the reasons, in the order in which
    they matter.
    """

    source: str
    destination: str
    interface: str
    origin: str
    fate: str
    reasons: tuple[str, ...]
    frontend: str
    affinity_timeout: int | None
    deliveries: tuple[DeliveryExplanation, ...]
    notes: tuple[str, ...]
    chains: tuple[str, ...]
    entries: tuple[Entry, ...]
    live: Agreement | None
    elsewhere: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    why: tuple[Why, ...] = ()
