"""ServicePorts become entries, one ServicePort at a time.

In: ServicePorts as the store changes them, and, once, the live entries, whose ids, slots and endpoint indexes are kept
where they can be. Out: the entries that a ServicePort owns, and Deltas between what it owned and what it owns now. The
cost of a change is that of its ServicePorts. Never reads the kernel, never raises for a ServicePort that it has
compiled before.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from operator import itemgetter
from socket import inet_pton
from struct import Struct
from typing import NamedTuple

from rulegen.claims import ID_SHIFT, MAX_ID, OURS
from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.nftables.elements import (
    ADDRESS_FAMILIES,
    PROTOCOL_BYTES,
    EntryKey,
    SetSpec,
    Value,
    address_bytes,
    cidr_range,
    pack_port,
    pack_register,
    safe_comment,
    unpack_register,
)
from rulegen.nftables.plain_elements import PlainElements, in_parts
from rulegen.nftables.tables import AllEntries, BaseChains, Entries, TableSpec
from rulegen.reconcile.delta import Delta, diff
from rulegen.reconcile.parts import parts_of
from rulegen.services.model import (
    Backend,
    Frontend,
    FrontendKind,
    NodeSettings,
    ServicePort,
    ServicePortKey,
    ServicePortName,
    TrafficPolicy,
    Verdict,
)
from rulegen.services.on_nftables import base_chains
from rulegen.services.on_nftables.layout import LAYOUTS, Layout
from rulegen.services.on_nftables.registers import (
    HOST_PORT_CHAIN,
    KINDS,
    LOCAL_LIST,
    MAX_COUNTED_SLOTS,
    MAX_ENDPOINT_INDEX,
    NODEPORT_KINDS,
    RESTRICTED,
    SPECIAL,
    Kind,
    id_of,
)
from rulegen.services.on_nftables.slots import MAX_SLOTS, assign_slots, slot_counts

_NOTHING = Value()
_LAST_ENDPOINT_INDEX = re.compile(r"last index (\d{1,4})")
# So many are put into an ordered list one by one; more at once.
_FEW = 64
# A key that begins with a list's register and ends with the number of a slot, by its length.
_FIRST_AND_LAST = {8: Struct("=II"), 12: Struct("=I4xI")}
_REGISTER_LENGTH = 4
_SLOT_BYTES = [pack_register(slot) for slot in range(256)]


def _slot_bytes(count: int) -> list[bytes]:
    """The numbers of so many slots, as keys have them."""
    return [*_SLOT_BYTES[:count], *map(pack_register, range(256, count))]


@dataclass(slots=True)
class _Lists:
    """What of a ServicePort outlives a recompilation: its id, the slots of both lists, its endpoint indexes.

    `whole`: the slots of lists that are live as they stand in `slots`, until these are compiled for the first time.
    """

    id: int = 0
    slots: dict[int, Sequence[bytes | None]] = field(default_factory=dict)
    whole: dict[int, list[bytes]] = field(default_factory=dict)
    endpoint_indexes: dict[bytes, int] = field(default_factory=dict)
    last_endpoint_index: int = 0


class _Slots(NamedTuple):
    """The slots of a list: what their keys begin with, and the endpoint in each.

    `is_live`: these elements are among those that are adopted, just so.
    """

    prefix: bytes
    endpoints: Sequence[bytes]
    is_live: bool

    def elements(self) -> Iterator[tuple[bytes, bytes]]:
        """Of the map `endpoints`. Nearly all that there is is made here, so without a line of Python for each."""
        return zip(map(self.prefix.__add__, _slot_bytes(len(self.endpoints))), self.endpoints, strict=True)


@dataclass(slots=True)
class _Compiled:
    """A ServicePort's entries: its own, and those that other ServicePorts may need as well.

    Of its own, `slots` are those of the map `endpoints`, and `owned` all others.
    """

    owned: Entries = field(default_factory=dict)
    slots: tuple[_Slots, ...] = ()
    shared: list[EntryKey] = field(default_factory=list)
    lists: _Lists = field(default_factory=_Lists)
    nodeport_block: int | None = None
    has_host_port: bool = False

    def own(self, endpoints: SetSpec) -> Entries:
        """All of its own."""
        entries = dict(self.owned)
        for slots in self.slots:
            entries.update(((endpoints, key), Value(endpoint)) for key, endpoint in slots.elements())
        return entries


class _Differing:
    """The entries of what changes, as they were and as they are."""

    def __init__(self) -> None:
        self.before: Entries = {}
        self.after: Entries = {}

    def note(self, family: Family, old: _Compiled, new: _Compiled) -> None:
        """A ServicePort's own."""
        endpoints = LAYOUTS[family].endpoints
        self.before |= old.own(endpoints)
        self.after |= new.own(endpoints)

    def delta(self) -> Delta[EntryKey, Value]:
        """What leads from one to the other."""
        return diff(self.before, self.after)


