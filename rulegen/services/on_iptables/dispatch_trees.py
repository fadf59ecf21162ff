"""The trees of one family: which rules hang from which address or port come in, chains come out.

Each tree hangs from a chain of the fixed part. Keeps what it was told, so that a change costs its own path only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

from rulegen.config import Cidr, Family
from rulegen.iptables.chains import FILTER, MANGLE, NAT, Entries, EntryKey, Rules
from rulegen.iptables.tree import ROOT, Prefix, PrefixTree
from rulegen.services.on_iptables.base_chains import Extras
from rulegen.services.on_iptables.names import tree_chain_name

WIDTH = {Family.IPV4: 32, Family.IPV6: 128}
_SOCKET_FAMILY = {Family.IPV4: AF_INET, Family.IPV6: AF_INET6}
PORT_BITS = 16
PROTOCOLS = ("TCP", "UDP", "SCTP")
# A step of the tree for the protocol, then the port.
_PROTOCOL_BITS = 4


class DispatchTree(Enum):
    """A tree: its table, the chain that it hangs from, the letter in its chains' names, whether it is of ports."""

    FIREWALL = (MANGLE, "RULEGEN-FIREWALL", "F", False)
    VIPS = (NAT, "RULEGEN-VIPS", "V", False)
    NODEPORTS = (NAT, "RULEGEN-NODEPORTS", "P", True)
    HOST_PORTS = (NAT, "RULEGEN-HOST-PORTS", "D", True)
    NO_ENDPOINTS = (FILTER, "RULEGEN-NO-ENDPOINTS", "E", False)
    NO_ENDPOINT_NODEPORTS = (FILTER, "RULEGEN-NODEPORTS", "P", True)
    CLUSTER_IPS = (FILTER, "RULEGEN-CLUSTER-IPS", "C", False)
    HEALTH_CHECKS = (FILTER, "RULEGEN-HEALTH-CHECKS", "H", True)

    # Enum's own is written in Python.
    __hash__ = object.__hash__

    def __init__(self, table: str, root: str, letter: str, is_of_ports: bool) -> None:
        self.table = table
        self.root = root
        self.letter = letter
        self.is_of_ports = is_of_ports

    @property
    def is_extra(self) -> bool:
        """Whether the chain and what leads there is there only when something hangs from it."""
        return self in _EXTRAS


_EXTRAS = frozenset({DispatchTree.FIREWALL, DispatchTree.HEALTH_CHECKS, DispatchTree.HOST_PORTS})


class Leaf(NamedTuple):
    """A rule and what it hangs from. It names its address, or protocol and port, in full."""

    tree: DispatchTree
    prefix: Prefix
    rule: str


class Moves(NamedTuple):
    """Chains as they were and as they are, where they differ; a chain that is new or gone is in one of them only."""

    before: Entries
    after: Entries


def address_prefix(family: Family, address: str) -> Prefix:
    """A canonical address as an item of a tree."""
    return Prefix(int.from_bytes(inet_pton(_SOCKET_FAMILY[family], address), "big"), WIDTH[family])


def port_prefix(protocol: str, port: int) -> Prefix:
    """A protocol's port as an item of a tree of ports."""
    return Prefix(PROTOCOLS.index(protocol) << PORT_BITS | port, _PROTOCOL_BITS + PORT_BITS)


