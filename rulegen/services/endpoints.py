"""EndpointSlices come in, the merged endpoints of a service-port go out (spec §3). `selection` chooses among them.

A slice is read once, when it arrives, into a `SliceDigest` that keeps only what decides where packets go; merging
joins the digests of a Service's slices for one service-port.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct

from rulegen.config import FAMILIES, Family
from rulegen.errors import shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import Endpoint, EndpointConditions, EndpointHints, EndpointSlice
from rulegen.reference import Finding, ObjectReference, bounded
from rulegen.services.model import Backend, Reason, found
from rulegen.services.weights import ServiceWeights, parse_slice_weight

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"


class SlicePort(NamedTuple):
    """A port that can be joined to a service-port (SVC-18)."""

    name: str
    protocol: str
    number: int


class SliceEndpoint(Struct, frozen=True, gc=False):
    """One endpoint of a slice: its first address, canonical, and its conditions with their defaults (SVC-21).

    `target` and `node` are what a Service's weights can name it by.
    """

    address: str
    local: bool
    ready: bool
    serving: bool
    terminating: bool
    hints: EndpointHints | None
    target: str
    node: str

    @property
    def draining(self) -> bool:
        """On its way out, but serving."""
        return self.terminating and self.serving


class SliceDigest(Struct, frozen=True, gc=False):
    """A slice that counts (SVC-2, SVC-17), with what it lacks as findings. `service`: the name in its label.

    `is_plain`: all endpoints are ready and serving, none is terminating or has hints.
    """

    name: str
    namespace: str
    service: str
    family: Family
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]
    weight: int
    findings: tuple[Finding, ...]
    is_plain: bool


class MergedEndpoint(Struct, frozen=True, gc=False):
    """An endpoint of a service-port, ready to be chosen: `backend` carries the port and the weight, 0 included.

    `draining`: serving and terminating.
    """

    backend: Backend
    ready: bool
    serving: bool
    draining: bool
    hints: EndpointHints | None


def digest_slice(slice_: EndpointSlice, node_name: str) -> SliceDigest | None:
    """Reads a slice; None when it does not count: no Service's name, marked headless, FQDN (SVC-2, SVC-17)."""
    metadata = slice_.metadata
    labels = metadata.labels or {}
    service = labels.get(SERVICE_NAME_LABEL, "")
    if not service or HEADLESS_LABEL in labels or slice_.address_type == "FQDN":
        return None
    family = FAMILIES[slice_.address_type]
    weight, problems = parse_slice_weight(metadata.annotations)
    findings = [found(_reference(slice_), Reason.MALFORMED_WEIGHT, problem) for problem in problems]
    endpoints = _endpoints(slice_, family, node_name, findings)
    return SliceDigest(
        metadata.name,
        metadata.namespace,
        service,
        family,
        _ports(slice_, findings),
        endpoints,
        weight,
        bounded(findings) if findings else (),
        all(one.ready and one.serving and not one.terminating and one.hints is None for one in endpoints),
    )


class JoinedSlices:
    """The slices of a Service in one family, by name, found by what joins them to a service-port (SVC-18)."""

    __slots__ = ("_by_port",)

    def __init__(self, slices: Iterable[SliceDigest]) -> None:
        self._by_port: dict[tuple[str, str], list[tuple[SliceDigest, int]]] = {}
        for slice_ in slices:
            for port in slice_.ports:
                self._by_port.setdefault((port.name, port.protocol), []).append((slice_, port.number))

    def of_port(self, name: str, protocol: str) -> Sequence[tuple[SliceDigest, int]]:
        """The slices that have the port, each with its number there."""
        return self._by_port.get((name, protocol), ())

    def count(self, name: str, protocol: str) -> int:
        """How many endpoints they list for the port."""
        return sum([len(slice_.endpoints) for slice_, _ in self.of_port(name, protocol)])


