"""Questions come in; explanations go out that end in reasons, and in what would work.

What becomes of a packet is `packet`'s word. What stands after it is put together here: of whom the reasons are asked
follows from the fate and from the frontend that decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from msgspec.structs import replace

from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import Service
from rulegen.networks import family_of
from rulegen.services.explain import destinations, lists
from rulegen.services.explain.asking import Asked
from rulegen.services.explain.case import Admits, Case, way
from rulegen.services.explain.model import Cause, PacketExplanation, View, Why
from rulegen.services.explain.packet import NODE, explain_packet
from rulegen.services.names import service_name
from rulegen.services.node import host_addresses
from rulegen.services.simulate import Destination, Fate, Match, source_towards

_MOST_ENDPOINTS = 10


def answer(view: View, asked: Asked, admits: Admits = lambda *_: True) -> PacketExplanation:
    """What becomes of the packet, and why."""
    if asked.question is None:
        return _without_address(view, asked, admits)
    explanation = explain_packet(view, asked.question)
    case = Case(view, asked, asked.question, explanation, admits)
    return replace(explanation, names=asked.names, why=tuple(_reasons(case)))


def _reasons(case: Case) -> Iterator[Why]:
    if case.settings is None:
        family = case.family.value
        yield Why(Cause.NO_RULES, f"this node has no rules for {family}: no Service is served there", _families(case))
        return
    match = case.matched
    if match is None or case.explanation.fate == Fate.UNTOUCHED.value:
        yield from destinations.undecided(case)
    else:
        yield from lists.of_frontend(case, match)
        yield from _other_claims(case, match)
    yield from _elsewhere(case)


def _other_claims(case: Case, match: Match) -> Iterator[Why]:
    """Services that list the address and port, too, and do not have it (D2)."""
    key = match.service_port.name[:2]
    for service in case.view.directory.services_by_address.get(case.target.address, ()):
        own = (service.metadata.namespace, service.metadata.name)
        claims = any((one.port, one.protocol) == case.target[1:] for one in service.spec.ports or ())
        if own != key and claims:
            message = (
                f"{service_name(service)} lists {case.target}, too, but it belongs to {match.service_port.name} (D2)"
            )
            ways = (found for found in case.ways_to(service) if found[0] != case.target)
            yield Why(Cause.OTHER_OWNER, message, case.offers(ways))
            return


def _elsewhere(case: Case) -> Iterator[Why]:
    """A pod's packets meet the rules of its own node."""
    pod = case.asked.source.pod
    if pod is not None and pod.node and case.node_name and pod.node != case.node_name:
        message = f"pod {pod} is on node {pod.node}, whose rules decide about its packets; these are {case.node_name}'s"
        yield Why(Cause.DECIDED_ELSEWHERE, message, (f"explain with --node {pod.node}",))


def _families(case: Case) -> tuple[str, ...]:
    """The addresses of the same Services in a family that there are rules for."""
    services = case.view.directory.services_by_address.get(case.target.address, ())
    keys = {(one.metadata.namespace, one.metadata.name) for one in services}
    found = (
        way(service_port, frontend, frontend.address)
        for service_port in case.view.store.service_ports()
        for frontend in service_port.frontends
        if service_port.name[:2] in keys and frontend.address
    )
    return tuple(
        f"{where}, {what}" for where, what in islice((one for one in found if one[0][1:] == case.target[1:]), 3)
    )


# ---- Services that have no address ----


def _without_address(view: View, asked: Asked, admits: Admits) -> PacketExplanation:
    service = asked.target.service
    if service is None:
        raise AssertionError("only a Service can be without any address")
    reached = (found for found in _endpoints(view, service, asked) if _is_reached(view, asked, found[0], admits))
    endpoints = islice(reached, _MOST_ENDPOINTS)
    why = destinations.without_address(service, asked.target.port, endpoints)
    source = next(iter(asked.source.addresses.values()), NODE)
    return PacketExplanation(
        source,
        asked.target_text,
        "",
        "",
        Fate.UNTOUCHED.value,
        (why.message,),
        "",
        None,
        (),
        (),
        (),
        (),
        None,
        names=asked.names,
        why=(why,),
    )


def _is_reached(view: View, asked: Asked, place: Destination, admits: Admits) -> bool:
    """Whether the source has an address of the family, and may go there."""
    if asked.source.is_node:
        return admits(source_towards(place.address, host_addresses(view.store.node)), place)
    source = asked.source.addresses.get(family_of(place.address))
    return source is not None and admits(source, place)


def _endpoints(view: View, service: Service, asked: Asked) -> Iterator[tuple[Destination, str]]:
    """Where clients of a headless Service go: its endpoints that are ready, at their own port."""
    target = asked.target
    key = (service.metadata.namespace, service.metadata.name)
    names = {
        port.name for port in service.spec.ports or () if (port.port, port.protocol) == (target.port, target.protocol)
    }
    for item in view.directory.slices_by_service.get(key, ()):
        ports = [
            one.port for one in item.ports or () if one.name in names and one.protocol == target.protocol and one.port
        ]
        for endpoint in item.endpoints or ():
            address = canonical_address(endpoint.addresses[0]) if endpoint.addresses else None
            is_ready = endpoint.conditions is None or endpoint.conditions.ready is not False
            if address is None or not is_ready or not ports:
                continue
            pod = (
                f"pod {key[0]}/{endpoint.target_ref.name}"
                if endpoint.target_ref and endpoint.target_ref.name
                else "an endpoint"
            )
            yield Destination(address, ports[0], target.protocol), pod
