"""A graph comes in; the same for Graphviz goes out, in the language DOT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rulegen.pictures.graph import Graph, Kind

_STYLES = {
    Kind.SOURCE: 'shape=ellipse, style=filled, fillcolor="#f3f4f6"',
    Kind.SERVICE: 'style="filled,bold", fillcolor="#e0e7ff"',
    Kind.FRONTEND: 'style=filled, fillcolor="#dbeafe"',
    Kind.DECISION: 'style="filled,rounded", fillcolor="#ffffff"',
    Kind.LIST: 'style="filled,rounded", fillcolor="#fef3c7"',
    Kind.ENDPOINT: 'style=filled, fillcolor="#dcfce7"',
    Kind.LEFT_OUT: 'style="filled,dashed", fillcolor="#f9fafb", fontcolor="#6b7280"',
    Kind.REASON: 'shape=note, style=filled, fillcolor="#f3e8ff"',
    Kind.REFUSED: 'style=filled, fillcolor="#fee2e2"',
}


def dot(graph: Graph) -> str:
    """The whole document; the same graph gives the same bytes."""
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    yield "digraph {"
    yield f"  graph [rankdir=LR, label={_text([graph.title])}, labelloc=t, fontname=monospace]"
    yield "  node [shape=box, fontname=monospace, fontsize=10]"
    yield "  edge [fontname=monospace, fontsize=9]"
    for number, node in enumerate(graph.nodes):
        yield f"  n{number} [label={_text(node.lines)}, {_STYLES[node.kind]}]"
    for edge in graph.edges:
        attributes = [f"label={_text(edge.label)}"] if edge.label else []
        attributes += ["style=dashed", "color=gray"] if edge.is_left_out else []
        yield f"  n{edge.start} -> n{edge.end}" + (f" [{', '.join(attributes)}]" if attributes else "")
    yield "}"


def _text(lines: Iterable[str]) -> str:
    """A quoted string: in a label a backslash begins an escape, and `&` an entity of HTML."""
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for line in lines]
    return '"' + "\\n".join(escaped) + '"'
