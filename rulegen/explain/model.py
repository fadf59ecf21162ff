"""The explanations, as `-o json` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from rulegen.config import Family, NodeConfiguration
from rulegen.kube.objects import Service
from rulegen.nftables.compiler import Compiler
from rulegen.nftables.layout import EntryKey, Value
from rulegen.nftables.slots import rounding_error, slot_counts
from rulegen.nftables.words import EntryInWords
from rulegen.routing.cluster import Cluster
from rulegen.routing.model import Backend


class View(NamedTuple):
    """What is explained: the cluster as a node sees it and what it was compiled to.

    `services`: all Services by namespace and name, also those that have no Routes. `live`: the kernel's entries, whose
    ids `compiler` has adopted, or None when they are not asked about.
    """

    cluster: Cluster
    configuration: NodeConfiguration
    compiler: Compiler
    services: Mapping[tuple[str, str], Service]
    live: Mapping[EntryKey, Value] | None = None

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


class Member(Explained, frozen=True):
    """An endpoint in a list. `share`: of the weights; `probability`: what its slots make of it."""

    endpoint: str
    weight: int
    share: float
    slots: int
    probability: float


class ListExplanation(Explained, frozen=True):
    """The Cluster or the Local list of a service-port; `reason` says how it came to be.

    `rounding_error`: the largest relative difference between a probability and its share (D9).
    """

    name: str
    reason: str
    slots: int
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
    entries: tuple[EntryInWords, ...]


class FindingExplanation(Explained, frozen=True):
    """A finding about the Service or one of its slices."""

    object: str
    reason: str
    message: str


class ServiceExplanation(Explained, frozen=True):
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


class PacketExplanation(Explained, frozen=True):
    """What becomes of the first packet of a connection. `frontend`: the one that decided, "" for none."""

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
    entries: tuple[EntryInWords, ...]
    live: Agreement | None


def members(backends: tuple[Backend, ...]) -> tuple[Member, ...]:
    """The endpoints of a list with what the target makes of their weights."""
    weights = [backend.weight for backend in backends]
    counts = slot_counts(weights)
    total, slots = sum(weights), sum(counts)
    return tuple(
        Member(str(backend), backend.weight, backend.weight / total, count, count / slots)
        for backend, count in zip(backends, counts, strict=True)
    )


def explain_list(name: str, reason: str, backends: tuple[Backend, ...]) -> ListExplanation:
    """A list whose members are `backends`, sorted."""
    found = members(backends)
    counts = [member.slots for member in found]
    error = rounding_error([member.weight for member in found], counts)
    return ListExplanation(name, reason, sum(counts), error, found)
