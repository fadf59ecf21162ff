"""How much differs, by object and kind of change, as lines with the widths of `git diff --stat`. Pure.

In: changes, and how wide the terminal is. Out: a line for each object and each kind of change, the most important parts
of it for programs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rulegen.commands.selecting import Owner

if TYPE_CHECKING:
    from rulegen.reconcile.driver import ShownChange

_WORDS = {"+": "added", "~": "changed", "-": "removed"}
_SERVICES = "services"
# What is no single object's.
_SHARED = "(shared)"
# As git: the least room for a name and for a graph, what is between them, and how much of the width a graph may take.
_LEAST_NAME, _LEAST_GRAPH, _BETWEEN = 10, 6, 6
_GRAPH_SHARE = 3 / 8


class Row(NamedTuple):
    """How many entries of one object are added, changed or removed. `object`: "" for what is no single one's."""

    feature: str
    object: str
    sign: str
    entries: int

    @property
    def change(self) -> str:
        """In a word."""
        return _WORDS[self.sign]

    @property
    def name(self) -> str:
        """`default/web`; of other features than the Services with their names in front."""
        feature = "" if self.feature in {"", _SERVICES} else self.feature
        return " ".join(filter(None, (feature, self.object or _SHARED)))


class StatLine(NamedTuple):
    """A line in two parts, of which the second has the colour of its sign."""

    text: str
    graph: str
    sign: str


def rows(changes: Iterable[ShownChange]) -> list[Row]:
    """By name, what is no single object's last; of each object what is added, changed and removed."""
    counts = Counter((change.owned.feature, _object(change), change.sign) for change in changes)
    found = [Row(*key, entries) for key, entries in counts.items()]
    return sorted(found, key=lambda row: (not row.object, row.name, "+~-".index(row.sign)))


def _object(change: ShownChange) -> str:
    """The only one that is named in what differs."""
    objects = {Owner.of(name).object for name in change.owned.named}
    return objects.pop() if len(objects) == 1 else ""


def lines(found: Sequence[Row], width: int) -> Iterator[StatLine]:
    """` default/web added   | 12 ++++++++++++`: as git, names are cut in front, and graphs shortened in proportion."""
    if not found:
        return
    most = max(row.entries for row in found)
    kind_width = max(len(row.change) for row in found)
    number_width = len(str(most))
    longest = max(len(row.name) for row in found) + 1 + kind_width
    label_width, graph_width = _widths(longest, number_width, most, width)
    name_width = max(label_width - 1 - kind_width, 4)
    for row in found:
        length = row.entries if most <= graph_width else 1 + row.entries * (graph_width - 1) // most
        text = (
            f" {_cut(row.name, name_width):<{name_width}} {row.change:<{kind_width}} | {row.entries:>{number_width}} "
        )
        yield StatLine(text, row.sign * length, row.sign)


def _widths(label: int, number: int, graph: int, width: int) -> tuple[int, int]:
    """How wide labels and graphs are, given how wide they want to be, numbers, and the terminal."""
    room = max(width - number - _BETWEEN, _LEAST_NAME + _LEAST_GRAPH)
    if label + graph <= room:
        return label, graph
    graph = min(graph, max(int(width * _GRAPH_SHARE) - number - _BETWEEN, _LEAST_GRAPH))
    return (room - graph, graph) if label > room - graph else (label, room - label)


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"...{name[len(name) - width + 3 :]}"
