"""What a Service asks for, its endpoints and its owned Frontends come in; its ServicePorts go out. Pure.

The verdicts of SVC-36 and SVC-37 are given here.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from rulegen.services.endpoints import JoinedSlices, MergedEndpoint, merge, merge_plain
from rulegen.services.model import Backend, Frontend, ServicePort, TrafficPolicy, Verdict
from rulegen.services.node import NodeFacts
from rulegen.services.requested import PortIntent, ServiceIntent
from rulegen.services.selection import Selection, select, select_all


class OwnedPort(NamedTuple):
    """A service-port in one family with those of its Frontends that it owns (D2)."""

    intent: PortIntent
    frontends: tuple[Frontend, ...]


def compile_port(service: ServiceIntent, port: OwnedPort, slices: JoinedSlices, node: NodeFacts) -> ServicePort:
    """The ServicePort of a service-port that owns at least one Frontend; `slices` are those of its family."""
    intent = port.intent
    joined = slices.of_port(intent.name.port, intent.name.protocol)
    draining: tuple[Backend, ...] = ()
    if len(joined) == 1 and joined[0][0].is_plain and joined[0][0].weight and not service.weights:
        backends = merge_plain(*joined[0])
        selection, serving = select_all(backends, intent.uses_cluster, intent.uses_local), backends
    else:
        endpoints = merge(joined, service.weights)
        weighted = [endpoint for endpoint in endpoints if endpoint.backend.weight]
        selection = select(weighted, intent.uses_cluster, intent.uses_local, node.name, node.zone)
        serving = _serving(endpoints, selection.cluster_endpoints)
        if service.affinity_timeout is not None and len(weighted) < len(endpoints):
            draining = _draining(intent, endpoints, node)
    return ServicePort(
        intent.name,
        intent.family,
        tuple([_with_verdict(frontend, selection) for frontend in port.frontends]),
        selection.cluster_endpoints,
        selection.local_endpoints,
        service.affinity_timeout,
        draining,
        serving if intent.name.protocol == "UDP" else (),
        service.health_check_port,
    )


def _with_verdict(frontend: Frontend, selection: Selection) -> Frontend:
    if not selection.has_any:
        return replace(frontend, verdict=Verdict.REJECT)
    if frontend.policy is TrafficPolicy.LOCAL and not selection.local_endpoints:
        return replace(frontend, verdict=Verdict.DROP)
    return frontend


def _draining(intent: PortIntent, endpoints: list[MergedEndpoint], node: NodeFacts) -> tuple[Backend, ...]:
    """The endpoints of weight 0 that would be in a list if they had weight (D9), in the lists' order."""
    asked = select(endpoints, intent.uses_cluster, intent.uses_local, node.name, node.zone)
    reachable = {backend for backend in (*asked.cluster_endpoints, *asked.local_endpoints) if not backend.weight}
    return tuple(endpoint.backend for endpoint in endpoints if endpoint.backend in reachable)


def _serving(endpoints: list[MergedEndpoint], cluster_endpoints: tuple[Backend, ...]) -> tuple[Backend, ...]:
    """The endpoints whose established flows live on, whatever policies, hints and weights say (SVC-73, D9).

    A ready one counts too: one that is not serving is published all the same, and gets traffic (SVC-76). All endpoints
    of the lists are among them. Nearly always they are the Cluster list, so that is not held twice.
    """
    serving = tuple([endpoint.backend for endpoint in endpoints if endpoint.serving or endpoint.ready])
    return cluster_endpoints if serving == cluster_endpoints else serving
