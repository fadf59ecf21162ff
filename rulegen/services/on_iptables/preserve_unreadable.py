"""What stays in the kernel though nothing is known of it: Services that cannot be read, and were not before.

Live chains come in; the chains and leaves of such Services go out, for the Compiler to put beside the compiled ones.
Their rules say whose they are; chains that a rule leads to belong to whom the rule belongs. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from rulegen.config import Family
from rulegen.iptables.chains import Entries, EntryKey, Rules, target_of
from rulegen.iptables.names import PREFIX, is_ours, safe_comment
from rulegen.iptables.rules import parse_rule
from rulegen.iptables.text import comment_of
from rulegen.networks import parse_network
from rulegen.services.on_iptables.dispatch_trees import PROTOCOLS, WIDTH, DispatchTree, Leaf, cidr_prefix, port_prefix
from rulegen.services.on_iptables.names import is_of_service
from rulegen.services.on_iptables.service import Compiled


def find_services(live: Mapping[EntryKey, Rules], owners: Collection[str]) -> dict[Family, Compiled]:
    """What is live of Services and pods, given as comments begin (`model.owner_text`)."""
    names = list(map(safe_comment, owners))
    found = {family: Compiled() for family in Family}
    for key, rules in live.items():
        if is_of_service(key.chain):
            if _is_of(names, rules[:1]):
                _add_chains(live, key, found[key.family].chains)
        elif (tree := _tree_of(key)) is not None:
            found[key.family].leaves += _leaves(key.family, tree, tuple(r for r in rules if _is_of(names, (r,))))
    for family, compiled in found.items():
        compiled.leaves += _cluster_ips(live, family, compiled.leaves)
    return found


def _is_of(names: Collection[str], rules: Rules) -> bool:
    comment = comment_of(rules)
    return any(comment == name or comment.startswith(f"{name}:") for name in names)


def _add_chains(live: Mapping[EntryKey, Rules], key: EntryKey, chains: Entries) -> None:
    """A chain, and those that it leads to."""
    if key in live and key not in chains:
        chains[key] = live[key]
        for rule in live[key]:
            target = target_of(rule)
            if is_of_service(target):
                _add_chains(live, EntryKey(key.family, key.table, target), chains)


def _tree_of(key: EntryKey) -> DispatchTree | None:
    """The tree that a chain is of; the chain's name begins with the tree's letter."""
    for tree in DispatchTree:
        if key.table == tree.table and (key.chain == tree.root or key.chain.startswith(f"{PREFIX}{tree.letter}-")):
            return tree
    return None


def _leaves(family: Family, tree: DispatchTree, rules: Rules) -> Iterator[Leaf]:
    """The rules that name their address or port in full, as those of a Service do unless somebody has changed them."""
    for rule in rules:
        options = parse_rule(rule).options
        if tree.is_of_ports:
            protocol, port = options.get("-p", "").upper(), options.get("--dport", "")
            if protocol in PROTOCOLS and port.isdecimal():
                yield Leaf(tree, port_prefix(protocol, int(port)), rule)
        elif (network := parse_network(options.get("-d", ""))) and network.prefixlen == WIDTH[family]:
            yield Leaf(tree, cidr_prefix(network), rule)


def _cluster_ips(live: Mapping[EntryKey, Rules], family: Family, leaves: Collection[Leaf]) -> Iterator[Leaf]:
    """The rules for ClusterIPs, which do not say whose they are: those for the addresses of the other leaves."""
    addresses = {leaf.prefix for leaf in leaves if not leaf.tree.is_of_ports}
    for key, rules in live.items():
        if key.family is family and _tree_of(key) is DispatchTree.CLUSTER_IPS:
            verdicts = tuple(rule for rule in rules if not is_ours(target_of(rule)))
            yield from (
                leaf for leaf in _leaves(family, DispatchTree.CLUSTER_IPS, verdicts) if leaf.prefix in addresses
            )