class _Everything(_Differing):
    """The same where all ServicePorts are put together: `after` has no element of the maps `endpoints`.

    `live`: what is in these maps, as far as it is adopted.
    """

    def __init__(self, families: Iterable[Family], live: Mapping[Family, Mapping[bytes, bytes]]) -> None:
        super().__init__()
        self._live = live
        self._slots: dict[Family, list[_Slots]] = {family: [] for family in families}

    def note(self, family: Family, old: _Compiled, new: _Compiled) -> None:
        """There was nothing."""
        del old
        self.after |= new.owned
        self._slots[family] += new.slots

    def entries(self) -> AllEntries:
        """All of them."""
        maps = [(LAYOUTS[family].endpoints, self._endpoints(family)) for family in self._slots]
        return in_parts(self.after, [(set_spec, PlainElements(set_spec, data)) for set_spec, data in maps])

    def _endpoints(self, family: Family) -> Mapping[bytes, bytes]:
        """What is live itself where just that is wanted, as nearly always at a restart: no list has another's keys."""
        live, all_slots = self._live.get(family, {}), self._slots[family]
        if all(slots.is_live for slots in all_slots) and sum(len(slots.endpoints) for slots in all_slots) == len(live):
            return live
        data: dict[bytes, bytes] = {}
        for slots in all_slots:
            data.update(slots.elements())
        return data

    def delta(self) -> Delta[EntryKey, Value]:
        """All are new."""
        return Delta(self.entries())


# What there was of a ServicePort that is new; whoever has no id has nothing that is changed.
_NOTHING_COMPILED = _Compiled()