def merge(joined: Iterable[tuple[SliceDigest, int]], rules: ServiceWeights) -> list[MergedEndpoint]:
    """The endpoints of a service-port, sorted by `IP:port` (SVC-22). `joined`: see `JoinedSlices`.

    SVC-22 leaves open which of several non-terminating duplicates wins when they are in different slices; here it
    is the one in the last slice in the order given, and the caller sorts slices by name.
    """
    merged: dict[str, MergedEndpoint] = {}
    has_rules = bool(rules)
    for slice_, number in joined:
        join = _JOINED[slice_.family]
        weight = slice_.weight
        for endpoint in slice_.endpoints:
            key = join % (endpoint.address, number)
            if endpoint.terminating and key in merged:
                continue
            if has_rules:
                weight = endpoint_weight(rules, endpoint, slice_.weight)
            merged[key] = MergedEndpoint(
                Backend(endpoint.address, number, weight, endpoint.local),
                endpoint.ready,
                endpoint.serving,
                endpoint.terminating and endpoint.serving,
                endpoint.hints,
            )
    return [merged[key] for key in sorted(merged)]


def merge_plain(slice_: SliceDigest, number: int) -> tuple[Backend, ...]:
    """The backends of a service-port whose endpoints are those of one plain slice, without rules, as nearly always.

    All are ready, and in the same order as `merge` has them.
    """
    join, weight = _JOINED[slice_.family], slice_.weight
    merged = {join % (one.address, number): Backend(one.address, number, weight, one.local) for one in slice_.endpoints}
    return tuple([merged[key] for key in sorted(merged)])


# As `str(Backend)`, by which they are sorted.
_JOINED = {Family.IPV4: "%s:%d", Family.IPV6: "[%s]:%d"}


def endpoint_weight(rules: ServiceWeights, endpoint: SliceEndpoint, default: int) -> int:
    """The weight that a Service's rules give an endpoint, else that of its slice (D9)."""
    weight = rules.weight((endpoint.target, endpoint.node, endpoint.address))
    return default if weight is None else weight


def _ports(slice_: EndpointSlice, findings: list[Finding]) -> tuple[SlicePort, ...]:
    ports: list[SlicePort] = []
    for port in slice_.ports or ():
        if port.name is None or not port.port:
            lacking = "name" if port.name is None else "port number"
            findings.append(
                found(_reference(slice_), Reason.SKIPPED_PORT, f"a port without a {lacking} is skipped (SVC-18)")
            )
        else:
            ports.append(SlicePort(port.name, port.protocol, port.port))
    return tuple(ports)


_NO_CONDITIONS = EndpointConditions()


def _endpoints(
    slice_: EndpointSlice, family: Family, node_name: str, findings: list[Finding]
) -> tuple[SliceEndpoint, ...]:
    endpoints: list[SliceEndpoint] = []
    is_ipv6 = family is Family.IPV6
    for endpoint in slice_.endpoints or ():
        address = canonical_address(endpoint.addresses[0]) if endpoint.addresses else None
        if address is None or (":" in address) is not is_ipv6:
            findings.append(found(_reference(slice_), Reason.UNUSABLE_ADDRESS, _address_problem(endpoint, family)))
            continue
        conditions = endpoint.conditions or _NO_CONDITIONS
        node = endpoint.node_name or ""
        endpoints.append(
            SliceEndpoint(
                address,
                bool(node) and node == node_name,
                conditions.ready is not False,
                conditions.serving is not False,
                conditions.terminating is True,
                endpoint.hints,
                endpoint.target_ref.name if endpoint.target_ref else "",
                # A cluster has few nodes and many endpoints, and each was decoded with a copy of its own.
                sys.intern(node),
            )
        )
    return tuple(endpoints)


def _address_problem(endpoint: Endpoint, family: Family) -> str:
    if not endpoint.addresses:
        return "an endpoint without addresses is skipped (SVC-19)"
    return f"endpoint {shown(endpoint.addresses[0])} is skipped: not an {family.value} address (SVC-19)"


def _reference(slice_: EndpointSlice) -> ObjectReference:
    return ObjectReference("EndpointSlice", slice_.metadata.namespace, slice_.metadata.name)
