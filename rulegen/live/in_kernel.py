"""The Services that the kernel's rules are for, by what these say of themselves: rulegen's and kube-proxy's, any mode.

In nftables elements have their Service in a comment and endpoints in the map of slots, or chains have both in their
names; in iptables, in both variants, rules have a comment and the probability of an endpoint. Changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from functools import partial
from ipaddress import ip_network

from rulegen.config import Family
from rulegen.errors import AbsentError, RulegenError, legible
from rulegen.interfaces import host_families
from rulegen.iptables import binaries
from rulegen.iptables.binaries import Variant
from rulegen.iptables.listing import list_tables
from rulegen.iptables.rules import Rule, parse_rule
from rulegen.live.frontends import KUBE_PROXY, KubeProxyTable, kube_proxy_chain, kube_proxy_endpoint, service_in
from rulegen.live.known import FrontendKey, Known, ServiceId, shares
from rulegen.networks import with_port
from rulegen.nftables.elements import SetSpec, Value, key_text, pack_register, unpack_register
from rulegen.nftables.messages import Connection, open_connection
from rulegen.nftables.undisturbed import undisturbed
from rulegen.services.on_nftables.layout import LAYOUTS, TABLE
from rulegen.services.on_nftables.registers import LOCAL_LIST, id_of

_CHAIN = re.compile(r"(?:RULEGEN|KUBE)-[A-Z]+-\S+")
# As deep as lists of endpoints go.
_DEEPEST = 8


def known_of_kernel() -> Known:
    """Raises HostError, StaleError."""
    known = Known()
    families = host_families()
    # Without nf_tables there may be legacy iptables.
    with suppress(AbsentError), closing(open_connection()) as connection:
        for family in families:
            undisturbed(partial(_read_nftables, connection, family, known))
    for family in families:
        for variant in Variant:
            _read_iptables(variant, family, known)
    return known


# ---- nftables ----


def _read_nftables(connection: Connection, family: Family, known: Known) -> None:
    if connection.table(family, TABLE) is not None:
        _read_rulegen(connection, family, known)
    if connection.table(family, KUBE_PROXY) is not None:
        _read_kube_proxy(connection, family, known)


def _read_rulegen(connection: Connection, family: Family, known: Known) -> None:
    layout = LAYOUTS[family]
    services: dict[int, ServiceId] = {}
    present = _sets(connection, family, TABLE)
    for set_spec in (layout.frontends, layout.nodeports):
        for key, value in _entries(connection, set_spec, present):
            if value.comment:
                frontend = _frontend(family, set_spec, key)
                service = services.setdefault(id_of(value.data), ServiceId(legible(value.comment), family, frontend[1]))
                known.add([frontend], service)
    slots: dict[int, Counter[str]] = defaultdict(Counter)
    for key, value in _entries(connection, layout.endpoints, present):
        slots[unpack_register(key[:4])][_endpoint(layout.endpoints, value.data)] += 1
    _add_remembering(connection, family, slots, present)
    for register, counts in sorted(slots.items()):
        found = services.get(id_of(pack_register(register)))
        if found is not None and (not register & LOCAL_LIST or not known.shares[found]):
            known.shares[found] = shares(counts)


def _add_remembering(
    connection: Connection, family: Family, slots: dict[int, Counter[str]], present: Collection[str]
) -> None:
    """Lists with session affinity: slots that lead to an index, and indexes that lead to an endpoint."""
    layout = LAYOUTS[family]
    endpoints = {
        key[:4]: _endpoint(layout.sticky_endpoints, value.data)
        for set_spec in (layout.sticky_local_endpoints, layout.sticky_endpoints)
        for key, value in _entries(connection, set_spec, present)
    }
    for key, value in _entries(connection, layout.endpoint_indexes, present):
        if (endpoint := endpoints.get(value.data)) is not None:
            slots[unpack_register(key[:4])][endpoint] += 1


def _read_kube_proxy(connection: Connection, family: Family, known: Known) -> None:
    table = KubeProxyTable(family)
    services: dict[str, ServiceId] = {}
    present = _sets(connection, family, KUBE_PROXY)
    for set_spec in (one for one in (*table.by_address, *table.by_port) if one.name in present):
        for element in connection.elements(family, KUBE_PROXY, set_spec.name):
            chain = element.value.data.decode("utf-8", "replace").rpartition(" ")[2]
            name = kube_proxy_chain([chain])[0] or service_in(element.value.comment)
            if name:
                frontend = _frontend(family, set_spec, element.key)
                known.add([frontend], services.setdefault(name, ServiceId(name, family, frontend[1])))
    weights: dict[ServiceId, Counter[str]] = defaultdict(Counter)
    for chain_info in connection.chains(family, KUBE_PROXY):
        name, endpoint = kube_proxy_endpoint(chain_info.name)
        if endpoint and name in services:
            weights[services[name]][endpoint] = 1
    for service, counts in weights.items():
        known.shares[service] = shares(counts)


def _sets(connection: Connection, family: Family, table: str) -> set[str]:
    """The names of those that a table has: somebody may have removed one."""
    return {one.name for one in connection.sets(family, table)}


def _entries(connection: Connection, set_spec: SetSpec, present: Collection[str]) -> list[tuple[bytes, Value]]:
    return connection.entries(set_spec) if set_spec.name in present else []


def _frontend(family: Family, set_spec: SetSpec, key: bytes) -> FrontendKey:
    *address, protocol, port = key_text(set_spec, key).split(" . ")
    return family, protocol, address[0] if address else "", int(port)


def _endpoint(set_spec: SetSpec, data: bytes) -> str:
    address, port = (text(data[where]) for where, text in set_spec.data_parts)
    return with_port(address, int(port))


# ---- iptables ----


def _read_iptables(variant: Variant, family: Family, known: Known) -> None:
    """Where the host has none, or what it has cannot be read, there is nothing to know of it."""
    try:
        if not binaries.installed(variant, family):
            return
        tables = list_tables(variant, family, lambda chain: _CHAIN.match(chain) is not None)
    except RulegenError:
        return
    chains: dict[str, list[Rule]] = defaultdict(list)
    for line in (line for table in tables if table.name == "nat" for line in table.lines):
        if line.startswith("-A "):
            _, chain, words = line.split(" ", 2)
            chains[chain].append(parse_rule(words))
    for rule in (rule for rules in chains.values() for rule in rules):
        _add_frontend(rule, family, chains, known)


def _add_frontend(rule: Rule, family: Family, chains: dict[str, list[Rule]], known: Known) -> None:
    """A rule that leads from an address or a NodePort to the chains of a Service."""
    name = service_in(rule.options.get("--comment", ""))
    port, protocol = rule.options.get("--dport", ""), rule.options.get("-p", "")
    if not (name and port.isdecimal() and _CHAIN.match(rule.target)):
        return
    address = str(ip_network(rule.options["-d"]).network_address) if "-d" in rule.options else ""
    service = ServiceId(name, family, protocol)
    known.add([(family, protocol, address, int(port))], service)
    if not known.shares[service]:
        known.shares[service] = shares(dict(_drawn(rule.target, chains, 1.0)))


def _drawn(
    chain: str, chains: dict[str, list[Rule]], part: float, depth: int = _DEEPEST
) -> Iterator[tuple[str, float]]:
    """The endpoints of a list, each with its part. Of a frontend's chain only what leads to a list counts."""
    rest = part
    for rule in chains.get(chain, ()) if depth else ():
        if "--rcheck" in rule.options or "--src-type" in rule.options:
            continue
        taken = rest * float(rule.options.get("--probability", 1))
        if rule.target == "DNAT":
            yield rule.options.get("--to-destination", ""), taken
        elif _CHAIN.match(rule.target) and not rule.target.startswith("KUBE-MARK"):
            yield from _drawn(rule.target, chains, taken, depth - 1)
        else:
            continue
        rest -= taken