class Compiler:
    """The desired entries of all families, and the ids, slots and endpoint indexes behind them.

    `live`: the entries in the kernel, from which ids, slots and endpoint indexes are adopted (empty: numbered
    canonically, in the order in which ServicePorts first come). `families`: those that get a table. `masquerade_bit`: 0
    to 31. `seed`: where new ids begin beside live ones, None: anywhere. `kept`: ids that are somebody's of whom nothing
    else is known: whoever takes over one of his frontends does not get his id, to which the others still lead.
    `base_chains`: each table's fixed part, once its family's node is known.
    """

    def __init__(
        self,
        families: tuple[Family, ...],
        masquerade_bit: int,
        live: Mapping[EntryKey, Value] | None = None,
        seed: int | None = None,
        kept: Collection[tuple[Family, int]] = (),
    ) -> None:
        self._families = families
        self._masquerade_bit = masquerade_bit
        self._compiled: dict[ServicePortKey, _Compiled] = {}
        self._nodes: dict[Family, Entries] = {family: {} for family in families}
        self._routing: dict[Family, NodeSettings] = {}
        # In order, for the sake of the first and the last.
        self._cluster_ips: dict[Family, list[bytes]] = {family: [] for family in families}
        # How many NodePorts there are in each block.
        self._nodeports: dict[Family, Counter[int]] = {family: Counter() for family in families}
        # How many service-ports are host ports.
        self._host_ports: Counter[Family] = Counter()
        # The families whose fixed part may be another one because of these.
        self._to_render: set[Family] = set()
        self.base_chains: dict[TableSpec, BaseChains] = {}
        self._shared: Counter[EntryKey] = Counter()
        # What is always there; the first update counts it in.
        self._usual = [key for family in families for key in _usual_chains(LAYOUTS[family])]
        self._adoptions = {
            family: _Adoption(LAYOUTS[family], live or {}, {number for of, number in kept if of is family})
            for family in families
        }
        self._is_new = True
        self._ids = {family: adoption.ids(seed) for family, adoption in self._adoptions.items()}

    def update(
        self,
        service_ports: Mapping[ServicePortKey, ServicePort | None],
        nodes: Mapping[Family, NodeSettings] | None = None,
    ) -> tuple[Delta[EntryKey, Value], dict[ServicePortKey, TargetError]]:
        """Takes changed ServicePorts (None: gone) and changed nodes; returns what changes in the entries.

        The first call takes all ServicePorts there are, and returns all entries; what is live is adopted then and not
        looked at again.
        A ServicePort that cannot be expressed keeps the entries it had, and is among the errors; the others are
        compiled.
        """
        changes = self._everything() if self._is_new else _Differing()
        errors: dict[ServicePortKey, TargetError] = {}
        needed, released = self._usual, list[EntryKey]()
        self._usual = []
        for key, service_port in service_ports.items():
            if key[1] not in self._nodes:
                continue
            old = self._compiled.pop(key, _NOTHING_COMPILED)
            try:
                new = self._compile(key, service_port, old.lists)
            except TargetError as error:
                errors[key] = error
                self._compiled[key] = old
                continue
            if service_port is not None:
                self._compiled[key] = new
            changes.note(key[1], old, new)
            if new.shared != old.shared:
                needed += new.shared
                released += old.shared
            self._count_node_wide(key[1], old, new)
        self._adoptions, self._is_new = {}, False
        if needed or released:
            touched = Counter(needed)
            touched.subtract(released)
            self._count_shared(touched, changes.before, changes.after)
        changed_nodes = {family: node for family, node in (nodes or {}).items() if family in self._nodes}
        self._routing |= changed_nodes
        if changed_nodes or self._to_render:
            self._render_changed(changed_nodes, changes.before, changes.after)
        return changes.delta(), errors

    def _everything(self) -> _Everything:
        return _Everything(self._families, {family: one.endpoints for family, one in self._adoptions.items()})

    def _render_changed(self, nodes: Mapping[Family, NodeSettings], before: Entries, after: Entries) -> None:
        """The fixed parts of nodes that changed, and of families in which something about all Services did."""
        for family, node in self._routing.items():
            if family not in nodes and family not in self._to_render:
                continue
            rendered = self._render(node)
            if family in nodes or rendered is not self.base_chains.get(LAYOUTS[family]):
                self.base_chains[LAYOUTS[family]] = rendered
                before |= self._nodes[family]
                self._nodes[family] = self._node_entries(node)
                after |= self._nodes[family]
        self._to_render.clear()

    def entries(self) -> AllEntries:
        everything, nothing = _Everything(self._families, {}), _Compiled()
        for node in self._nodes.values():
            everything.after |= node
        for (_, family), compiled in self._compiled.items():
            everything.note(family, nothing, compiled)
        for key, count in self._shared.items():
            if count:
                everything.after[key] = self._shared_value(key)
        return everything.entries()

    def service_port_entries(self, key: ServicePortKey) -> Entries:
        """The entries that a ServicePort needs: its own and shared ones. None for an unknown one."""
        compiled = self._compiled.get(key, _Compiled())
        shared = {entry: self._shared_value(entry) for entry in compiled.shared}
        return compiled.own(LAYOUTS[key[1]].endpoints) | shared

    def service_port_id(self, key: ServicePortKey) -> int:
        """The id of a ServicePort's service-port; 0 where it has no endpoints, or is unknown."""
        return self._compiled.get(key, _Compiled()).lists.id

    def names(self) -> dict[tuple[Family, int], str]:
        """The service-ports by family and id, as text."""
        return {
            (key[1], compiled.lists.id): str(key[0]) for key, compiled in self._compiled.items() if compiled.lists.id
        }

    def _count_shared(self, touched: Counter[EntryKey], before: Entries, after: Entries) -> None:
        if not self._shared:
            self._count_first(touched, after)
            return
        cluster_ips: dict[Family, list[bytes]] = {family: [] for family in self._nodes}
        for key, difference in touched.items():
            if not difference:
                continue
            count = self._shared.get(key, 0)
            self._shared[key] = count + difference
            if not count:
                after[key] = self._shared_value(key)
                if key[0].name == "cluster-ips":
                    cluster_ips[key[0].family].append(key[1])
            elif not count + difference:
                before[key] = self._shared_value(key)
                self._forget_shared(key)
        for family in filter(cluster_ips.get, cluster_ips):
            _insert(self._cluster_ips[family], cluster_ips[family])
            self._to_render.add(family)

    def _forget_shared(self, key: EntryKey) -> None:
        del self._shared[key]
        if key[0].name == "cluster-ips":
            self._to_render.add(key[0].family)
            addresses = self._cluster_ips[key[0].family]
            del addresses[bisect_left(addresses, key[1])]

    def _count_first(self, counts: Counter[EntryKey], after: Entries) -> None:
        """The same for the first time, when there are many and all are new."""
        self._shared = counts
        after.update((key, self._shared_value(key)) for key in counts)
        for family in self._cluster_ips:
            set_spec = LAYOUTS[family].cluster_ips
            self._cluster_ips[family] = sorted(key for of, key in counts if of is set_spec)
        self._to_render.update(self._cluster_ips)

    def _count_node_wide(self, family: Family, old: _Compiled, new: _Compiled) -> None:
        """What of a ServicePort the fixed part depends on."""
        if new.has_host_port != old.has_host_port:
            self._host_ports[family] += new.has_host_port - old.has_host_port
            self._to_render.add(family)
        if new.nodeport_block != old.nodeport_block:
            self._count_nodeport(family, old.nodeport_block, new.nodeport_block)
            self._to_render.add(family)

    def _count_nodeport(self, family: Family, before: int | None, after: int | None) -> None:
        blocks = self._nodeports[family]
        if after is not None:
            blocks[after] += 1
        if before is not None:
            blocks[before] -= 1
            if not blocks[before]:
                del blocks[before]

    def _render(self, node: NodeSettings) -> BaseChains:
        addresses = self._cluster_ips[node.family]
        ranges = base_chains.service_ranges(node.family, node.service_cidrs, tuple(addresses[:1] + addresses[-1:]))
        nodeports = base_chains.nodeport_range(self._nodeports[node.family].keys())
        return base_chains.render_base_chains(
            node, self._masquerade_bit, ranges, nodeports, host_ports=bool(self._host_ports[node.family])
        )

    @staticmethod
    def _shared_value(key: EntryKey) -> Value:
        set_spec, name = key
        if set_spec is LAYOUTS[set_spec.family].balancers:
            return Value(b"goto lb-%d" % unpack_register(name))
        if set_spec.is_chains:
            return Value(base_chains.balance_chain(set_spec.family, name.decode()).digest.encode())
        return _NOTHING

    def _node_entries(self, node: NodeSettings) -> Entries:
        layout = LAYOUTS[node.family]
        entries: Entries = {
            (layout.chains, name.encode()): Value(chain.digest.encode())
            for name, chain in self.base_chains[layout].chains.items()
        }
        for set_spec, chains in ((layout.kinds, KINDS), (layout.nodeport_kinds, NODEPORT_KINDS)):
            for kind, chain in chains.items():
                entries[set_spec, pack_register(SPECIAL | kind)] = Value(f"goto {chain}".encode())
        if self._host_ports[node.family]:
            entries[layout.kinds, pack_register(SPECIAL | Kind.HOST_PORT)] = Value(f"goto {HOST_PORT_CHAIN}".encode())
        for set_spec, cidrs in (
            (layout.nodeport_addresses, node.nodeport_addresses),
            (layout.service_cidrs, node.service_cidrs),
        ):
            for cidr in cidrs:
                entries[set_spec, b"".join(cidr_range(cidr))] = _NOTHING
        entries.update(((layout.hairpin, key), _NOTHING) for key in layout.hairpin.fixed)
        return entries

    # -- one ServicePort --

    def _compile(self, key: ServicePortKey, service_port: ServicePort | None, lists: _Lists) -> _Compiled:
        name, family = key
        ids = self._ids[family]
        if service_port is None or not _leads_anywhere(service_port):
            ids.free(lists.id)
            compiled = _Compiled()
        else:
            _check(service_port)
            if not lists.id:
                adoption = self._adoptions.get(family)
                lists = (adoption and adoption.lists(service_port)) or _Lists(ids.take(name))
            if service_port.affinity_timeout is not None and lists.slots and not lists.endpoint_indexes:
                # Affinity is new here; clients may be remembered from an earlier time, so the id must be new as well.
                ids.free(lists.id)
                lists = _Lists(ids.take(name))
            compiled = _Compiled(lists=lists)
        if service_port is not None:
            _ServicePortEntries(LAYOUTS[family], service_port, compiled).compile()
        return compiled


