"""What of a ruleset concerns some Routes or a packet: live entries and a Compiler come in, a Delta goes out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.nftables.layout import (
    LAYOUTS,
    PROTOCOL_BYTES,
    EntryKey,
    Value,
    address_bytes,
    pack_port,
    safe_comment,
    service_port_of,
)
from rulegen.reconcile import delta as ruleset
from rulegen.reconcile.delta import Delta
from rulegen.services.model import RouteKey
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.simulate import Packet


class Scope(NamedTuple):
    """What is looked at.

    `families`: whose fixed program. `routes`: the service-ports, also such as have no Route any more. `keys`: further
    entries.
    """

    families: Collection[Family]
    routes: Collection[RouteKey]
    keys: Collection[EntryKey] = ()


def difference(live: Mapping[EntryKey, Value], compiler: Compiler, scope: Scope) -> Delta[EntryKey, Value]:
    """What `apply` would change within the scope. `compiler` has adopted the ids of `live`."""
    desired = _desired(compiler, scope)
    concerned = _Concerned(compiler, scope, {**live, **desired})
    wanted = compiler.entries()
    found = {
        key: value
        for key, value in live.items()
        if key in desired or concerned(key, value) or (_is_of_program(key, scope) and key not in wanted)
    }
    return ruleset.diff(found, desired)


def packet_keys(family: Family, packet: Packet) -> set[EntryKey]:
    """The entries, ranges apart, that a packet's destination would meet if they existed."""
    layout = LAYOUTS[family]
    address = address_bytes(family, packet.destination)
    keys: set[EntryKey] = {(layout.cluster_ips, address)}
    protocol = PROTOCOL_BYTES.get(packet.protocol)
    if protocol is None:
        return keys
    port = protocol + pack_port(packet.port)
    keys.update({(layout.frontends, address + port), (layout.nodeports, port)})
    return keys


def _desired(compiler: Compiler, scope: Scope) -> dict[EntryKey, Value]:
    entries = compiler.entries()
    desired = {key: entries[key] for key in scope.keys if key in entries}
    for family in scope.families:
        chains = LAYOUTS[family].chains
        names = compiler.programs[family].chains if family in compiler.programs else ()
        desired |= {(chains, name.encode()): entries[chains, name.encode()] for name in names}
    for route in scope.routes:
        desired |= compiler.route_entries(route)
    return desired


def _is_of_program(entry: EntryKey, scope: Scope) -> bool:
    """A chain, or what somebody has put beside them: packets of anybody may meet it."""
    return entry[0].is_chains and entry[0].family in scope.families


class _Concerned:
    """Whether a live entry belongs to what is looked at, though it may be wrong or not wanted any more."""

    def __init__(self, compiler: Compiler, scope: Scope, entries: Mapping[EntryKey, Value]) -> None:
        self._keys = set(scope.keys)
        self._comments = {(family, safe_comment(str(name))) for name, family in scope.routes}
        self._ids = {(family, compiler.route_id((name, family))) for name, family in scope.routes}
        self._ids -= {(family, 0) for family in Family}
        self._frontends = {
            (container.family, key)
            for (container, key), value in entries.items()
            if container.name == "frontends" and (container.family, value.comment) in self._comments
        }

    def __call__(self, entry: EntryKey, value: Value) -> bool:
        container, key = entry
        if entry in self._keys or (container.family, value.comment) in self._comments:
            return True
        if container.name == "source-ranges":
            address = container.key[-1].length
            return (container.family, key[: container.key_length - address]) in self._frontends
        return (container.family, service_port_of(container, key)) in self._ids
