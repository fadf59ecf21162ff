"""Asks the kernel for the chains of others, and says which of them stand in the way of Services."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from functools import cache

from rulegen.claims import DSTNAT
from rulegen.config import Family, Target
from rulegen.errors import printable
from rulegen.firewalls import legacy
from rulegen.firewalls.expressions import read_rule
from rulegen.firewalls.model import Hooked, Obstacle, Rule, obstacle
from rulegen.iptables import binaries
from rulegen.iptables.binaries import Variant
from rulegen.iptables.listing import list_tables
from rulegen.nftables.foreign import BaseChain, base_chains, rules_of
from rulegen.nftables.messages import Connection, open_connection
from rulegen.nftables.undisturbed import undisturbed

# NFPROTO_* of linux/netfilter.h; arp is not about Services.
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 7: "bridge", 10: "ip6"}
_NETDEV = 5
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
_NETDEV_HOOKS = ("ingress", "egress")
# rulegen's and kube-proxy's own tables: all their names begin so.
_NOT_OTHERS = ("rulegen", "kube-proxy")
_IPTABLES_TABLES = frozenset({"raw", "mangle", "nat", "filter", "security"})
_IPTABLES = {2: "iptables", 10: "ip6tables"}
_IPTABLES_PROGRAMS = tuple(_IPTABLES.values())


def obstacles_beside(target: Target) -> list[Obstacle]:
    """What stands in the way of this target, sorted.

    Raises HostError when it cannot be read, StaleError when it keeps changing. The iptables target accepts
    in the filter table itself what is for Services, so that table is no obstacle to it.
    """
    found = sorted([*_in_nf_tables(), *_in_legacy_iptables()])
    if target is Target.NFTABLES:
        return found
    return [one for one in found if not one.place.startswith(_IPTABLES_PROGRAMS) or not one.place.endswith(" filter")]


def hooked_chains(connection: Connection) -> list[str]:
    """All chains of nf_tables with a hook, a line for each, sorted. Raises HostError, StaleError."""
    found = []
    for chain in undisturbed(lambda: base_chains(connection)):
        hooks = _NETDEV_HOOKS if chain.family == _NETDEV else _HOOKS
        hook = hooks[chain.hook] if chain.hook < len(hooks) else "unknown"
        policy = "drop" if chain.drops else "accept"
        table = f"{_FAMILIES.get(chain.family, chain.family)} {printable(chain.table)}"
        line = f"{hook} {chain.priority}: {table} {printable(chain.name)}, policy {policy}"
        found.append((hook, chain.priority, line))
    return [line for _, _, line in sorted(found)]


def _in_nf_tables() -> list[Obstacle]:
    with closing(open_connection()) as connection:
        return undisturbed(lambda: list(_others(connection, base_chains(connection))))


def _others(connection: Connection, chains: Iterable[BaseChain]) -> Iterable[Obstacle]:
    for chain in chains:
        if chain.family not in _FAMILIES or chain.table.startswith(_NOT_OTHERS):
            continue

        @cache
        def rules(name: str, chain: BaseChain = chain) -> list[Rule]:
            return [read_rule(rule) for rule in rules_of(connection, chain.family, chain.table, name)]

        if found := obstacle(_hooked(chain), rules):
            yield found


def _hooked(chain: BaseChain) -> Hooked:
    hooks = _NETDEV_HOOKS if chain.family == _NETDEV else _HOOKS
    hook = hooks[chain.hook] if chain.hook < len(hooks) else "unknown"
    is_translated = hook in {"input", "forward", "postrouting"} or (
        hook in {"prerouting", "output"} and chain.priority > DSTNAT
    )
    return Hooked(_place(chain), chain.name, hook, chain.drops, is_translated)


def _place(chain: BaseChain) -> str:
    if chain.family in _IPTABLES and chain.table in _IPTABLES_TABLES and chain.name.isupper():
        return f"{_IPTABLES[chain.family]} chain {chain.name} of table {chain.table}"
    return f"nftables chain {printable(chain.name)} of table {_FAMILIES[chain.family]} {printable(chain.table)}"


def _in_legacy_iptables() -> list[Obstacle]:
    """Where its tables are loaded; nothing is loaded for it."""
    if not binaries.installed(Variant.LEGACY):
        return []
    return [
        found
        for family in Family
        for found in legacy.obstacles(f"{binaries.NAME[family]}-legacy", list_tables(Variant.LEGACY, family))
    ]