def _insert(ordered: list[bytes], new: list[bytes]) -> None:
    if len(new) > _FEW:
        ordered += new
        ordered.sort()
    else:
        for item in new:
            insort(ordered, item)


def _leads_anywhere(service_port: ServicePort) -> bool:
    """Whether packets reach a list through a frontend; not if the frontends that would use it belong to others (D2)."""
    return bool(service_port.cluster_endpoints or service_port.local_endpoints) and any(
        frontend.verdict is Verdict.BALANCE
        or (frontend.verdict is Verdict.DROP and frontend.kind is not FrontendKind.CLUSTER_IP)
        for frontend in service_port.frontends
    )


def _check(service_port: ServicePort) -> None:
    """Raises TargetError for what the layout has no room for."""
    if service_port.affinity_timeout is None:
        return
    endpoints = {
        (backend.address, backend.port)
        for backend in (*service_port.cluster_endpoints, *service_port.local_endpoints, *service_port.draining)
    }
    if len(endpoints) > MAX_ENDPOINT_INDEX:
        raise TargetError(
            f"{service_port.name.title}: session affinity over {len(endpoints)} endpoints; "
            f"the nftables target has room for {MAX_ENDPOINT_INDEX}"
        )


@cache
def _balancer(layout: Layout, slots: int) -> tuple[EntryKey, ...]:
    """What balancing over so many slots needs, whoever does it."""
    chain = (layout.chains, b"lb-%d" % slots)
    return (chain, (layout.balancers, pack_register(slots))) if slots <= MAX_COUNTED_SLOTS else (chain,)


