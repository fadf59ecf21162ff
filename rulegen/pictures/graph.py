"""A picture before anybody knows where things stand: nodes with lines of text, and edges. Only values."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from textwrap import wrap
from typing import NamedTuple

from rulegen.errors import one_line

# Of a line in a node and at an edge, in characters, and of such lines for one sentence.
_WIDTH, _NARROW = 34, 24
_MOST_LINES = 6


class Kind(StrEnum):
    """What a node stands for; how it looks depends on this alone."""

    SOURCE = "source"
    SERVICE = "service"
    FRONTEND = "frontend"
    DECISION = "decision"
    LIST = "list"
    ENDPOINT = "endpoint"
    # An endpoint that gets nothing, or a frontend that another Service has.
    LEFT_OUT = "left-out"
    # Why something is so, beside what it is about.
    REASON = "reason"
    # Where a packet ends without an answer, or with an error.
    REFUSED = "refused"


class Node(NamedTuple):
    """A box. `lines`: what stands in it, safe for every terminal and of a bounded length; the first is its name."""

    kind: Kind
    lines: tuple[str, ...]


class Edge(NamedTuple):
    """An arrow between nodes by their numbers. `is_left_out`: a way that nothing goes, and `label` says why."""

    start: int
    end: int
    label: tuple[str, ...] = ()
    is_left_out: bool = False


class Graph(NamedTuple):
    """`title`: what the picture shows, in one line."""

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


class Sketch:
    """A Graph while it is made. What is put in twice under one key is one node; the order of both is that of `put`."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._nodes: list[Node] = []
        self._edges: dict[Edge, None] = {}

    def put(self, key: object, kind: Kind, *texts: str) -> int:
        """The number of the node with this key; it is made when it is not there. Empty texts are left out."""
        if key not in self._numbers:
            self._numbers[key] = len(self._nodes)
            self._nodes.append(Node(kind, fold(*texts)))
        return self._numbers[key]

    def connect(self, start: int, end: int, *texts: str, is_left_out: bool = False) -> None:
        """Puts an edge."""
        self._edges[Edge(start, end, fold(*texts, width=_NARROW), is_left_out)] = None

    def graph(self, title: str) -> Graph:
        """What was put so far."""
        return Graph(one_line(title), tuple(self._nodes), tuple(self._edges))


def fold(*texts: str, width: int = _WIDTH) -> tuple[str, ...]:
    """Sentences as lines that fit into a node. Who wrote names in them may have put anything there."""
    return tuple(line for text in texts if text for line in _folded(text, width))


@lru_cache(maxsize=10_000)
def _folded(text: str, width: int) -> tuple[str, ...]:
    # Most are short, and to wrap a text takes longer than all the rest.
    if len(text) <= width and text.isprintable() and text == text.strip():
        return (text,)
    return tuple(_wrapped(text, width))


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(
        one_line(text, width * _MOST_LINES),
        width,
        max_lines=_MOST_LINES,
        placeholder=" ...",
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def percent(probability: float) -> str:
    """`33.3 %`."""
    return f"{100 * probability:.3g} %"


def several(items: Iterable[str], most: int) -> str:
    """The first of them, and how many more there are."""
    listed = list(items)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")
