"""A graph comes in; the same as a Mermaid flowchart goes out, which pages in Markdown show as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from rulegen.pictures.graph import Graph, Kind

_STYLES = {
    Kind.SOURCE: "fill:#f3f4f6,stroke:#6b7280,color:#111827",
    Kind.SERVICE: "fill:#e0e7ff,stroke:#4338ca,color:#111827",
    Kind.FRONTEND: "fill:#dbeafe,stroke:#1d4ed8,color:#111827",
    Kind.DECISION: "fill:#ffffff,stroke:#6b7280,color:#111827",
    Kind.LIST: "fill:#fef3c7,stroke:#b45309,color:#111827",
    Kind.ENDPOINT: "fill:#dcfce7,stroke:#15803d,color:#111827",
    Kind.LEFT_OUT: "fill:#f9fafb,stroke:#6b7280,color:#6b7280,stroke-dasharray:4 3",
    Kind.REASON: "fill:#f3e8ff,stroke:#7e22ce,color:#111827",
    Kind.REFUSED: "fill:#fee2e2,stroke:#b91c1c,color:#111827",
}


def mermaid(graph: Graph) -> str:
    """The whole document; the same graph gives the same bytes."""
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    yield "---"
    yield f"title: {_quoted(graph.title)}"
    yield "---"
    yield "flowchart LR"
    for number, node in enumerate(graph.nodes):
        yield f"  n{number}[{_text(node.lines)}]:::{_class(node.kind)}"
    for edge in graph.edges:
        arrow = "-.->" if edge.is_left_out else "-->"
        yield f"  n{edge.start} {arrow}" + (f"|{_text(edge.label)}| " if edge.label else " ") + f"n{edge.end}"
    used = {node.kind for node in graph.nodes}
    for kind in (kind for kind in Kind if kind in used):
        yield f"  classDef {_class(kind)} {_STYLES[kind]}"


def _class(kind: Kind) -> str:
    return kind.value.replace("-", "")


def _text(lines: Iterable[str]) -> str:
    return '"' + "<br>".join(map(_escaped, lines)) + '"'


def _quoted(text: str) -> str:
    """A string of YAML, in which nothing looks like HTML."""
    return json.dumps(text).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _escaped(text: str) -> str:
    """Whatever could be Mermaid, Markdown or HTML, by number: Mermaid writes an entity with `#` in place of `&#`."""
    return "".join(char if char.isalnum() or char in " .,:/-+%()[]" else f"#{ord(char)};" for char in text)