def _usual_chains(layout: Layout) -> list[EntryKey]:
    """What any Service may need, and is there before the first does."""
    balancers = [key for slots in base_chains.USUAL_SLOTS for key in _balancer(layout, slots)]
    return [(layout.chains, b"pick-1"), *balancers]


def compile_ruleset(
    service_ports: Iterable[ServicePort],
    nodes: Mapping[Family, NodeSettings],
    masquerade_bit: int,
    live: Mapping[EntryKey, Value] | None = None,
) -> Compiler:
    """A Compiler of `service_ports` for the families of `nodes`. Raises TargetError, a line for each ServicePort."""
    compiler = Compiler(tuple(nodes), masquerade_bit, live)
    _, errors = compiler.update(
        {(service_port.name, service_port.family): service_port for service_port in service_ports}, nodes
    )
    if errors:
        raise TargetError("\n".join(map(str, errors.values())))
    return compiler


class _ServicePortEntries:
    """Fills a `_Compiled` from a ServicePort."""

    def __init__(self, layout: Layout, service_port: ServicePort, compiled: _Compiled) -> None:
        self._layout = layout
        self._service_port = service_port
        self._owned = compiled.owned
        self._shared = compiled.shared
        self._compiled = compiled
        self._lists = compiled.lists
        self._register = OURS | self._lists.id << ID_SHIFT
        self._protocol = PROTOCOL_BYTES[service_port.name.protocol]
        self._comment = safe_comment(str(service_port.name))

    def compile(self) -> None:
        if self._lists.id:
            self._compile_lists()
        for frontend in self._service_port.frontends:
            self._frontend(frontend)

    def _compile_lists(self) -> None:
        for list_bit, backends in (
            (0, self._service_port.cluster_endpoints),
            (LOCAL_LIST, self._service_port.local_endpoints),
        ):
            if not backends:
                self._lists.slots.pop(list_bit, None)
            elif self._service_port.affinity_timeout is None:
                self._balanced(list_bit, backends)
        if self._service_port.affinity_timeout is None:
            self._lists.endpoint_indexes.clear()
        else:
            self._sticky(self._service_port.affinity_timeout)

    # -- what clients connect to --

    def _frontend(self, frontend: Frontend) -> None:
        layout = self._layout
        self._compiled.has_host_port |= frontend.kind is FrontendKind.HOST_PORT
        key = self._protocol + pack_port(frontend.port)
        set_spec = layout.nodeports
        if not frontend.address:
            self._compiled.nodeport_block = frontend.port // base_chains.NODEPORT_BLOCK
        else:
            set_spec = layout.frontends
            address = address_bytes(layout.family, frontend.address)
            key = address + key
            if frontend.kind is FrontendKind.CLUSTER_IP:
                self._shared.append((layout.cluster_ips, address))
        low_bits = self._internal(frontend) if frontend.kind is FrontendKind.CLUSTER_IP else self._external(frontend)
        self._owned[set_spec, key] = Value(pack_register(self._register | low_bits), self._comment)
        for cidr in frontend.allowed_sources or ():
            first, last = cidr_range(cidr)
            self._owned[layout.source_ranges, key + first + key + last] = _NOTHING

    def _internal(self, frontend: Frontend) -> int:
        """The low bits of a ClusterIP's value: the number of slots of the list, as nearly always, or a kind."""
        if frontend.verdict is Verdict.REJECT:
            return SPECIAL | Kind.NO_ENDPOINTS
        if frontend.verdict is Verdict.DROP:
            return SPECIAL | Kind.INTERNAL_NONE_LOCAL
        if frontend.policy is TrafficPolicy.LOCAL:
            return SPECIAL | Kind.INTERNAL_LOCAL
        slots = len(self._lists.slots[0])
        is_counted = self._service_port.affinity_timeout is None and slots <= MAX_COUNTED_SLOTS
        return slots if is_counted else SPECIAL | Kind.INTERNAL_LISTED

    @staticmethod
    def _external(frontend: Frontend) -> int:
        """The same for the others: their number of slots stands in `slots`, where it may be missed without harm."""
        if frontend.kind is FrontendKind.HOST_PORT:
            return SPECIAL | Kind.HOST_PORT
        restricted = 0 if frontend.allowed_sources is None else RESTRICTED
        if frontend.verdict is Verdict.REJECT:
            kind = Kind.NO_ENDPOINTS
        elif frontend.policy is TrafficPolicy.CLUSTER:
            kind = Kind.EXTERNAL
        else:
            kind = Kind.EXTERNAL_NONE_LOCAL if frontend.verdict is Verdict.DROP else Kind.EXTERNAL_LOCAL
        return SPECIAL | restricted | kind

    # -- where packets go --

    def _endpoint(self, backend: Backend) -> bytes:
        return address_bytes(self._layout.family, backend.address) + pack_port(backend.port)

    def _slots(self, list_bit: int, backends: tuple[Backend, ...]) -> list[bytes]:
        """The endpoints of a list, slot by slot."""
        counts = slot_counts([backend.weight for backend in backends])
        family = ADDRESS_FAMILIES[self._layout.family]
        endpoints = [inet_pton(family, backend.address) + pack_port(backend.port) for backend in backends]
        wanted = dict(zip(endpoints, counts, strict=True))
        slots = assign_slots(self._lists.slots.get(list_bit, ()), wanted)
        self._lists.slots[list_bit] = slots
        return slots

    def _balanced(self, list_bit: int, backends: tuple[Backend, ...]) -> None:
        layout = self._layout
        slots = self._slots(list_bit, backends)
        register = pack_register(self._register | list_bit)
        prefix = register + self._protocol
        is_live = slots == self._lists.whole.pop(list_bit, None)
        self._compiled.slots += (_Slots(prefix, slots, is_live),)
        if len(slots) > MAX_COUNTED_SLOTS:
            self._owned[layout.lists, register] = Value(b"goto lb-%d" % len(slots))
        elif list_bit or any(frontend.kind is not FrontendKind.CLUSTER_IP for frontend in self._service_port.frontends):
            self._owned[layout.slots, register] = Value(pack_register(self._register | list_bit | len(slots)))
        self._shared += _balancer(layout, len(slots))

    def _sticky(self, timeout: int) -> None:
        layout, service_port = self._layout, self._service_port
        self._assign_endpoint_indexes()
        for list_bit, backends, endpoints, chain in (
            (0, service_port.cluster_endpoints, layout.sticky_endpoints, b"sticky-%d" % timeout),
            (LOCAL_LIST, service_port.local_endpoints, layout.sticky_local_endpoints, b"sticky-local-%d" % timeout),
        ):
            if not backends:
                continue
            register = pack_register(self._register | list_bit)
            slots = self._slots(list_bit, backends)
            for slot, endpoint in zip(_slot_bytes(len(slots)), slots, strict=True):
                self._owned[layout.endpoint_indexes, register + slot] = Value(self._endpoint_index(endpoint))
            first = layout.endpoint_indexes, register + _SLOT_BYTES[0]
            self._owned[first] = Value(self._endpoint_index(slots[0]), f"last index {self._lists.last_endpoint_index}")
            draining = (backend for backend in service_port.draining if backend.local or not list_bit)
            for backend in (*backends, *draining):
                endpoint = self._endpoint(backend)
                self._owned[endpoints, self._endpoint_index(endpoint) + self._protocol] = Value(endpoint)
            pick = b"pick-%d" % len(slots)
            self._owned[layout.sticky_lists, register] = Value(b"jump " + pick)
            self._owned[layout.lists, register] = Value(b"goto " + chain)
            self._shared += ((layout.chains, pick), (layout.chains, chain))

    def _endpoint_index(self, endpoint: bytes) -> bytes:
        return pack_register(self._register | self._lists.endpoint_indexes[endpoint])

    def _assign_endpoint_indexes(self) -> None:
        """Endpoints keep their endpoint indexes; new ones get numbers that were not in use for as long as possible.

        A record of an endpoint that left names its endpoint index until it expires (SVC-58). The last number given out
        stands in the comment of slot 0, so that it survives a restart.
        """
        service_port, lists = self._service_port, self._lists
        wanted = dict.fromkeys(
            self._endpoint(backend)
            for backend in (*service_port.cluster_endpoints, *service_port.local_endpoints, *service_port.draining)
        )
        lists.endpoint_indexes = {
            endpoint: endpoint_index
            for endpoint, endpoint_index in lists.endpoint_indexes.items()
            if endpoint in wanted
        }
        used = set(lists.endpoint_indexes.values())
        for endpoint in wanted:
            if endpoint not in lists.endpoint_indexes:
                endpoint_index = lists.last_endpoint_index % MAX_ENDPOINT_INDEX + 1
                while endpoint_index in used:
                    endpoint_index = endpoint_index % MAX_ENDPOINT_INDEX + 1
                used.add(endpoint_index)
                lists.endpoint_indexes[endpoint] = lists.last_endpoint_index = endpoint_index


