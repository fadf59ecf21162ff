"""A list of endpoints comes in; which stand in which chain, with which chance, goes out. Pure.

Up to `LIST_SIZE` endpoints stand in one chain. More are put into chains of their own by a digest of their address, each
with the weight of what is below it, so that an endpoint that comes or goes changes two chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from rulegen.iptables.tree import ROOT, Prefix, PrefixTree
from rulegen.services.model import Backend
from rulegen.services.on_iptables import balance

LIST_SIZE = 32
_DEPTH = 3
_DIGEST_BITS = 64


class ListChain(NamedTuple):
    """One chain of a list: its place in the tree, and what its rules lead to, an endpoint or a chain below."""

    node: Prefix
    targets: tuple[Backend | Prefix, ...]
    weights: tuple[int, ...]


def chains_of(backends: Sequence[Backend]) -> Iterator[ListChain]:
    """The chains of a list that has endpoints, those above before those below; the first one is the list's own."""
    if len(backends) <= LIST_SIZE:
        yield ListChain(ROOT, tuple(backends), tuple(backend.weight for backend in backends))
        return
    items = {_digest_prefix(backend): backend for backend in backends}
    if len(items) != len(backends):
        raise AssertionError("two endpoints have the same digest")
    tree = PrefixTree(_DIGEST_BITS, LIST_SIZE, _DEPTH)
    tree.change(items, ())
    weights = _weigh(tree, items)
    for node in tree.nodes():
        branches = tree.branches(node)
        targets = tuple(branch.prefix if branch.is_chain else items[branch.prefix] for branch in branches)
        yield ListChain(node, targets, tuple(weights[branch.prefix] for branch in branches))


def probabilities(backends: Sequence[Backend]) -> list[float]:
    """What the thresholds of the kernel make of the weights: the probability of each endpoint."""
    reached: dict[Backend | Prefix, float] = {ROOT: 1.0}
    for chain in chains_of(backends) if backends else ():
        shares = balance.shares(balance.thresholds(chain.weights))
        above = reached[chain.node]
        reached |= {target: above * share for target, share in zip(chain.targets, shares, strict=True)}
    return [reached[backend] for backend in backends]


def _digest_prefix(backend: Backend) -> Prefix:
    value = int.from_bytes(sha256(str(backend).encode()).digest()[: _DIGEST_BITS // 8], "big")
    return Prefix(value, _DIGEST_BITS)


def _weigh(tree: PrefixTree, items: Mapping[Prefix, Backend]) -> dict[Prefix, int]:
    """The weight of each item, and of each chain the sum of what is below it."""
    weights = {prefix: backend.weight for prefix, backend in items.items()}

    def weigh(node: Prefix) -> int:
        weights[node] = sum(
            weigh(branch.prefix) if branch.is_chain else weights[branch.prefix] for branch in tree.branches(node)
        )
        return weights[node]

    weigh(ROOT)
    return weights
