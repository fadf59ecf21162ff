"""A graph comes in, an SVG goes out: dagre says where things stand, `drawing.js` how they look, as in the report."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rulegen.errors import HostError, InputError
from rulegen.pictures.graph import Graph
from rulegen.resources import templates

# What is larger takes dagre minutes, and nobody finds anything in it.
_MOST_NODES = 600
_MEMORY = 1 << 30
_SECONDS = 60
# dagre goes along the edges of a graph by calls within calls, which need a stack; a thread has one of its own size.
_STACK, _OF_IT = 64 << 20, 48 << 20

# Of what browsers have and an engine without a page does not: dagre copies lists of names with it.
_STAND_INS = "globalThis.structuredClone = (value) => JSON.parse(JSON.stringify(value));"


def svg(graph: Graph) -> str:
    """The whole document; the same graph gives the same bytes.

    Raises:
        HostError: the JavaScript engine is not installed.
        InputError: the graph is too large to be drawn.
    """
    if len(graph.nodes) > _MOST_NODES:
        raise InputError(
            f"too large to be drawn: {len(graph.nodes)} boxes, {_MOST_NODES} at most; name a Service, or one of its"
            " ports, or use -o dot"
        )
    try:
        import quickjs
    except ImportError as error:
        raise HostError(
            "drawing an SVG needs the Python package quickjs-ng: pip install 'rulegen[pictures]'; -o dot, -o mermaid"
            " and `rulegen report` need nothing"
        ) from error
    try:
        return _in_own_stack(lambda: _drawn(quickjs.Context(), graph))
    except quickjs.JSException as error:
        raise InputError(f"cannot be drawn: {str(error).splitlines()[0]}; -o dot may do") from error


def _drawn(engine: Any, graph: Graph) -> str:
    engine.set_memory_limit(_MEMORY)
    engine.set_time_limit(_SECONDS)
    engine.set_max_stack_size(_OF_IT)
    folder = templates("report")
    engine.eval(_STAND_INS)
    for name in ("dagre.js", "drawing.js"):
        engine.eval((folder / name).read_text(encoding="utf-8"))
    engine.set("graph", json.dumps(as_lists(graph)))
    engine.set("style", (folder / "drawing.css").read_text(encoding="utf-8"))
    return str(engine.eval("drawing.toText(drawing.draw(JSON.parse(graph)), style)"))


def _in_own_stack(work: Callable[[], str]) -> str:
    before = threading.stack_size(_STACK)
    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(work).result()
    finally:
        threading.stack_size(before)


def as_lists(graph: Graph) -> list[object]:
    """As `drawing.js` takes it."""
    return [
        graph.title,
        [[node.kind.value, list(node.lines)] for node in graph.nodes],
        [[edge.start, edge.end, list(edge.label), int(edge.is_left_out)] for edge in graph.edges],
    ]
