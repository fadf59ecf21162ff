"""Explained Services come in, graphs go out: frontends, what is decided for whom, lists, endpoints, who is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rulegen.pictures.graph import Graph, Kind, Sketch, percent, several
from rulegen.services.explain.model import (
    EndpointExplanation,
    FrontendExplanation,
    ListExplanation,
    Member,
    PortExplanation,
    ServiceExplanation,
    SourceExplanation,
)
from rulegen.services.simulate import Fate

# Of one service-port; the others are one node, for a picture of a thousand boxes shows nothing.
_MOST_ENDPOINTS = 30
_MOST_RANGES = 5


def service_graph(explanation: ServiceExplanation) -> Graph:
    """All service-ports of a Service."""
    sketch = Sketch()
    for port in explanation.ports:
        _draw_port(sketch, port)
    _draw_facts(sketch, explanation)
    return sketch.graph(f"Service {explanation.service} on node {explanation.node}")


def port_graph(explanation: ServiceExplanation, port: PortExplanation) -> Graph:
    """One service-port in one family."""
    sketch = Sketch()
    _draw_port(sketch, port)
    return sketch.graph(f"Service {port.name} ({port.protocol}, {port.family}) on node {explanation.node}")


def namespace_graph(namespace: str, node: str, explanations: Iterable[ServiceExplanation]) -> Graph:
    """Which Services of a namespace lead to which endpoints; what several of them lead to stands there once."""
    sketch = Sketch()
    for explanation in explanations:
        for port in explanation.ports:
            _draw_overview(sketch, port)
        _draw_facts(sketch, explanation)
    return sketch.graph(f"Services of namespace {namespace} on node {node}")


def used_lists(port: PortExplanation) -> list[ListExplanation]:
    """The lists that some frontend may use."""
    return [one for one in port.lists if not one.reason.startswith("not used")]


def left_out_of(endpoint: EndpointExplanation, list_: ListExplanation) -> str:
    """Why an endpoint is not in a list; "" if it is."""
    return endpoint.cluster if list_.name == "Cluster" else endpoint.local


def frontend_text(frontend: FrontendExplanation, protocol: str) -> str:
    """`10.96.0.10:80/TCP`, or `port 30080/TCP` for a NodePort."""
    if not frontend.address:
        return f"port {frontend.port}/{protocol}"
    address = f"[{frontend.address}]" if ":" in frontend.address else frontend.address
    return f"{address}:{frontend.port}/{protocol}"


def _draw_facts(sketch: Sketch, explanation: ServiceExplanation) -> None:
    """Where there is nothing to draw, why."""
    if not any(port.frontends for port in explanation.ports):
        service = sketch.put(("service", explanation.service), Kind.SERVICE, explanation.service, explanation.type)
        for fact in explanation.facts:
            sketch.connect(service, sketch.put(("fact", explanation.service, fact), Kind.REFUSED, fact))


def _draw_port(sketch: Sketch, port: PortExplanation) -> None:
    place = (port.name, port.protocol, port.family)
    lists = {
        one.name: sketch.put((place, one.name), Kind.LIST, f"{one.name} list of {port.name}", one.reason)
        for one in used_lists(port)
    }
    for frontend in port.frontends:
        _draw_frontend(sketch, port, frontend, lists)
    _draw_endpoints(sketch, port, lists)


def _draw_frontend(sketch: Sketch, port: PortExplanation, frontend: FrontendExplanation, lists: dict[str, int]) -> None:
    place = (port.name, port.protocol, port.family, frontend.kind, frontend.address)
    title = frontend_text(frontend, port.protocol)
    if frontend.owner:
        other = sketch.put(place, Kind.LEFT_OUT, frontend.kind, title, f"belongs to {frontend.owner} (D2)")
        for number in lists.values():
            sketch.connect(other, number, is_left_out=True)
        return
    start = sketch.put(place, Kind.FRONTEND, frontend.kind, title, f"policy {frontend.policy}", _ranges(frontend))
    for treatment, sources in groupby(frontend.sources, _treatment):
        fate, endpoints, _, reason = treatment
        kind = Kind.DECISION if endpoints in lists else Kind.REFUSED
        names = ", ".join(source.source for source in sources)
        decision = sketch.put((place, names), kind, f"from {names}: {fate}", reason)
        sketch.connect(start, decision)
        if endpoints in lists:
            sketch.connect(decision, lists[endpoints], "masqueraded" if treatment[2] else "")


def _treatment(source: SourceExplanation) -> tuple[str, str, bool, str]:
    fate = "" if source.fate == Fate.BALANCED.value and source.endpoints else source.fate
    return fate or Fate.BALANCED.value, source.endpoints, source.masquerade, source.reason


def _ranges(frontend: FrontendExplanation) -> str:
    if frontend.allowed_sources is None:
        return ""
    return f"only from {several(frontend.allowed_sources, _MOST_RANGES) or 'nobody'}"


# ---- endpoints ----


def _draw_endpoints(sketch: Sketch, port: PortExplanation, lists: dict[str, int]) -> None:
    used = used_lists(port)
    members = {one.name: {member.endpoint: member for member in one.members} for one in used}
    ordered = sorted(port.endpoints, key=lambda item: all(left_out_of(item, one) for one in used))
    for endpoint in ordered[:_MOST_ENDPOINTS]:
        number = _put_endpoint(sketch, port, endpoint, used)
        for one in used:
            why_not = left_out_of(endpoint, one)
            label = why_not or _share(members[one.name][endpoint.endpoint])
            sketch.connect(lists[one.name], number, label, is_left_out=bool(why_not))
    _draw_rest(sketch, port, ordered[_MOST_ENDPOINTS:], lists)
    for endpoint_text in port.draining:
        _draw_draining(sketch, port, endpoint_text, lists)


def _put_endpoint(
    sketch: Sketch, port: PortExplanation, endpoint: EndpointExplanation, used: Sequence[ListExplanation]
) -> int:
    kind = Kind.LEFT_OUT if all(left_out_of(endpoint, one) for one in used) else Kind.ENDPOINT
    # Several slices may list one endpoint, and only one of them counts.
    key = (port.name, port.protocol, port.family, endpoint.endpoint, endpoint.slice)
    node = f"on node {endpoint.node}" if endpoint.node else ""
    return sketch.put(key, kind, endpoint.endpoint, endpoint.target or endpoint.slice, node)


def _share(member: Member) -> str:
    weight = f", weight {member.weight}" if member.weight != 1 else ""
    return f"{percent(member.probability)}{weight}"


def _draw_rest(
    sketch: Sketch, port: PortExplanation, rest: Sequence[EndpointExplanation], lists: dict[str, int]
) -> None:
    """What no box of its own is left for."""
    for one in used_lists(port):
        inside = {item.endpoint for item in rest if not left_out_of(item, one)}
        outside = list(dict.fromkeys(why for item in rest if (why := left_out_of(item, one))))
        place = (port.name, port.protocol, port.family, one.name)
        if inside:
            probability = sum(member.probability for member in one.members if member.endpoint in inside)
            more = sketch.put((place, "more"), Kind.ENDPOINT, f"{len(inside)} more endpoints")
            sketch.connect(lists[one.name], more, f"{percent(probability)} together")
        if outside:
            count = sum(bool(left_out_of(item, one)) for item in rest)
            more = sketch.put((place, "more outside"), Kind.LEFT_OUT, f"{count} more, left out")
            sketch.connect(lists[one.name], more, several(outside, 2), is_left_out=True)


def _draw_draining(sketch: Sketch, port: PortExplanation, endpoint: str, lists: dict[str, int]) -> None:
    number = sketch.put(
        (port.name, port.protocol, port.family, "draining", endpoint), Kind.LEFT_OUT, endpoint, "weight 0"
    )
    for start in lists.values():
        sketch.connect(start, number, "clients that it has (D9)")


# ---- overview ----


def _draw_overview(sketch: Sketch, port: PortExplanation) -> None:
    own = [frontend for frontend in port.frontends if not frontend.owner]
    texts = [f"{frontend.kind} {frontend_text(frontend, port.protocol)}" for frontend in own]
    title = f"{port.name} {port.protocol}"
    service = sketch.put((port.name, port.protocol, port.family), Kind.SERVICE, title, *texts[:_MOST_RANGES])
    is_empty = True
    for endpoint, label in _overview_edges(port):
        is_empty = False
        sketch.connect(service, sketch.put(("endpoint", *endpoint), Kind.ENDPOINT, *endpoint), label)
    if is_empty:
        reasons = [one.reason for one in used_lists(port)]
        nobody = sketch.put((port.name, port.protocol, port.family, "nobody"), Kind.REFUSED, "no endpoint", *reasons)
        sketch.connect(service, nobody)


def _overview_edges(port: PortExplanation) -> Iterator[tuple[tuple[str, ...], str]]:
    """Endpoints in some list, with their shares of each."""
    used = [(one.name, {member.endpoint: member for member in one.members}) for one in used_lists(port)]
    known = {item.endpoint: item for item in port.endpoints if any(item.endpoint in members for _, members in used)}
    for number, (address, item) in enumerate(known.items()):
        if number == _MOST_ENDPOINTS:
            yield (f"{len(known) - number} more endpoints of {port.name}",), ""
            return
        shares = {name: _share(members[address]) for name, members in used if address in members}
        label = (
            next(iter(shares.values())) if len(used) == 1 else ", ".join(f"{name} {s}" for name, s in shares.items())
        )
        yield (address, item.target, f"on node {item.node}" if item.node else ""), label
