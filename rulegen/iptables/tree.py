"""Prefixes come in, a tree of chains goes out: which prefixes stand in which chain, and which chain leads to which.

A packet that walks from the root passes at most `FAN_OUT` rules in a chain, and one chain for each four bits in which
the prefixes differ. The shape depends on the prefixes alone, not on the order in which they came, and a prefix that
comes or goes changes the chains on its own path. Pure; knows neither addresses nor rules.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import NamedTuple

STEP_BITS = 4
FAN_OUT = 1 << STEP_BITS
# Chains up to this many prefixes are not split.
LEAF_SIZE = 16
# The kernel follows 15 jumps below a built-in chain; a tree takes no more than these, however its prefixes were chosen.
MAX_DEPTH = 6


class Prefix(NamedTuple):
    """The first `length` bits of `value`, the others being 0. Sorts as a range of numbers does."""

    value: int
    length: int


ROOT = Prefix(0, 0)


class Branch(NamedTuple):
    """A rule of a chain: to what has this prefix, which is a chain of its own or one of the tree's items."""

    prefix: Prefix
    is_chain: bool


class Shape(NamedTuple):
    """How a tree changed: the nodes whose content is new or other than before, and those that are gone."""

    changed: set[Prefix]
    gone: set[Prefix]


class _Group(NamedTuple):
    """Neighbouring items, `low` to `high` exclusive, that share a branch."""

    branch: Branch
    low: int
    high: int


class PrefixTree:
    """Disjoint prefixes of numbers of `width` bits, in a tree of chains."""

    def __init__(self, width: int, leaf_size: int = LEAF_SIZE, max_depth: int = MAX_DEPTH) -> None:
        """An empty tree: a root without branches."""
        self._width = width
        self._leaf_size = leaf_size
        self._max_depth = max_depth
        self._items: list[Prefix] = []
        self._nodes: dict[Prefix, tuple[tuple[Branch, ...], int]] = {ROOT: ((), 0)}

    def branches(self, node: Prefix) -> tuple[Branch, ...]:
        """What stands in a chain, in order."""
        return self._nodes[node][0]

    def nodes(self) -> Iterable[Prefix]:
        """All chains, the root among them."""
        return self._nodes

    def change(self, added: Iterable[Prefix], removed: Iterable[Prefix], touched: Iterable[Prefix] = ()) -> Shape:
        """Adds and removes items; `touched` are present ones whose chain counts as changed."""
        added, removed = list(added), list(removed)
        if len(added) + len(removed) > max(FAN_OUT, len(self._items) // FAN_OUT):
            self._items = sorted(set(self._items).difference(removed).union(added))
        else:
            for item in removed:
                del self._items[bisect_left(self._items, item)]
            for item in added:
                insort(self._items, item)
        dirty = sorted({*added, *removed, *touched})
        update = _Update(dirty)
        if dirty:
            self._refresh(_Group(Branch(ROOT, True), 0, len(self._items)), 0, update)
        gone: set[Prefix] = set()
        for node in update.left:
            self._drop(node, update.reached, gone)
        return Shape(update.changed - gone, gone)

    def _refresh(self, group: _Group, depth: int, update: _Update) -> None:
        node = group.branch.prefix
        before = self._nodes.get(node, ((), -1))[0]
        groups = self._split(group, depth)
        content = tuple(child.branch for child in groups)
        self._nodes[node] = content, depth
        if content != before or update.concerns(content):
            update.changed.add(node)
        update.left.update(branch.prefix for branch in before if branch.is_chain)
        for child in groups:
            if child.branch.is_chain:
                update.reached.add(child.branch.prefix)
                known = self._nodes.get(child.branch.prefix)
                if known is None or known[1] != depth + 1 or update.is_below(child.branch.prefix, self._width):
                    self._refresh(child, depth + 1, update)
                    if known is None:
                        update.changed.add(child.branch.prefix)

    def _split(self, group: _Group, depth: int) -> list[_Group]:
        """The branches of a chain that holds the items of `group`."""
        if group.high - group.low <= self._leaf_size or depth == self._max_depth:
            indexes = range(group.low, group.high)
            return [_Group(Branch(self._items[index], False), index, index + 1) for index in indexes]
        found = []
        low = group.low
        while low < group.high:
            high = self._end_of_step(low, group.high, group.branch.prefix.length)
            alone = high - low == 1
            prefix = self._items[low] if alone else self._common(low, high)
            found.append(_Group(Branch(prefix, not alone), low, high))
            low = high
        return found

    def _end_of_step(self, low: int, high: int, start: int) -> int:
        """Where the items end that have the same bits as item `low` up to `start + STEP_BITS`."""
        item = self._items[low]
        end = start + STEP_BITS
        if item.length < end:
            return low + 1
        rest = self._width - end
        return bisect_left(self._items, Prefix((item.value >> rest) + 1 << rest, 0), low, high)

    def _common(self, low: int, high: int) -> Prefix:
        """The longest prefix of whole steps that all items from `low` to `high` have."""
        first, last = self._items[low], self._items[high - 1]
        length = min(self._width - (first.value ^ last.value).bit_length(), first.length, last.length)
        length -= length % STEP_BITS
        rest = self._width - length
        return Prefix(first.value >> rest << rest, length)

    def _drop(self, node: Prefix, kept: set[Prefix], gone: set[Prefix]) -> None:
        """Forgets a chain that nothing leads to any more, and what only it led to."""
        if node in kept or node not in self._nodes:
            return
        gone.add(node)
        for branch in self._nodes.pop(node)[0]:
            if branch.is_chain:
                self._drop(branch.prefix, kept, gone)


class _Update:
    """What one change of a tree has found so far."""

    def __init__(self, dirty: Sequence[Prefix]) -> None:
        self._dirty = dirty
        self._dirty_items = set(dirty)
        self.changed: set[Prefix] = set()
        self.left: set[Prefix] = set()
        self.reached: set[Prefix] = set()

    def concerns(self, content: Iterable[Branch]) -> bool:
        """Whether an item that was touched stands in a chain."""
        return any(not branch.is_chain and branch.prefix in self._dirty_items for branch in content)

    def is_below(self, node: Prefix, width: int) -> bool:
        """Whether a dirty item lies within a chain's prefix."""
        index = bisect_left(self._dirty, node)
        last = node.value | (1 << width - node.length) - 1
        return index < len(self._dirty) and self._dirty[index].value <= last
