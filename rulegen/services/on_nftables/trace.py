"""The entries that a packet meets: a followed packet and a ruleset's entries come in, chains and elements go out. Pure.

What becomes of the packet was decided from the Frontends (`services.simulate`); here that is found again in the tables.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.networks import is_loopback
from rulegen.nftables.elements import (
    PROTOCOL_BYTES,
    EntryKey,
    SetSpec,
    Value,
    address_bytes,
    pack_port,
    pack_register,
    unpack_register,
)
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.registers import (
    HOST_PORT_CHAIN,
    LOCAL_LIST,
    MAX_ENDPOINT_INDEX,
    RESTRICTED,
    SPECIAL,
    Kind,
)
from rulegen.services.simulate import Fate, Origin, Outcome, Packet


class Path(NamedTuple):
    """The chains that decide, in the order in which the packet passes them, and the entries that it meets there."""

    chains: tuple[str, ...]
    keys: tuple[EntryKey, ...]


def trace(
    entries: Mapping[EntryKey, Value],
    family: Family,
    packet: Packet,
    outcome: Outcome,
    node_addresses: Collection[str],
) -> Path:
    """Where in `entries` the `outcome` of a packet comes from; no chains and no entries for one that is untouched."""
    if outcome.fate is Fate.UNTOUCHED:
        return Path((), ())
    is_own = packet.destination in node_addresses or is_loopback(packet.destination)
    tracer = _Tracer(entries, family, packet, outcome.origin, is_own)
    tracer.decide()
    if outcome.fate is Fate.BALANCED:
        tracer.masquerade(outcome)
    return Path(tuple(tracer.chains), tuple(tracer.keys))


class _Tracer:
    """Looks up what the fixed part looks up, and remembers what it found. `is_own`: sent to an address of the node."""

    def __init__(
        self, entries: Mapping[EntryKey, Value], family: Family, packet: Packet, origin: Origin, is_own: bool
    ) -> None:
        self._entries = entries
        self._layout = LAYOUTS[family]
        self._packet = packet
        self._origin = origin
        self._is_own = is_own
        self._source = address_bytes(family, packet.source)
        self._destination = address_bytes(family, packet.destination)
        # Without ports nothing matches but the address.
        self._protocol = PROTOCOL_BYTES.get(packet.protocol)
        self._port = b"" if self._protocol is None else self._protocol + pack_port(packet.port)
        self.chains: list[str] = []
        self.keys: dict[EntryKey, None] = {}

    def decide(self) -> None:
        """From where the packet enters to the endpoints, or to the chain that rejects or drops it."""
        hook = "output" if self._origin is Origin.NODE else "prerouting"
        found = self._meet(self._layout.frontends, self._destination + self._port) if self._port else None
        if found is not None:
            self.chains += [hook, "frontend"]
            self._follow_frontend(unpack_register(found.data))
        elif self._accepts_node_port():
            self.chains.append(hook)
            self._follow_node_port()
        elif self._origin is Origin.NODE or not self._is_own:
            self._follow_unused(f"{hook}-unused")

    def masquerade(self, outcome: Outcome) -> None:
        """Where the source address is replaced."""
        if not any(delivery.masquerade for delivery in outcome.deliveries):
            return
        self.chains += ["postrouting", "marked" if outcome.is_marked else "translated"]
        if not outcome.is_marked:
            self.chains += ["itself", "marked"]
            for byte in dict.fromkeys(self._source[::-1]):
                self._meet(self._layout.hairpin, self._layout.hairpin.fixed[byte])

    # -- frontends --

    def _follow_frontend(self, register: int) -> None:
        if not register & SPECIAL:
            self._follow_balancer(register)
            return
        self.chains.append("special")
        ranges = self._layout.source_ranges
        if register & RESTRICTED and not self._meet_range(ranges, self._destination + self._port, self._source):
            return
        if register & MAX_ENDPOINT_INDEX & ~RESTRICTED == Kind.EXTERNAL:
            self.chains.append("external")
            self._follow_external(register & ~SPECIAL & ~MAX_ENDPOINT_INDEX)
        else:
            self._follow_kind(self._layout.kinds, register & ~RESTRICTED)

    def _follow_node_port(self) -> None:
        layout = self._layout
        found = self._meet(layout.nodeports, self._port)
        self.chains.append("nodeport")
        if found is not None and not _is_host_port(found):
            self._meet_range(layout.nodeport_addresses, b"", self._destination)
        if found is not None:
            self._follow_kind(layout.nodeport_kinds, unpack_register(found.data))

    def _follow_kind(self, kinds: SetSpec, register: int) -> None:
        kind = register & MAX_ENDPOINT_INDEX
        if kind == Kind.HOST_PORT:
            self._follow_host_port(kinds, register)
            return
        verdict = self._meet(kinds, pack_register(SPECIAL | kind))
        if verdict is None:
            return
        self.chains.append(_target(verdict))
        list_ = register & ~SPECIAL & ~MAX_ENDPOINT_INDEX
        if kind == Kind.EXTERNAL:
            self._follow_external(list_)
        elif kind == Kind.INTERNAL_LISTED:
            self._follow_list(list_)
        elif kind == Kind.INTERNAL_LOCAL:
            self._follow_list(list_ | LOCAL_LIST)
        elif kind in {Kind.EXTERNAL_LOCAL, Kind.EXTERNAL_NONE_LOCAL}:
            self._follow_external_local(list_, is_local=kind == Kind.EXTERNAL_LOCAL)
        elif kinds is self._layout.kinds and self._accepts_node_port():
            self._follow_node_port()

    def _follow_host_port(self, kinds: SetSpec, register: int) -> None:
        if kinds is self._layout.kinds:
            self._meet(kinds, pack_register(SPECIAL | Kind.HOST_PORT))
        self.chains.append(HOST_PORT_CHAIN)
        if self._is_own and not is_loopback(self._packet.destination):
            self.chains.append("external-local")
            self._follow_external_local(register & ~SPECIAL & ~MAX_ENDPOINT_INDEX, is_local=True)

    def _follow_external_local(self, list_: int, *, is_local: bool) -> None:
        if self._origin is Origin.NODE:
            self.chains.append("external")
            self._follow_external(list_)
        elif self._origin is Origin.POD:
            self._follow_list(list_)
        elif is_local:
            self._follow_list(list_ | LOCAL_LIST)

    def _follow_external(self, list_: int) -> None:
        """Chain external looks into slots itself."""
        if counted := self._meet(self._layout.slots, pack_register(list_)):
            self._follow_balancer(unpack_register(counted.data))
        else:
            self._follow_list(list_)

    def _follow_unused(self, hook: str) -> None:
        layout = self._layout
        if self._meet(layout.cluster_ips, self._destination) or self._meet_range(
            layout.service_cidrs, b"", self._destination
        ):
            self.chains += [hook, "unused"]

    def _accepts_node_port(self) -> bool:
        layout = self._layout
        if not self._port or not self._is_own or is_loopback(self._packet.destination):
            return False
        found = self._entries.get((layout.nodeports, self._port))
        if found is None or _is_host_port(found):
            return found is not None
        return self._range(layout.nodeport_addresses, b"", self._destination) is not None

    # -- from a list to the endpoints --

    def _follow_list(self, list_: int) -> None:
        layout = self._layout
        register = pack_register(list_)
        self.chains.append("balance")
        if counted := self._meet(layout.slots, register):
            self._follow_balancer(unpack_register(counted.data))
        elif verdict := self._meet(layout.lists, register):
            chain = _target(verdict)
            if chain.startswith("lb-"):
                self._follow_slots(chain, register)
            else:
                self._follow_sticky(chain, register)

    def _follow_balancer(self, register: int) -> None:
        slots = register & MAX_ENDPOINT_INDEX
        self._meet(self._layout.balancers, pack_register(slots))
        self._follow_slots(f"lb-{slots}", pack_register(register & ~MAX_ENDPOINT_INDEX))

    def _follow_slots(self, chain: str, register: bytes) -> None:
        self._meet_chain(chain)
        prefix = register + (self._protocol or b"")
        for slot in range(_number(chain)):
            self._meet(self._layout.endpoints, prefix + pack_register(slot))

    def _follow_sticky(self, chain: str, register: bytes) -> None:
        layout = self._layout
        self._meet_chain(chain)
        verdict = self._meet(layout.sticky_lists, register)
        if verdict is None:
            return
        pick = _target(verdict)
        self._meet_chain(pick)
        local = chain.startswith("sticky-local-")
        endpoints = layout.sticky_local_endpoints if local else layout.sticky_endpoints
        for slot in range(_number(pick)):
            if endpoint_index := self._meet(layout.endpoint_indexes, register + pack_register(slot)):
                self._meet(endpoints, endpoint_index.data + (self._protocol or b""))

    # -- lookups --

    def _meet(self, set_spec: SetSpec, key: bytes) -> Value | None:
        value = self._entries.get((set_spec, key))
        if value is not None:
            self.keys[set_spec, key] = None
        return value

    def _meet_chain(self, name: str) -> None:
        self.chains.append(name)
        self._meet(self._layout.chains, name.encode())

    def _meet_range(self, set_spec: SetSpec, prefix: bytes, address: bytes) -> bool:
        found = self._range(set_spec, prefix, address)
        return found is not None and self._meet(set_spec, found) is not None

    def _range(self, set_spec: SetSpec, prefix: bytes, address: bytes) -> bytes | None:
        """The key of a range of an interval set, which holds both ends."""
        half, start = set_spec.key_length, len(prefix)
        for found, key in self._entries:
            if found is set_spec and key.startswith(prefix) and key[start:half] <= address <= key[half + start :]:
                return key
        return None


def _is_host_port(nodeport: Value) -> bool:
    return unpack_register(nodeport.data) & MAX_ENDPOINT_INDEX == Kind.HOST_PORT


def _target(verdict: Value) -> str:
    """The chain that a verdict leads to."""
    return verdict.data.decode().rpartition(" ")[2]


def _number(chain: str) -> int:
    """The number of slots in a chain's name; none where somebody has put another chain."""
    number = chain.rpartition("-")[2]
    return int(number) if number.isdecimal() and len(number) < 6 else 0
