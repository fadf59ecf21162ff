"""What of a ruleset concerns some ServicePorts or a packet: live entries come in, a Delta goes out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.nftables.elements import PROTOCOL_BYTES, EntryKey, Value, address_bytes, pack_port, safe_comment
from rulegen.reconcile.delta import Delta, diff
from rulegen.services.model import ServicePortKey
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.registers import service_port_of
from rulegen.services.simulate import Packet


class Subset(NamedTuple):
    """What is looked at.

    `families`: whose fixed part. `service_ports`: the service-ports, also such as have no ServicePort any more. `keys`:
    further entries.
    """

    families: Collection[Family]
    service_ports: Collection[ServicePortKey]
    keys: Collection[EntryKey] = ()


def difference(live: Mapping[EntryKey, Value], compiler: Compiler, subset: Subset) -> Delta[EntryKey, Value]:
    """What `apply` would change within the subset. `compiler` has adopted the ids of `live`."""
    desired = _desired(compiler, subset)
    concerned = _Concerned(compiler, subset, {**live, **desired})
    wanted = compiler.entries()
    found = {
        key: value
        for key, value in live.items()
        if key in desired or concerned(key, value) or (_is_base_chain(key, subset) and key not in wanted)
    }
    return diff(found, desired)


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


def _desired(compiler: Compiler, subset: Subset) -> dict[EntryKey, Value]:
    entries = compiler.entries()
    desired = {key: entries[key] for key in subset.keys if key in entries}
    for family in subset.families:
        layout = LAYOUTS[family]
        chains = layout.chains
        names = compiler.base_chains[layout].chains if layout in compiler.base_chains else ()
        desired |= {(chains, name.encode()): entries[chains, name.encode()] for name in names}
    for service_port in subset.service_ports:
        desired |= compiler.service_port_entries(service_port)
    return desired


def _is_base_chain(entry: EntryKey, subset: Subset) -> bool:
    """A chain, or what somebody has put beside them: packets of anybody may meet it."""
    return entry[0].is_chains and entry[0].family in subset.families


class _Concerned:
    """Whether a live entry belongs to what is looked at, though it may be wrong or not wanted any more."""

    def __init__(self, compiler: Compiler, subset: Subset, entries: Mapping[EntryKey, Value]) -> None:
        self._keys = set(subset.keys)
        self._comments = {(family, safe_comment(str(name))) for name, family in subset.service_ports}
        self._ids = {(family, compiler.service_port_id((name, family))) for name, family in subset.service_ports}
        self._ids -= {(family, 0) for family in Family}
        self._frontends = {
            (set_spec.family, key)
            for (set_spec, key), value in entries.items()
            if set_spec.name == "frontends" and (set_spec.family, value.comment) in self._comments
        }

    def __call__(self, entry: EntryKey, value: Value) -> bool:
        set_spec, key = entry
        if entry in self._keys or (set_spec.family, value.comment) in self._comments:
            return True
        if set_spec.name == "source-ranges":
            address = set_spec.key[-1].length
            return (set_spec.family, key[: set_spec.key_length - address]) in self._frontends
        return (set_spec.family, service_port_of(set_spec, key)) in self._ids
