"""Ranges come in, chains of the nat table go out, and which of them changed; see `iptables.chains.ChainCompiler`.

A packet from a pod goes by its destination through a tree of chains, so that in a cluster of thousands of nodes it
passes some ten rules for each factor of 16, and a Node that comes or goes changes the chains on its own path. Never
reads the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

from rulegen.config import Cidr, Family
from rulegen.egress.model import Range, Side
from rulegen.egress.ranges import RangeCompiler, is_wanted
from rulegen.iptables.chains import NAT, BaseChains, Entries, EntryKey, Rules, base_chains
from rulegen.iptables.names import MAX_LENGTH, digest
from rulegen.iptables.transaction import without_remarks
from rulegen.iptables.tree import ROOT, Branch, Prefix, PrefixTree
from rulegen.reference import ObjectReference
from rulegen.resources import environment

PREFIX = "RULEGEN-EG-"
PODS, CLUSTER, EXEMPT = (f"{PREFIX}{name}" for name in ("PODS", "CLUSTER", "EXEMPT"))
# Behind the Services' rules, which masquerade by a mark.
_RANK = 90
_WIDTH = {Family.IPV4: 32, Family.IPV6: 128}
MASQUERADE = "-m addrtype ! --dst-type LOCAL -j MASQUERADE --random-fully"
POSTROUTING = "POSTROUTING"


class EgressChains(RangeCompiler[EntryKey, Rules]):
    """A family without pods of this node has no chain."""

    prefix = PREFIX
    rank = _RANK
    guards = False
    yields = True

    def __init__(self, families: Sequence[Family]) -> None:
        """Compiles nothing yet."""
        super().__init__(families)
        self._trees = {family: PrefixTree(_WIDTH[family]) for family in families}
        # What was found in the kernel, until ranges are known.
        self._adopted: Entries = {}

    @property
    def base_chains(self) -> Mapping[Family, BaseChains]:
        """Of the families in which there is something to do."""
        return {family: _base_chains(family) for family in self._ranges if family in self._present}

    def needs(self, family: Family) -> Mapping[str, tuple[str, str]]:
        """What the rules are made of."""
        del family
        return {
            "match addrtype": (NAT, "-m addrtype ! --dst-type LOCAL"),
            "target MASQUERADE with --random-fully": (NAT, "-j MASQUERADE --random-fully"),
        }

    def sections(self, chains: Entries) -> Mapping[str, Sequence[EntryKey]]:
        """In the order in which a packet meets them."""
        order = {PODS: 0, CLUSTER: 1, EXEMPT: 3}
        keys = sorted(chains, key=lambda key: (order.get(key.chain, 2), key.chain))
        return {"Egress masquerading.": keys} if keys else {}

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        """Keeps what is live, as long as nothing else is known."""
        del unreadable
        if not self._has_compiled:
            mine = {key: rules for key, rules in live.items() if key.prefix == PREFIX and key.family in self._ranges}
            self._adopted = {key: without_remarks(rules) for key, rules in mine.items()}

    def owners(self, live: Entries) -> Callable[[Any, Any], str]:
        """Nobody: a chain has the ranges of many."""
        del live
        return lambda _, __: ""

    # ---- chains ----

    def _use_adopted(self, *, is_wanted: bool) -> None:
        for key, rules in self._adopted.items():
            self._entries.set(key, rules if is_wanted else None)
        if not is_wanted:
            self._adopted = {}

    def _write(self, family: Family, touched: set[Range]) -> None:
        ranges, tree = self._ranges[family], self._trees[family]
        moved = {_prefix(item.cidr): item.cidr in ranges[Side.CLUSTER] for item in touched if item.side is Side.CLUSTER}
        shape = tree.change(
            sorted(prefix for prefix, is_there in moved.items() if is_there),
            sorted(prefix for prefix, is_there in moved.items() if not is_there),
        )
        was_there, is_there = family in self._present, is_wanted(ranges)
        if not is_there:
            if was_there:
                self._remove(family)
            return
        self._present.add(family)
        for node in shape.gone:
            self._set(family, _branch_name(family, node), None)
        for node in shape.changed if was_there else list(tree.nodes()):
            self._set(family, _branch_name(family, node), tuple(self._cluster_rules(family, node)))
        if not was_there:
            self._entries.set(EntryKey(family, NAT, POSTROUTING, PREFIX), (f"-j {PODS}",))
        self._set(family, PODS, tuple(f"{_match('-s', cidr)}-g {CLUSTER}" for cidr in _sorted(ranges[Side.PODS])))
        exempt = (f"{_match('-d', cidr)}-j RETURN" for cidr in _sorted(ranges[Side.EXEMPT]))
        self._set(family, EXEMPT, (*exempt, MASQUERADE))

    def _remove(self, family: Family) -> None:
        self._present.discard(family)
        for key in [key for key in self._entries if key.family is family]:
            self._entries.set(key, None)

    def _cluster_rules(self, family: Family, node: Prefix) -> Iterator[str]:
        """Who is not found here goes on to the exemptions."""
        for branch in self._trees[family].branches(node):
            yield f"{_match('-d', _cidr(family, branch.prefix))}{self._onward(family, branch)}"
        yield f"-g {EXEMPT}"

    @staticmethod
    def _onward(family: Family, branch: Branch) -> str:
        return f"-g {_branch_name(family, branch.prefix)}" if branch.is_chain else "-j RETURN"

    def _set(self, family: Family, chain: str, rules: Rules | None) -> None:
        self._entries.set(EntryKey(family, NAT, chain, PREFIX), rules)


@lru_cache(maxsize=2)
def _base_chains(family: Family) -> BaseChains:
    return base_chains(family, environment("iptables").get_template("egress.rules.j2").render(), PREFIX)


def _sorted(cidrs: Collection[Cidr]) -> list[Cidr]:
    return sorted(cidrs, key=_prefix)


def _match(option: str, cidr: Cidr) -> str:
    """As iptables-save has it, which says nothing about every address."""
    return "" if cidr.endswith("/0") else f"{option} {cidr} "


def _prefix(cidr: Cidr) -> Prefix:
    network = ip_network(cidr)
    return Prefix(int(network.network_address), network.prefixlen)


def _cidr(family: Family, prefix: Prefix) -> Cidr:
    address = prefix.value.to_bytes(_WIDTH[family] // 8, "big")
    return str(ip_network((address, prefix.length)))


def _branch_name(family: Family, node: Prefix) -> str:
    """A chain of the tree: `RULEGEN-EG-10.244.0.0/16`, or with a digest of that where it would be too long."""
    if node == ROOT:
        return CLUSTER
    cidr = _cidr(family, node)
    # nft prints these names too, and reads no colon in one.
    readable = PREFIX + cidr.replace(":", "_")
    return readable if len(readable) <= MAX_LENGTH else PREFIX + digest(cidr)
