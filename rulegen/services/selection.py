"""The merged endpoints of a service-port come in, the lists that its Frontends use go out (spec §4, §5). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from rulegen.services.endpoints import MergedEndpoint
from rulegen.services.model import Backend


class Selection(NamedTuple):
    """The Cluster and the Local list, empty when not used; whether there is any endpoint (SVC-29)."""

    cluster_endpoints: tuple[Backend, ...]
    local_endpoints: tuple[Backend, ...]
    has_any: bool


def select(
    endpoints: Iterable[MergedEndpoint], uses_cluster: bool, uses_local: bool, node_name: str, zone: str
) -> Selection:
    """Applies SVC-25 to SVC-33 to endpoints that have weight; order is kept."""
    usable = [endpoint for endpoint in endpoints if endpoint.ready or endpoint.draining]
    ready = [endpoint for endpoint in usable if endpoint.ready]
    everywhere = (allowed_by_hints(ready, node_name, zone) or usable) if uses_cluster else ()
    local: Sequence[MergedEndpoint] = ()
    if uses_local:
        local = [endpoint for endpoint in ready if endpoint.backend.local] or [
            endpoint for endpoint in usable if endpoint.backend.local
        ]
    return Selection(_backends(everywhere), _backends(local), bool(usable))


def select_all(backends: tuple[Backend, ...], uses_cluster: bool, uses_local: bool) -> Selection:
    """The same where all are ready and serving and none has hints."""
    local = tuple([backend for backend in backends if backend.local]) if uses_local else ()
    return Selection(backends if uses_cluster else (), local, bool(backends))


class HintMode(Enum):
    """By what topology hints choose among the ready endpoints."""

    NODE = "node"
    ZONE = "zone"


def allowed_by_hints(ready: Sequence[MergedEndpoint], node_name: str, zone: str) -> Sequence[MergedEndpoint]:
    """The ready endpoints meant for this node, else for its zone, else all of them (SVC-31 to SVC-33)."""
    mode = hint_mode(ready, node_name, zone)
    if mode is None:
        return ready
    own = node_name if mode is HintMode.NODE else zone
    return [endpoint for endpoint in ready if own in _hinted(mode, endpoint)]


def hint_mode(ready: Sequence[MergedEndpoint], node_name: str, zone: str) -> HintMode | None:
    """Which hints are in force; None when they are ignored (SVC-33)."""
    if any(endpoint.hints is None for endpoint in ready):
        return None
    for mode, own in ((HintMode.NODE, node_name), (HintMode.ZONE, zone)):
        hints = [_hinted(mode, endpoint) for endpoint in ready]
        if all(hints) and any(own in names for names in hints):
            return mode
    return None


def hinted_count(endpoints: Iterable[MergedEndpoint], mode: HintMode) -> int:
    """How many endpoints have a hint of this kind."""
    return sum(1 for endpoint in endpoints if _hinted(mode, endpoint))


def _hinted(mode: HintMode, endpoint: MergedEndpoint) -> set[str]:
    hints = endpoint.hints
    if hints is None:
        return set()
    return {hint.name for hint in (hints.for_nodes if mode is HintMode.NODE else hints.for_zones) or ()}


def _backends(endpoints: Iterable[MergedEndpoint]) -> tuple[Backend, ...]:
    return tuple([endpoint.backend for endpoint in endpoints])
