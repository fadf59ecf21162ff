"""Trees of chains: every item is found, the shape depends on the items alone, and a change touches its own path."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from rulegen.iptables.tree import FAN_OUT, LEAF_SIZE, MAX_DEPTH, ROOT, STEP_BITS, Prefix, PrefixTree

WIDTH = 32
numbers = st.one_of(st.integers(0, 2**WIDTH - 1), st.integers(0x0A600000, 0x0A6003FF))
item_sets = st.sets(numbers.map(lambda number: Prefix(number, WIDTH)), max_size=120)


def made(items: Iterable[Prefix]) -> PrefixTree:
    tree = PrefixTree(WIDTH)
    tree.change(items, ())
    return tree


def shape(tree: PrefixTree) -> dict[Prefix, object]:
    return {node: tree.branches(node) for node in tree.nodes()}


def covers(prefix: Prefix, number: int) -> bool:
    return number >> WIDTH - prefix.length == prefix.value >> WIDTH - prefix.length


def walk(tree: PrefixTree, number: int) -> tuple[bool, int, int]:
    """Whether a number is found, after how many rules, in which depth; as a packet goes."""
    node, passed, depth = ROOT, 0, 0
    while True:
        for branch in tree.branches(node):
            passed += 1
            if covers(branch.prefix, number):
                break
        else:
            return False, passed, depth
        if not branch.is_chain:
            return True, passed, depth
        node, depth = branch.prefix, depth + 1


@given(item_sets, numbers)
def test_what_is_there_is_found_and_nothing_else(items: set[Prefix], other: int) -> None:
    tree = made(items)
    assert all(walk(tree, item.value)[0] for item in items)
    assert walk(tree, other)[0] is (Prefix(other, WIDTH) in items)


@given(st.lists(item_sets, min_size=1, max_size=5))
def test_the_shape_depends_on_the_items_alone_and_changes_are_told(states: list[set[Prefix]]) -> None:
    tree = PrefixTree(WIDTH)
    before: set[Prefix] = set()
    for state in states:
        old = shape(tree)
        told = tree.change(state - before, before - state)
        new = shape(tree)
        assert new == shape(made(state))
        assert told.gone == old.keys() - new.keys()
        assert {node for node in new if new[node] != old.get(node)} <= told.changed <= new.keys()
        before = state


@given(item_sets)
def test_chains_are_short_and_the_tree_is_flat(items: set[Prefix]) -> None:
    tree = made(items)
    for item in items:
        _, passed, depth = walk(tree, item.value)
        assert depth <= MAX_DEPTH
        assert passed <= depth * FAN_OUT + max(LEAF_SIZE, len(items) if depth == MAX_DEPTH else 0)


def test_depth_is_bounded_however_the_items_were_chosen() -> None:
    """Addresses of which each differs from the next in another step: the deepest tree that there could be."""
    width = 128
    cluster = {Prefix(number, width) for number in range(LEAF_SIZE + 1)}
    ladder = {Prefix(1 << width - STEP_BITS * (step + 1), width) for step in range(width // STEP_BITS - 2)}
    tree = PrefixTree(width)
    tree.change(cluster | ladder, ())
    depths = {ROOT: 0}
    for node in list(tree.nodes()):
        depths |= {branch.prefix: depths[node] + 1 for branch in tree.branches(node) if branch.is_chain}
    assert max(depths.values()) == MAX_DEPTH


def test_the_way_grows_with_the_logarithm() -> None:
    longest = {}
    for size in (100, 1_000, 10_000, 100_000):
        tree = made(Prefix(0x0A600000 + number, WIDTH) for number in range(size))
        longest[size] = max(walk(tree, 0x0A600000 + number)[1] for number in range(0, size, 97))
    assert all(longest[size] <= FAN_OUT * (math.log(size, FAN_OUT) + 2) for size in longest)


def test_one_item_more_or_less_touches_its_path() -> None:
    chosen = random.Random(7)
    items = {Prefix(0x0A000000 + chosen.randrange(1 << 24), WIDTH) for _ in range(5_000)}
    tree = made(items)
    for _ in range(200):
        new = Prefix(0x0A000000 + chosen.randrange(1 << 24), WIDTH)
        if new in items:
            continue
        came, went = tree.change([new], ()), tree.change((), [new])
        assert len(came.changed) + len(came.gone) <= MAX_DEPTH + FAN_OUT
        assert len(went.changed) + len(went.gone) <= MAX_DEPTH + FAN_OUT


def test_wide_prefixes_stand_beside_narrow_ones() -> None:
    wide = [Prefix(0x0A000000, 9), Prefix(0x0A800000, 10), Prefix(0xC0000000, 2)]
    narrow = [Prefix(0x0AC00000 + number * 2, WIDTH) for number in range(100)]
    tree = made([*wide, *narrow])
    for number in (0x0A000001, 0x0A7FFFFF, 0x0ABFFFFF, 0xFFFFFFFF, 0x0AC00000, 0x0AC000C6):
        assert walk(tree, number)[0]
    for number in (0x0AC00001, 0x0B000000, 0x7FFFFFFF):
        assert not walk(tree, number)[0]