def cidr_text(family: Family, prefix: Prefix) -> Cidr:
    """A prefix of addresses as iptables-save writes it."""
    packed = prefix.value.to_bytes(WIDTH[family] // 8, "big")
    return f"{inet_ntop(_SOCKET_FAMILY[family], packed)}/{prefix.length}"


def cidr_prefix(network: IPv4Network | IPv6Network) -> Prefix:
    """A range of addresses as an item of a tree."""
    return Prefix(int(network.network_address), network.prefixlen)


class DispatchTrees:
    """All trees of a family."""

    def __init__(self, family: Family) -> None:
        self._trees = {tree: _Tree(family, tree) for tree in DispatchTree}

    def change(self, added: Iterable[Leaf], removed: Iterable[Leaf]) -> Moves:
        """Adds and removes leaves; the same leaf may be there many times, and stands in its chain once."""
        counts: dict[DispatchTree, Counter[tuple[Prefix, str]]] = {}
        for leaf in added:
            counts.setdefault(leaf.tree, Counter())[leaf.prefix, leaf.rule] += 1
        for leaf in removed:
            counts.setdefault(leaf.tree, Counter())[leaf.prefix, leaf.rule] -= 1
        moves = Moves({}, {})
        for tree, differences in counts.items():
            self._trees[tree].change(differences, moves)
        return moves

    def plant(self) -> Entries:
        """The roots of trees that never had a leaf, which the fixed part leads to; those that this makes."""
        trees = [grown for tree, grown in self._trees.items() if not tree.is_extra and grown.root not in grown.chains]
        for grown in trees:
            grown.chains[grown.root] = ()
        return {grown.root: () for grown in trees}

    def extras(self) -> Extras:
        """What something hangs from."""
        present = {tree for tree in _EXTRAS if self._trees[tree].chains}
        return Extras(
            DispatchTree.FIREWALL in present, DispatchTree.HEALTH_CHECKS in present, DispatchTree.HOST_PORTS in present
        )

    def entries(self) -> Entries:
        return {key: rules for tree in self._trees.values() for key, rules in tree.chains.items()}

    def path(self, leaf: Leaf) -> Entries:
        """The chains that a packet passes on the way to a leaf, from the root on."""
        return self._trees[leaf.tree].path(leaf.prefix)


class _Tree:
    """One tree, its leaves and its chains."""

    def __init__(self, family: Family, tree: DispatchTree) -> None:
        self._family = family
        self._place = tree
        self._width = _PROTOCOL_BITS + PORT_BITS if tree.is_of_ports else WIDTH[family]
        self._tree = PrefixTree(self._width)
        self._rules: dict[Prefix, Counter[str]] = {}
        self._match: Callable[[Prefix], str] = (
            _port_match if tree.is_of_ports else lambda prefix: f"-d {cidr_text(family, prefix)}"
        )
        self._name: Callable[[Prefix], str] = _port_name if tree.is_of_ports else partial(cidr_text, family)
        self.chains: Entries = {}

    def change(self, differences: Counter[tuple[Prefix, str]], moves: Moves) -> None:
        """Changes how often each leaf is there, and adds to `moves` what that does to the chains."""
        concerned = {prefix for (prefix, _), difference in differences.items() if difference}
        had = {prefix for prefix in concerned if prefix in self._rules}
        for (prefix, rule), difference in differences.items():
            if difference:
                self._count(prefix, rule, difference)
        has = {prefix for prefix in concerned if prefix in self._rules}
        shape = self._tree.change(has - had, had - has, has & had)
        for node in shape.gone:
            key = self._key(node)
            moves.before[key] = self.chains.pop(key)
        for node in shape.changed:
            key = self._key(node)
            if key in self.chains:
                moves.before[key] = self.chains[key]
            moves.after[key] = self.chains[key] = self._content(node)
        if self._place.is_extra and not self._rules and self.chains:
            # Only the root is left; nothing leads there any more.
            del self.chains[self.root]
            moves.after.pop(self.root, None)

    @property
    def root(self) -> EntryKey:
        """The chain that the tree hangs from."""
        return self._key(ROOT)

    def path(self, prefix: Prefix) -> Entries:
        """The chains from the root to the one that holds an item."""
        found: Entries = {}
        node: Prefix | None = ROOT
        while node is not None:
            key = self._key(node)
            found[key] = self.chains[key]
            node = next(
                (
                    branch.prefix
                    for branch in self._tree.branches(node)
                    if branch.is_chain
                    and prefix.value >> (rest := self._width - branch.prefix.length) == branch.prefix.value >> rest
                ),
                None,
            )
        return found

    def _count(self, prefix: Prefix, rule: str, difference: int) -> None:
        rules = self._rules.setdefault(prefix, Counter())
        rules[rule] += difference
        if not rules[rule]:
            del rules[rule]
            if not rules:
                del self._rules[prefix]

    def _key(self, node: Prefix) -> EntryKey:
        name = self._place.root if node == ROOT else tree_chain_name(self._place.letter, self._name(node))
        return EntryKey(self._family, self._place.table, name)

    def _content(self, node: Prefix) -> Rules:
        rules: list[str] = []
        for branch in self._tree.branches(node):
            if branch.is_chain:
                rules.append(f"{self._match(branch.prefix)} -j {self._key(branch.prefix).chain}")
            else:
                rules += sorted(self._rules[branch.prefix])
        return tuple(rules)


def _port_match(prefix: Prefix) -> str:
    protocol, first, last = _port_range(prefix)
    if prefix.length == _PROTOCOL_BITS:
        return f"-p {protocol}"
    return f"-p {protocol} -m {protocol} --dport {first}:{last}"


def _port_name(prefix: Prefix) -> str:
    protocol, first, last = _port_range(prefix)
    return protocol if prefix.length == _PROTOCOL_BITS else f"{protocol}-{first}-{last}"


def _port_range(prefix: Prefix) -> tuple[str, int, int]:
    first = prefix.value & (1 << PORT_BITS) - 1
    ports = 1 << _PROTOCOL_BITS + PORT_BITS - prefix.length
    return PROTOCOLS[prefix.value >> PORT_BITS].lower(), first, first + ports - 1
