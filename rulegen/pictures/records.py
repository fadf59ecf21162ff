"""Explained Services come in; what the report's page holds of them goes out, small enough for ten thousand.

A record is lists by position, as `templates/report/page.js` reads them, and a text in it is its number among `strings`:
most texts are said of many Services. Only values; what a text may do to a page is `page`'s concern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from rulegen.errors import one_line
from rulegen.pictures.graph import Graph, Kind, percent
from rulegen.pictures.services import frontend_text, left_out_of, port_graph, used_lists
from rulegen.services.explain.model import (
    EndpointExplanation,
    FrontendExplanation,
    ListExplanation,
    PortExplanation,
    ServiceExplanation,
)

# Of a list in a record; a page with a million addresses helps nobody.
_MOST_ENDPOINTS = 1000
_MOST_DIFFERENCES = 200

_KINDS = {kind: number for number, kind in enumerate(Kind)}

Record: TypeAlias = list[Any]
# By `address:port`, the network policies that say what may reach the endpoint.
Policies: TypeAlias = Callable[[str], tuple[str, ...]]
# Established through an endpoint, by service-port, protocol, family and `address:port`.
Connections: TypeAlias = Mapping[tuple[str, str, str, str], int]


class Reported(NamedTuple):
    """A Service with what is said of it elsewhere than in its explanation.

    `health`: what load balancers are told, in words. `differences`: what apply would change in the kernel, as
    `rulegen diff` says it. `connections`: None where nobody asked the kernel. `policies`: none where the feature
    is off.
    """

    explanation: ServiceExplanation
    health: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    connections: Connections | None = None
    policies: Policies = lambda _: ()


class Records(NamedTuple):
    """`strings`: the texts that records say by number. `kinds`: those of nodes, by number, too.

    `graphs`: of each Service, in the same order, those of its service-ports: what is looked at only when it is opened.
    """

    strings: list[str]
    kinds: list[str]
    services: list[Record]
    graphs: list[list[Record]]


def make_records(reported: Iterable[Reported]) -> Records:
    """In the order of the Services."""
    texts = _Texts()
    services, graphs = [], []
    for one in reported:
        services.append(_service(texts, one))
        graphs.append([_graph(texts, port_graph(one.explanation, port)) for port in one.explanation.ports])
    return Records(texts.strings, [kind.value for kind in Kind], services, graphs)


class _Texts:
    """Texts by number, each once; none of them can do anything to who reads it but be read."""

    def __init__(self) -> None:
        self.strings: list[str] = []
        self._numbers: dict[str, int] = {}
        # What is empty is number 0, which scripts take for false.
        self("")

    def __call__(self, text: str) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.strings)
            self.strings.append(one_line(text))
        return number

    def each(self, texts: Iterable[str]) -> list[int]:
        return [self(text) for text in texts]


def _service(texts: _Texts, reported: Reported) -> Record:
    """[name, type, facts, findings, ports, health, differences, how many more of these]."""
    explanation = reported.explanation
    shown = reported.differences[:_MOST_DIFFERENCES]
    return [
        texts(explanation.service),
        texts(explanation.type),
        texts.each(explanation.facts),
        [[texts(one.object), texts(one.reason), texts(one.message)] for one in explanation.findings],
        [_port(texts, port, reported) for port in explanation.ports],
        texts.each(reported.health),
        texts.each(shown),
        len(reported.differences) - len(shown),
    ]


def _port(texts: _Texts, port: PortExplanation, reported: Reported) -> Record:
    """A service-port in one family.

    [name, protocol, family, affinity, frontends, lists, endpoints, how many more, usable ones, draining, notes].
    """
    used = used_lists(port)
    usable = [item for item in port.endpoints if not all(left_out_of(item, one) for one in used)]
    left_out = [item for item in port.endpoints if all(left_out_of(item, one) for one in used)]
    listed = [*usable, *left_out][:_MOST_ENDPOINTS]
    shares = [{member.endpoint: member.probability for member in one.members} for one in used]
    return [
        texts(port.name),
        texts(port.protocol),
        texts(port.family),
        port.affinity_timeout or 0,
        [_frontend(texts, port, one) for one in port.frontends],
        [[texts(one.name), texts(one.reason)] for one in used],
        [
            [
                *_endpoint(texts, item, list(zip(used, shares, strict=True))),
                *_beside(texts, port, item.endpoint, reported),
            ]
            for item in listed
        ],
        len(port.endpoints) - len(listed),
        len(usable),
        texts.each(port.draining),
        texts.each(port.notes),
    ]


def _frontend(texts: _Texts, port: PortExplanation, frontend: FrontendExplanation) -> Record:
    """[kind, address and port, policy, verdict, owner, allowed sources or null]."""
    allowed = frontend.allowed_sources
    return [
        texts(frontend.kind),
        texts(frontend_text(frontend, port.protocol)),
        texts(frontend.policy),
        texts(frontend.verdict),
        texts(frontend.owner),
        None if allowed is None else texts.each(allowed),
    ]


def _endpoint(
    texts: _Texts, endpoint: EndpointExplanation, lists: Iterable[tuple[ListExplanation, Mapping[str, float]]]
) -> Record:
    """[endpoint, what it belongs to, node, weight, its place in each used list: a share, or why it has none]."""
    places = [left_out_of(endpoint, one) or percent(shares[endpoint.endpoint]) for one, shares in lists]
    return [
        texts(endpoint.endpoint),
        texts(endpoint.target or endpoint.slice),
        texts(endpoint.node),
        endpoint.weight,
        texts.each(places),
    ]


def _beside(texts: _Texts, port: PortExplanation, endpoint: str, reported: Reported) -> Record:
    """Behind these: connections, network policies. What is left out at the end is 0 and none."""
    connections = (reported.connections or {}).get((port.name, port.protocol, port.family, endpoint), 0)
    policies = texts.each(reported.policies(endpoint))
    if policies:
        return [connections, policies]
    return [connections] if connections else []


def _graph(texts: _Texts, graph: Graph) -> Record:
    """[nodes, edges]: a node is its kind and its lines, an edge both ends, whether it is left out, and its lines."""
    return [
        [[_KINDS[node.kind], *texts.each(node.lines)] for node in graph.nodes],
        [[edge.start, edge.end, int(edge.is_left_out), *texts.each(edge.label)] for edge in graph.edges],
    ]