class _Ids:
    """The ids of one family's service-ports. A number comes back into use as late as possible.

    A packet may meet a lookup of one generation and the next of another, and the kernel may still remember clients by a
    number; given on at once it could take them to another Service.
    """

    def __init__(self, used: set[int], last: int) -> None:
        self._used = used
        self._last = last

    def take(self, name: ServicePortName) -> int:
        if len(self._used) >= MAX_ID:
            raise TargetError(f"{name.title}: nftables has room for {MAX_ID} service-ports in each IP family")
        number = self._last % MAX_ID + 1
        while number in self._used:
            number = number % MAX_ID + 1
        self._used.add(number)
        self._last = number
        return number

    def free(self, number: int) -> None:
        self._used.discard(number)


def _endpoints_of(service_port: ServicePort) -> frozenset[bytes]:
    return frozenset(
        address_bytes(service_port.family, backend.address) + pack_port(backend.port)
        for backend in (*service_port.cluster_endpoints, *service_port.local_endpoints, *service_port.draining)
    )


class _Adoption:
    """What the live entries of a family say of ids, slots and endpoint indexes."""

    def __init__(self, layout: Layout, live: Mapping[EntryKey, Value], taken: set[int]) -> None:
        """`taken`: ids that nobody adopts."""
        self._layout = layout
        self._is_loaded = (layout.chains, b"prerouting") in live
        self._frontends = (layout.frontends, layout.nodeports)
        self._lists = (layout.slots, layout.lists)
        self._entries: dict[SetSpec, dict[bytes, Value]] = {
            set_spec: {} for set_spec in (*self._frontends, *self._lists)
        }
        self._taken = taken
        self.endpoints: Mapping[bytes, bytes] = {}
        # The endpoint indexes in slots, by the keys of these.
        self._sticky_slots: dict[bytes, bytes] = {}
        # By id.
        self._endpoint_indexes: dict[int, dict[bytes, int]] = {}
        self._last_endpoint_indexes: dict[int, int] = {}
        self._is_empty = not live
        self._index(live)

    def _index(self, live: Mapping[EntryKey, Value]) -> None:
        parts = parts_of(live)
        small, endpoints = parts.get(None, {}), parts.get(self._layout.endpoints, {})
        if isinstance(endpoints, PlainElements):
            self.endpoints = endpoints.data
        else:
            # From a file, or with comments that somebody has made.
            entries = (entry for part in (small, endpoints) for entry in part.items())
            self.endpoints = {key: value.data for (of, key), value in entries if of is self._layout.endpoints}
        self._index_small(small)

    def _index_small(self, live: Mapping[EntryKey, Value]) -> None:
        sticky = {self._layout.sticky_endpoints, self._layout.sticky_local_endpoints}
        # By id.
        by_index: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        for (set_spec, key), value in live.items():
            if set_spec is self._layout.endpoint_indexes:
                self._sticky_slots[key] = value.data
                if value.comment and (last := _LAST_ENDPOINT_INDEX.fullmatch(value.comment)):
                    self._last_endpoint_indexes[id_of(key)] = int(last[1])
            elif set_spec in sticky:
                # The two maps may disagree, when somebody has changed one: an endpoint index is one endpoint's alone.
                by_index[id_of(key)].setdefault(unpack_register(key) & MAX_ENDPOINT_INDEX, value.data)
            elif (entries := self._entries.get(set_spec)) is not None:
                entries[key] = value
        self._endpoint_indexes = {
            number: {endpoint: index for index, endpoint in found.items()} for number, found in by_index.items()
        }

    def ids(self, seed: int | None) -> _Ids:
        """The ids of the family.

        Nobody knows which were in use before in a table that is there, so they go on anywhere, or from `seed` on.
        """
        start = secrets.randbelow(MAX_ID) if seed is None else seed % MAX_ID
        return _Ids(self._used_ids(), start if self._is_loaded else 0)

    def _used_ids(self) -> set[int]:
        """Those that a frontend leads to, and those of lists and endpoints that are there."""
        used = set(map(id_of, {key[:_REGISTER_LENGTH] for part in self._numbered for key in part}))
        for set_spec in self._lists:
            used.update(map(id_of, self._entries[set_spec]))
        return (used | self._led_to()) - {0}

    @property
    def _numbered(self) -> tuple[Mapping[bytes, bytes], Mapping[bytes, bytes]]:
        """What stands in slots: keys begin with a list's register, and end with the number of a slot."""
        return self.endpoints, self._sticky_slots

    @cached_property
    def _slots(self) -> Mapping[int, Mapping[int, bytes]]:
        """The same by the register of a list, then by slot."""
        slots: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        for part in self._numbered:
            for key, data in part.items():
                register, slot = _FIRST_AND_LAST[len(key)].unpack(key)
                slots[register][slot] = data
        return slots

    def _led_to(self) -> set[int]:
        return {id_of(value.data) for set_spec in self._frontends for value in self._entries[set_spec].values()}

    def lists(self, service_port: ServicePort) -> _Lists | None:
        """What is live for a ServicePort: of the id of its first frontend with one, unless another has it.

        Where no frontend is left, because somebody removed them, of an id without any that has the same endpoints.
        """
        if self._is_empty:
            return None
        for number in self._live_ids(service_port) or self._orphans.get(_endpoints_of(service_port), []):
            if number and number not in self._taken:
                self._taken.add(number)
                return self._adopt(number, service_port)
        return None

    @cached_property
    def _orphans(self) -> dict[frozenset[bytes], list[int]]:
        """The ids that no live frontend leads to, by their endpoints."""
        led_to = self._led_to()
        endpoints: dict[int, set[bytes]] = {}
        for register, slots in self._slots.items():
            number = register >> ID_SHIFT & MAX_ID
            if number not in led_to:
                endpoints.setdefault(number, set()).update(self._endpoint_indexes.get(number) or slots.values())
        orphans: dict[frozenset[bytes], list[int]] = {}
        for number, found in sorted(endpoints.items(), key=itemgetter(0)):
            orphans.setdefault(frozenset(found), []).append(number)
        return orphans

    def _live_ids(self, service_port: ServicePort) -> list[int]:
        protocol = PROTOCOL_BYTES[service_port.name.protocol]
        found = []
        for frontend in service_port.frontends:
            key = protocol + pack_port(frontend.port)
            set_spec = self._layout.nodeports
            if frontend.address:
                set_spec = self._layout.frontends
                key = address_bytes(service_port.family, frontend.address) + key
            value = self._entries[set_spec].get(key)
            if value is not None:
                found.append(id_of(value.data))
        return found

    def _adopt(self, number: int, service_port: ServicePort) -> _Lists:
        lists = _Lists(number)
        lists.endpoint_indexes = dict(self._endpoint_indexes.get(number, {}))
        lists.last_endpoint_index = self._last_endpoint_indexes.get(
            number, max(lists.endpoint_indexes.values(), default=0)
        )
        base = OURS | number << ID_SHIFT
        endpoints = {base | endpoint_index: endpoint for endpoint, endpoint_index in lists.endpoint_indexes.items()}
        protocol = PROTOCOL_BYTES[service_port.name.protocol]
        for list_bit, backends in ((0, service_port.cluster_endpoints), (LOCAL_LIST, service_port.local_endpoints)):
            whole = None if endpoints else self._whole_list(pack_register(base | list_bit) + protocol, len(backends))
            if whole is not None:
                if whole:
                    lists.slots[list_bit] = lists.whole[list_bit] = whole
            elif slots := self._slots.get(base | list_bit):
                found = [slots.get(slot) for slot in range(min(max(slots), MAX_SLOTS) + 1)]
                if lists.endpoint_indexes:
                    found = [endpoints.get(unpack_register(data)) if data else None for data in found]
                lists.slots[list_bit] = found
        return lists

    def _whole_list(self, prefix: bytes, count: int) -> list[bytes] | None:
        """The list whose keys begin so if it has just so many slots, as nearly always: that is seen much faster."""
        *numbers, after = _slot_bytes(count + 1)
        found = list(map(self.endpoints.get, map(prefix.__add__, numbers)))
        return None if None in found or prefix + after in self.endpoints else found  # type: ignore[return-value]
