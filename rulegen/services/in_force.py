"""Whether rulegen's rules decide about packets on this host now, on either target; asks the kernel, changes nothing.

Rules are in force in a family when packets meet them (the hooks or the jumps that lead to them are there, and no chain
was altered), and the tables serve Services.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from rulegen.config import Family
from rulegen.errors import RulegenError

if TYPE_CHECKING:
    from rulegen.iptables.chains import Entries, EntryKey


class InForce(NamedTuple):
    """In which families rules are in force, and in which they serve a Service; `unread`: why it may be more.

    `host_ports`: in which they serve a host port of a pod.
    """

    families: frozenset[Family]
    serving: frozenset[Family]
    unread: tuple[str, ...]
    host_ports: frozenset[Family]


def in_force() -> InForce:
    """Of both targets together. Raises nothing: what cannot be read is named and counts for nothing."""
    families: set[Family] = set()
    serving: set[Family] = set()
    host_ports: set[Family] = set()
    unread = []
    for read in (_on_nftables, _on_iptables):
        try:
            for family, serves, has_host_ports in read():
                families.add(family)
                serving |= {family} if serves else set()
                host_ports |= {family} if has_host_ports else set()
        except RulegenError as error:
            unread.append(str(error))
    return InForce(frozenset(families), frozenset(serving), tuple(unread), frozenset(host_ports))


def _on_nftables() -> Iterator[tuple[Family, bool, bool]]:
    from rulegen.nftables.kernel import Kernel
    from rulegen.nftables.live import ALTERED, SETS
    from rulegen.services.on_nftables.layout import LAYOUTS
    from rulegen.services.on_nftables.names import names_in
    from rulegen.services.on_nftables.registers import HOST_PORT_CHAIN

    with Kernel() as kernel:
        live = kernel.read(tuple(LAYOUTS.values()))
    altered = {set_spec.family for (set_spec, _), value in live.entries.items() if value == ALTERED}
    serving = {family for family, _ in names_in(live.entries)}
    has_chain = {spec.family for spec in LAYOUTS.values() if (spec.chains, HOST_PORT_CHAIN.encode()) in live.entries}
    for spec, table in live.tables.items():
        family = spec.family
        is_whole = table.schema and table.fingerprints.keys() - {SETS} <= table.declarations.keys()
        if is_whole and family not in altered and any(table.declarations.values()):
            yield family, family in serving, family in has_chain


def _on_iptables() -> Iterator[tuple[Family, bool, bool]]:
    from rulegen.iptables import binaries
    from rulegen.iptables.chains import NAT, EntryKey
    from rulegen.iptables.kernel import Kernel
    from rulegen.iptables.transaction import REMARK
    from rulegen.services.on_iptables.dispatch_trees import DispatchTree

    for variant in filter(binaries.installed, binaries.Variant):
        entries = Kernel(variant).read()
        for family in Family:
            starts = [EntryKey(family, NAT, chain) for chain in ("PREROUTING", "OUTPUT")]
            if all(rules and not rules[0].startswith(REMARK) for rules in (entries.get(key, ()) for key in starts)):
                serves = all(_leads_to_service(entries, start) for start in starts)
                host_ports = entries.get(EntryKey(family, DispatchTree.HOST_PORTS.table, DispatchTree.HOST_PORTS.root))
                yield family, serves, bool(host_ports)


def _leads_to_service(entries: Entries, start: EntryKey) -> bool:
    """Whether the jumps from there reach a Service's own chain, with rules in it."""
    from rulegen.iptables.chains import target_of
    from rulegen.services.on_iptables.names import is_of_service

    seen, waiting = {start}, [start]
    while waiting:
        key = waiting.pop()
        rules = entries.get(key, ())
        if rules and is_of_service(key.chain):
            return True
        reached = {key._replace(chain=target_of(rule)) for rule in rules} - seen
        seen |= reached
        waiting += reached
    return False
