"""The merged endpoints of a service-port come in, the lists that its Frontends use go out (spec §4, §5). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rulegen.routing.endpoints import MergedEndpoint
from rulegen.routing.model import Backend


class Selection(NamedTuple):
    """The Cluster and the Local list, empty when not used; whether there is any endpoint (rule 29)."""

    cluster: tuple[Backend, ...]
    local: tuple[Backend, ...]
    has_any: bool


def select(
    endpoints: Iterable[MergedEndpoint], uses_cluster: bool, uses_local: bool, node_name: str, zone: str
) -> Selection:
    """Applies rules 25-33 to endpoints that have weight; order is kept."""
    usable = [endpoint for endpoint in endpoints if endpoint.ready or endpoint.draining]
    ready = [endpoint for endpoint in usable if endpoint.ready]
    cluster = (allowed_by_hints(ready, node_name, zone) or usable) if uses_cluster else ()
    local: Sequence[MergedEndpoint] = ()
    if uses_local:
        local = [endpoint for endpoint in ready if endpoint.backend.local] or [
            endpoint for endpoint in usable if endpoint.backend.local
        ]
    return Selection(_backends(cluster), _backends(local), bool(usable))


def allowed_by_hints(ready: Sequence[MergedEndpoint], node_name: str, zone: str) -> Sequence[MergedEndpoint]:
    """The ready endpoints meant for this node, else for its zone, else all: all or nothing each time (rules 31-33)."""
    if any(endpoint.hints is None for endpoint in ready):
        return ready
    for hinted, own in ((_nodes, node_name), (_zones, zone)):
        hints = [hinted(endpoint) for endpoint in ready]
        if all(hints) and any(own in names for names in hints):
            return [endpoint for endpoint, names in zip(ready, hints, strict=True) if own in names]
    return ready


def _nodes(endpoint: MergedEndpoint) -> set[str]:
    hints = endpoint.hints
    return {hint.name for hint in hints.for_nodes} if hints and hints.for_nodes else set()


def _zones(endpoint: MergedEndpoint) -> set[str]:
    hints = endpoint.hints
    return {hint.name for hint in hints.for_zones} if hints and hints.for_zones else set()


def _backends(endpoints: Iterable[MergedEndpoint]) -> tuple[Backend, ...]:
    return tuple([endpoint.backend for endpoint in endpoints])
