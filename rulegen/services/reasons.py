"""Why an endpoint is in a list or not (spec §3 to §5, D9): slices of a service-port come in, reasons go out. Pure.

Which endpoints are chosen is the word of `selection`; this module asks it, and says only why. It stands beside the way
to the ServicePorts, never on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from rulegen.services.endpoints import MergedEndpoint, SliceDigest, SliceEndpoint, endpoint_weight
from rulegen.services.model import Backend, ServicePortName
from rulegen.services.node import NodeFacts
from rulegen.services.requested import PortIntent
from rulegen.services.selection import HintMode, hint_mode, hinted_count, select
from rulegen.services.weights import ServiceWeights


class EndpointReasons(Struct, frozen=True):
    """One endpoint as one slice lists it: why it is not in the Cluster list and not in the Local list, "" if it is.

    `target`: what the endpoint belongs to, usually a pod; `node`: where it is; "" when the slice does not say.
    `is_usable`: lists of some node may have it.
    """

    backend: Backend
    slice: str
    target: str
    node: str
    cluster: str
    local: str
    is_usable: bool


class PortReasons(Struct, frozen=True):
    """A service-port in one family.

    `owners`: the service-port that each of `intent.frontends` belongs to (D2). `cluster` and `local`: how the lists
    came to be. `unjoined`: the slices without a port of this name and protocol (SVC-18). `hinted`: how many of
    the `ready` endpoints have hints of the kind that is most common, and `unhinted` the others, where there are both.
    `hints`: those in force. `cluster_drains`, `local_drains`: a list holds only what terminates and still serves.
    """

    intent: PortIntent
    owners: tuple[ServicePortName, ...]
    cluster: str
    local: str
    endpoints: tuple[EndpointReasons, ...]
    unjoined: tuple[str, ...]
    hinted: int
    ready: int
    unhinted: frozenset[Backend]
    hints: HintMode | None
    cluster_drains: bool
    local_drains: bool


class _Listed(NamedTuple):
    """An endpoint where a slice lists it."""

    slice: SliceDigest
    source: SliceEndpoint
    merged: MergedEndpoint


class _Choice(NamedTuple):
    """What both lists were chosen from, and both."""

    node: NodeFacts
    ready: Sequence[MergedEndpoint]
    hints: HintMode | None
    cluster_endpoints: frozenset[Backend]
    local_endpoints: frozenset[Backend]


def port_reasons(
    intent: PortIntent,
    owners: tuple[ServicePortName, ...],
    slices: Sequence[SliceDigest],
    rules: ServiceWeights,
    node: NodeFacts,
) -> PortReasons:
    """Reasons for all endpoints in `slices`, which are those of one family, by name. `rules`: the Service's weights."""
    listed = list(_listed(intent.name, slices, rules))
    winners = _winners(listed)
    weighted = [winner.merged for winner in winners.values() if winner.merged.backend.weight]
    choice = _choose(intent, weighted, node)
    mode = _common_hints(choice)
    hinted = hinted_count(choice.ready, mode)
    return PortReasons(
        intent,
        owners,
        _cluster_reason(intent, choice),
        _local_reason(intent, choice),
        tuple(_endpoint(intent, item, winners[str(item.merged.backend)], choice) for item in listed),
        tuple(slice_.name for slice_ in slices if not _joined_ports(intent.name, slice_)),
        hinted,
        len(choice.ready),
        frozenset(endpoint.backend for endpoint in choice.ready if hinted and not hinted_count([endpoint], mode)),
        choice.hints,
        bool(choice.cluster_endpoints) and not choice.ready,
        bool(choice.local_endpoints) and not any(endpoint.backend.local for endpoint in choice.ready),
    )


def _joined_ports(name: ServicePortName, slice_: SliceDigest) -> list[int]:
    return [port.number for port in slice_.ports if port.name == name.port and port.protocol == name.protocol]


def _listed(name: ServicePortName, slices: Iterable[SliceDigest], rules: ServiceWeights) -> Iterator[_Listed]:
    for slice_ in slices:
        for number in _joined_ports(name, slice_):
            for source in slice_.endpoints:
                weight = endpoint_weight(rules, source, slice_.weight)
                backend = Backend(source.address, number, weight, source.local)
                merged = MergedEndpoint(backend, source.ready, source.serving, source.draining, source.hints)
                yield _Listed(slice_, source, merged)


def _winners(listed: Iterable[_Listed]) -> dict[str, _Listed]:
    """Which of several with one `IP:port` counts (SVC-22, as `endpoints.merge`), sorted."""
    winners: dict[str, _Listed] = {}
    for item in listed:
        key = str(item.merged.backend)
        if key not in winners or not item.source.terminating:
            winners[key] = item
    return dict(sorted(winners.items()))


def _choose(intent: PortIntent, weighted: list[MergedEndpoint], node: NodeFacts) -> _Choice:
    selection = select(weighted, intent.uses_cluster, intent.uses_local, node.name, node.zone)
    ready = [endpoint for endpoint in weighted if endpoint.ready]
    hints = hint_mode(ready, node.name, node.zone)
    return _Choice(node, ready, hints, frozenset(selection.cluster_endpoints), frozenset(selection.local_endpoints))


def _cluster_reason(intent: PortIntent, choice: _Choice) -> str:
    if not intent.uses_cluster:
        return "not used: internal policy Local and nothing external (SVC-16)"
    if not choice.cluster_endpoints:
        return "nobody is ready, nor terminating and still serving (SVC-29)"
    if not choice.ready:
        return "nobody is ready: those that terminate and still serve (SVC-26)"
    if choice.hints is HintMode.NODE:
        return f"ready endpoints hinted for node {choice.node.name} (SVC-31)"
    if choice.hints is HintMode.ZONE:
        return f"ready endpoints hinted for zone {choice.node.zone} (SVC-32)"
    ignored = _ignored_hints(choice)
    return "all ready endpoints (SVC-26)" + (f"; topology hints are ignored: {ignored} (SVC-33)" if ignored else "")


def _common_hints(choice: _Choice) -> HintMode:
    """The kind that most of the ready endpoints have hints of."""
    counts = {mode: hinted_count(choice.ready, mode) for mode in HintMode}
    return HintMode.ZONE if counts[HintMode.ZONE] >= counts[HintMode.NODE] else HintMode.NODE


def _ignored_hints(choice: _Choice) -> str:
    """Why hints that are there have no effect; "" when there are none."""
    mode = _common_hints(choice)
    hinted = hinted_count(choice.ready, mode)
    if not hinted:
        return ""
    lacking = len(choice.ready) - hinted
    if lacking:
        return f"{lacking} of {len(choice.ready)} ready endpoints lack one"
    if mode is HintMode.NODE:
        return f"none is for node {choice.node.name}"
    return f"none is for zone {choice.node.zone}" if choice.node.zone else "this node's zone is not known"


def _local_reason(intent: PortIntent, choice: _Choice) -> str:
    if not intent.uses_local:
        return "not used: no policy Local is in effect (SVC-16)"
    if not choice.local_endpoints:
        return "nobody on this node is ready, nor terminating and still serving (SVC-27)"
    if not any(endpoint.backend.local for endpoint in choice.ready):
        return "nobody on this node is ready: those on it that terminate and still serve (SVC-27)"
    return "ready endpoints on this node (SVC-27)"


def _endpoint(intent: PortIntent, item: _Listed, winner: _Listed, choice: _Choice) -> EndpointReasons:
    backend = item.merged.backend
    excluded = _excluded(item, winner)
    cluster = local = excluded
    if not excluded:
        cluster = "" if backend in choice.cluster_endpoints else _not_in_cluster(intent, item, choice)
        local = "" if backend in choice.local_endpoints else _not_in_local(intent, item)
    return EndpointReasons(backend, item.slice.name, item.source.target, item.source.node, cluster, local, not excluded)


def _excluded(item: _Listed, winner: _Listed) -> str:
    """Why an endpoint is in neither list, whatever the policies."""
    if item is not winner:
        return f"duplicate: as EndpointSlice {winner.slice.name} lists it (SVC-22)"
    if not item.merged.backend.weight:
        return "weight 0: no new connections (D9)"
    if item.merged.ready or item.merged.draining:
        return ""
    return "terminating and not serving (SVC-28)" if item.source.terminating else "not ready (SVC-28)"


def _not_in_cluster(intent: PortIntent, item: _Listed, choice: _Choice) -> str:
    if not intent.uses_cluster:
        return "the Cluster list is not used (SVC-16)"
    if not item.merged.ready:
        return "terminating while others are ready (SVC-26)"
    if choice.hints is HintMode.NODE:
        return f"not hinted for node {choice.node.name} (SVC-31)"
    return f"not hinted for zone {choice.node.zone} (SVC-32)"


def _not_in_local(intent: PortIntent, item: _Listed) -> str:
    if not intent.uses_local:
        return "the Local list is not used (SVC-16)"
    if item.merged.backend.local:
        return "terminating while others on this node are ready (SVC-27)"
    return f"not local: on node {item.source.node} (SVC-20)" if item.source.node else "not local: no nodeName (SVC-20)"
