"""Routes become entries, one Route at a time.

In: Routes as routing changes them, and, once, the live entries, whose ids, slots and handles are kept where they can
be. Out: the entries that a Route owns, and Deltas between what it owned and what it owns now. The cost of a change is
that of its Routes. Never reads the kernel, never raises for a Route that it has compiled before.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from operator import itemgetter
from struct import Struct
from typing import TypeAlias

from rulegen.claims import ID_SHIFT, MAX_ID, OURS
from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.nftables import program
from rulegen.nftables.layout import (
    KINDS,
    LAYOUTS,
    LOCAL_LIST,
    MAX_COUNTED_SLOTS,
    MAX_HANDLE,
    NODEPORT_KINDS,
    PROTOCOL_BYTES,
    RESTRICTED,
    SAME_BYTES,
    SPECIAL,
    Container,
    EntryKey,
    Kind,
    Layout,
    Value,
    address_bytes,
    cidr_range,
    id_of,
    pack_port,
    pack_register,
    safe_comment,
    unpack_register,
)
from rulegen.nftables.slots import MAX_SLOTS, assign_slots, slot_counts
from rulegen.routing.model import (
    Backend,
    Frontend,
    FrontendKind,
    NodeRouting,
    Route,
    RouteKey,
    ServicePortName,
    TrafficPolicy,
    Verdict,
)
from rulegen.ruleset import Delta, diff

Entries: TypeAlias = dict[EntryKey, Value]

_NOTHING = Value()
_LAST_HANDLE = re.compile(r"last handle (\d{1,4})")
# So many are put into an ordered list one by one; more at once.
_FEW = 64
# A key that begins with a list's register and ends with the number of a slot, by its length.
_FIRST_AND_LAST = {8: Struct("=II"), 12: Struct("=I4xI")}
_SLOT_BYTES = [pack_register(slot) for slot in range(256)]


def _slot_bytes(slot: int) -> bytes:
    return _SLOT_BYTES[slot] if slot < 256 else pack_register(slot)


@dataclass(slots=True)
class _Lists:
    """What a Route was given that outlives a recompilation: its id, the slots of both lists, its endpoints' handles."""

    id: int = 0
    slots: dict[int, Sequence[bytes | None]] = field(default_factory=dict)
    handles: dict[bytes, int] = field(default_factory=dict)
    last_handle: int = 0


@dataclass(slots=True)
class _Compiled:
    """A Route's entries: its own, and those that other Routes may need as well."""

    owned: Entries = field(default_factory=dict)
    shared: list[EntryKey] = field(default_factory=list)
    lists: _Lists = field(default_factory=_Lists)
    nodeport_block: int | None = None


class Compiler:
    """The desired entries of all families, and the ids, slots and handles behind them.

    `live`: the entries in the kernel, from which ids, slots and handles are adopted (empty: numbered canonically, in
    the order in which Routes first come). `families`: those that get a table. `masquerade_bit`: 0 to 31. `programs`:
    each family's program, once its node is known.
    """

    def __init__(
        self, families: tuple[Family, ...], masquerade_bit: int, live: Mapping[EntryKey, Value] | None = None
    ) -> None:
        """Compiles nothing yet."""
        self._families = families
        self._masquerade_bit = masquerade_bit
        self._compiled: dict[RouteKey, _Compiled] = {}
        self._nodes: dict[Family, Entries] = {family: {} for family in families}
        self._routing: dict[Family, NodeRouting] = {}
        # In order, for the sake of the first and the last.
        self._cluster_ips: dict[Family, list[bytes]] = {family: [] for family in families}
        # How many NodePorts there are in each block.
        self._nodeports: dict[Family, Counter[int]] = {family: Counter() for family in families}
        self.programs: dict[Family, program.Program] = {}
        self._shared: Counter[EntryKey] = Counter()
        # What is always there; the first update counts it in.
        self._usual = [key for family in families for key in _usual_chains(LAYOUTS[family])]
        self._adoptions = {family: _Adoption(LAYOUTS[family], live or {}) for family in families}
        self._ids = {family: adoption.ids() for family, adoption in self._adoptions.items()}

    def update(
        self, routes: Mapping[RouteKey, Route | None], nodes: Mapping[Family, NodeRouting] | None = None
    ) -> tuple[Delta[EntryKey, Value], dict[RouteKey, TargetError]]:
        """Takes changed Routes (None: gone) and changed nodes; returns what changes in the entries.

        The first call takes all Routes there are, and returns all entries; what is live is adopted then and not looked
        at again.
        A Route that cannot be expressed keeps the entries it had, and is among the errors; the others are compiled.
        """
        before: Entries = {}
        after: Entries = {}
        errors: dict[RouteKey, TargetError] = {}
        touched = Counter(self._usual)
        self._usual = []
        for key, route in routes.items():
            if key[1] not in self._nodes:
                continue
            old = self._compiled.pop(key, None) or _Compiled()
            try:
                new = self._compile(key, route, old.lists)
            except TargetError as error:
                errors[key] = error
                self._compiled[key] = old
                continue
            if route is not None:
                self._compiled[key] = new
            before |= old.owned
            after |= new.owned
            touched.update(new.shared)
            if old.shared:
                touched.subtract(old.shared)
            if old.nodeport_block != new.nodeport_block:
                self._count_nodeport(key[1], old.nodeport_block, new.nodeport_block)
        self._adoptions = {}
        self._count_shared(touched, before, after)
        changed_nodes = {family: node for family, node in (nodes or {}).items() if family in self._nodes}
        self._routing |= changed_nodes
        for family, node in self._routing.items():
            rendered = self._render(node)
            if family in changed_nodes or rendered is not self.programs.get(family):
                self.programs[family] = rendered
                before |= self._nodes[family]
                self._nodes[family] = self._node_entries(node)
                after |= self._nodes[family]
        return diff(before, after), errors

    def entries(self) -> Entries:
        """All desired entries."""
        entries: Entries = {}
        for node in self._nodes.values():
            entries |= node
        for compiled in self._compiled.values():
            entries |= compiled.owned
        for key, count in self._shared.items():
            if count:
                entries[key] = self._shared_value(key)
        return entries

    def route_entries(self, key: RouteKey) -> Entries:
        """The entries that a Route needs: its own, and those that it shares with others. None for an unknown one."""
        compiled = self._compiled.get(key, _Compiled())
        return compiled.owned | {shared: self._shared_value(shared) for shared in compiled.shared}

    def route_id(self, key: RouteKey) -> int:
        """The id of a Route's service-port; 0 where it has no endpoints, or is unknown."""
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
        for family, new in cluster_ips.items():
            _insert(self._cluster_ips[family], new)

    def _forget_shared(self, key: EntryKey) -> None:
        del self._shared[key]
        if key[0].name == "cluster-ips":
            addresses = self._cluster_ips[key[0].family]
            del addresses[bisect_left(addresses, key[1])]

    def _count_first(self, counts: Counter[EntryKey], after: Entries) -> None:
        """The same for the first time, when there are many and all are new."""
        self._shared = counts
        after.update((key, self._shared_value(key)) for key in counts)
        for family in self._cluster_ips:
            container = LAYOUTS[family].cluster_ips
            self._cluster_ips[family] = sorted(key for of, key in counts if of is container)

    def _count_nodeport(self, family: Family, before: int | None, after: int | None) -> None:
        blocks = self._nodeports[family]
        if after is not None:
            blocks[after] += 1
        if before is not None:
            blocks[before] -= 1
            if not blocks[before]:
                del blocks[before]

    def _render(self, node: NodeRouting) -> program.Program:
        addresses = self._cluster_ips[node.family]
        ranges = program.service_ranges(node.family, node.service_cidrs, tuple(addresses[:1] + addresses[-1:]))
        nodeports = program.nodeport_range(self._nodeports[node.family].keys())
        return program.render_program(node, self._masquerade_bit, ranges, nodeports)

    @staticmethod
    def _shared_value(key: EntryKey) -> Value:
        container, name = key
        if container is LAYOUTS[container.family].balancers:
            return Value(b"goto lb-%d" % unpack_register(name))
        if container.is_chains:
            return Value(program.balance_chain(container.family, name.decode()).digest.encode())
        return _NOTHING

    def _node_entries(self, node: NodeRouting) -> Entries:
        layout = LAYOUTS[node.family]
        entries: Entries = {
            (layout.chains, name.encode()): Value(chain.digest.encode())
            for name, chain in self.programs[node.family].chains.items()
        }
        for container, chains in ((layout.kinds, KINDS), (layout.nodeport_kinds, NODEPORT_KINDS)):
            for kind, chain in chains.items():
                entries[container, pack_register(SPECIAL | kind)] = Value(f"goto {chain}".encode())
        for container, cidrs in (
            (layout.nodeport_addresses, node.nodeport_addresses),
            (layout.service_cidrs, node.service_cidrs),
        ):
            for cidr in cidrs:
                entries[container, b"".join(cidr_range(cidr))] = _NOTHING
        entries.update(((layout.hairpin, key), _NOTHING) for key in SAME_BYTES)
        return entries

    # -- one Route --

    def _compile(self, key: RouteKey, route: Route | None, lists: _Lists) -> _Compiled:
        name, family = key
        ids = self._ids[family]
        if route is None or not _leads_anywhere(route):
            ids.free(lists.id)
            compiled = _Compiled()
        else:
            _check(route)
            if not lists.id:
                adoption = self._adoptions.get(family)
                lists = (adoption and adoption.lists(route)) or _Lists(ids.take(name))
            if route.affinity_timeout is not None and lists.slots and not lists.handles:
                # Affinity is new here; clients may be remembered from an earlier time, so the id must be new as well.
                ids.free(lists.id)
                lists = _Lists(ids.take(name))
            compiled = _Compiled(lists=lists)
        if route is not None:
            _RouteEntries(LAYOUTS[family], route, compiled).compile()
        return compiled


def _insert(ordered: list[bytes], new: list[bytes]) -> None:
    if len(new) > _FEW:
        ordered += new
        ordered.sort()
    else:
        for item in new:
            insort(ordered, item)


def _leads_anywhere(route: Route) -> bool:
    """Whether packets reach a list through a frontend; not if the frontends that would use it belong to others (D2)."""
    return bool(route.cluster or route.local) and any(
        frontend.verdict is Verdict.BALANCE
        or (frontend.verdict is Verdict.DROP and frontend.kind is not FrontendKind.CLUSTER_IP)
        for frontend in route.frontends
    )


def _check(route: Route) -> None:
    """Raises TargetError for what the layout has no room for."""
    endpoints = {(backend.address, backend.port) for backend in (*route.cluster, *route.local, *route.draining)}
    if route.affinity_timeout is not None and len(endpoints) > MAX_HANDLE:
        raise TargetError(
            f"Service {route.name}: session affinity over {len(endpoints)} endpoints; "
            f"the nftables target has room for {MAX_HANDLE}"
        )


@cache
def _balancer(layout: Layout, slots: int) -> tuple[EntryKey, ...]:
    """What balancing over so many slots needs, whoever does it."""
    chain = (layout.chains, b"lb-%d" % slots)
    return (chain, (layout.balancers, pack_register(slots))) if slots <= MAX_COUNTED_SLOTS else (chain,)


def _usual_chains(layout: Layout) -> list[EntryKey]:
    """What any Service may need, and is there before the first does."""
    balancers = [key for slots in program.USUAL_SLOTS for key in _balancer(layout, slots)]
    return [(layout.chains, b"pick-1"), *balancers]


def compile_ruleset(
    routes: Iterable[Route],
    nodes: Mapping[Family, NodeRouting],
    masquerade_bit: int,
    live: Mapping[EntryKey, Value] | None = None,
) -> Compiler:
    """A Compiler that has compiled `routes` for the families of `nodes`. Raises TargetError, a line for each Route."""
    compiler = Compiler(tuple(nodes), masquerade_bit, live)
    _, errors = compiler.update({(route.name, route.family): route for route in routes}, nodes)
    if errors:
        raise TargetError("\n".join(map(str, errors.values())))
    return compiler


class _RouteEntries:
    """Fills a `_Compiled` from a Route."""

    def __init__(self, layout: Layout, route: Route, compiled: _Compiled) -> None:
        self._layout = layout
        self._route = route
        self._owned = compiled.owned
        self._shared = compiled.shared
        self._compiled = compiled
        self._lists = compiled.lists
        self._register = OURS | self._lists.id << ID_SHIFT
        self._protocol = PROTOCOL_BYTES[route.name.protocol]
        self._comment = safe_comment(str(route.name))
        self._addresses = {
            backend.address: address_bytes(layout.family, backend.address)
            for backend in (*route.cluster, *route.local, *route.draining)
        }

    def compile(self) -> None:
        if self._lists.id:
            self._compile_lists()
        for frontend in self._route.frontends:
            self._frontend(frontend)

    def _compile_lists(self) -> None:
        for list_bit, backends in ((0, self._route.cluster), (LOCAL_LIST, self._route.local)):
            if not backends:
                self._lists.slots.pop(list_bit, None)
            elif self._route.affinity_timeout is None:
                self._balanced(list_bit, backends)
        if self._route.affinity_timeout is None:
            self._lists.handles.clear()
        else:
            self._sticky(self._route.affinity_timeout)

    # -- what clients connect to --

    def _frontend(self, frontend: Frontend) -> None:
        layout = self._layout
        key = self._protocol + pack_port(frontend.port)
        low_bits = self._external(frontend)
        container = layout.nodeports
        if frontend.kind is FrontendKind.NODE_PORT:
            self._compiled.nodeport_block = frontend.port // program.NODEPORT_BLOCK
        else:
            container = layout.frontends
            address = address_bytes(layout.family, frontend.address)
            key = address + key
            if frontend.kind is FrontendKind.CLUSTER_IP:
                self._shared.append((layout.cluster_ips, address))
                low_bits = self._internal(frontend)
        self._owned[container, key] = Value(pack_register(self._register | low_bits), self._comment)
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
        is_counted = self._route.affinity_timeout is None and slots <= MAX_COUNTED_SLOTS
        return slots if is_counted else SPECIAL | Kind.INTERNAL_LISTED

    @staticmethod
    def _external(frontend: Frontend) -> int:
        """The same for the others: their number of slots stands in `slots`, where it may be missed without harm."""
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
        return self._addresses[backend.address] + pack_port(backend.port)

    def _slots(self, list_bit: int, backends: tuple[Backend, ...]) -> list[bytes]:
        """The endpoints of a list, slot by slot."""
        counts = slot_counts([backend.weight for backend in backends])
        wanted = {self._endpoint(backend): count for backend, count in zip(backends, counts, strict=True)}
        slots = assign_slots(self._lists.slots.get(list_bit, ()), wanted)
        self._lists.slots[list_bit] = slots
        return slots

    def _balanced(self, list_bit: int, backends: tuple[Backend, ...]) -> None:
        layout = self._layout
        slots = self._slots(list_bit, backends)
        register = pack_register(self._register | list_bit)
        prefix = register + self._protocol
        for slot, endpoint in enumerate(slots):
            self._owned[layout.endpoints, prefix + _slot_bytes(slot)] = Value(endpoint)
        if len(slots) > MAX_COUNTED_SLOTS:
            self._owned[layout.lists, register] = Value(b"goto lb-%d" % len(slots))
        elif list_bit or any(frontend.kind is not FrontendKind.CLUSTER_IP for frontend in self._route.frontends):
            self._owned[layout.slots, register] = Value(pack_register(self._register | list_bit | len(slots)))
        self._shared += _balancer(layout, len(slots))

    def _sticky(self, timeout: int) -> None:
        layout, route = self._layout, self._route
        self._assign_handles()
        for list_bit, backends, endpoints, chain in (
            (0, route.cluster, layout.sticky_endpoints, b"sticky-%d" % timeout),
            (LOCAL_LIST, route.local, layout.sticky_local_endpoints, b"sticky-local-%d" % timeout),
        ):
            if not backends:
                continue
            register = pack_register(self._register | list_bit)
            slots = self._slots(list_bit, backends)
            for slot, endpoint in enumerate(slots):
                comment = "" if slot else f"last handle {self._lists.last_handle}"
                self._owned[layout.handles, register + _slot_bytes(slot)] = Value(self._handle(endpoint), comment)
            draining = (backend for backend in route.draining if backend.local or not list_bit)
            for backend in (*backends, *draining):
                endpoint = self._endpoint(backend)
                self._owned[endpoints, self._handle(endpoint) + self._protocol] = Value(endpoint)
            pick = b"pick-%d" % len(slots)
            self._owned[layout.sticky_lists, register] = Value(b"jump " + pick)
            self._owned[layout.lists, register] = Value(b"goto " + chain)
            self._shared += ((layout.chains, pick), (layout.chains, chain))

    def _handle(self, endpoint: bytes) -> bytes:
        return pack_register(self._register | self._lists.handles[endpoint])

    def _assign_handles(self) -> None:
        """Endpoints keep their handles; new ones get numbers that were not in use for as long as possible.

        A record of an endpoint that left names its handle until it expires (rule 58). The last number given out stands
        in the comment of slot 0, so that it survives a restart.
        """
        route, lists = self._route, self._lists
        wanted = dict.fromkeys(self._endpoint(backend) for backend in (*route.cluster, *route.local, *route.draining))
        lists.handles = {endpoint: handle for endpoint, handle in lists.handles.items() if endpoint in wanted}
        used = set(lists.handles.values())
        for endpoint in wanted:
            if endpoint not in lists.handles:
                handle = lists.last_handle % MAX_HANDLE + 1
                while handle in used:
                    handle = handle % MAX_HANDLE + 1
                used.add(handle)
                lists.handles[endpoint] = lists.last_handle = handle


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
            raise TargetError(f"Service {name}: nftables has room for {MAX_ID} service-ports in each IP family")
        number = self._last % MAX_ID + 1
        while number in self._used:
            number = number % MAX_ID + 1
        self._used.add(number)
        self._last = number
        return number

    def free(self, number: int) -> None:
        self._used.discard(number)


def _endpoints_of(route: Route) -> frozenset[bytes]:
    return frozenset(
        address_bytes(route.family, backend.address) + pack_port(backend.port)
        for backend in (*route.cluster, *route.local, *route.draining)
    )


class _Adoption:
    """What the live entries of a family say of ids, slots and handles."""

    def __init__(self, layout: Layout, live: Mapping[EntryKey, Value]) -> None:
        self._layout = layout
        self._is_loaded = (layout.chains, b"prerouting") in live
        self._frontends = (layout.frontends, layout.nodeports)
        self._lists = (layout.slots, layout.lists)
        self._entries: dict[Container, dict[bytes, Value]] = {
            container: {} for container in (*self._frontends, *self._lists)
        }
        self._taken: set[int] = set()
        # By the register of a list; by id.
        self._slots: dict[int, dict[int, bytes]] = {}
        self._handles: dict[int, dict[bytes, int]] = {}
        self._last_handles: dict[int, int] = {}
        self._is_empty = not live
        self._index(live)

    def _index(self, live: Mapping[EntryKey, Value]) -> None:
        numbered = {self._layout.endpoints, self._layout.handles}
        sticky = {self._layout.sticky_endpoints, self._layout.sticky_local_endpoints}
        for (container, key), value in live.items():
            if container in numbered:
                register, slot = _FIRST_AND_LAST[len(key)].unpack(key)
                self._slots.setdefault(register, {})[slot] = value.data
                if value.comment and (last := _LAST_HANDLE.fullmatch(value.comment)):
                    self._last_handles[id_of(key)] = int(last[1])
            elif container in sticky:
                self._handles.setdefault(id_of(key), {})[value.data] = unpack_register(key) & MAX_HANDLE
            elif (entries := self._entries.get(container)) is not None:
                entries[key] = value

    def ids(self) -> _Ids:
        """The ids of the family.

        Nobody knows which were in use before in a table that is there, so they go on anywhere.
        """
        return _Ids(self._used_ids(), secrets.randbelow(MAX_ID) if self._is_loaded else 0)

    def _used_ids(self) -> set[int]:
        """Those that a frontend leads to, and those of lists and endpoints that are there."""
        used = {register >> ID_SHIFT & MAX_ID for register in self._slots}
        for container in self._lists:
            used.update(map(id_of, self._entries[container]))
        return (used | self._led_to()) - {0}

    def _led_to(self) -> set[int]:
        return {id_of(value.data) for container in self._frontends for value in self._entries[container].values()}

    def lists(self, route: Route) -> _Lists | None:
        """What is live for a Route: of the id that its first frontend with one has, unless another Route has it.

        Where no frontend is left, because somebody removed them, of an id without any that has the same endpoints.
        """
        if self._is_empty:
            return None
        for number in self._live_ids(route) or self._orphans.get(_endpoints_of(route), []):
            if number and number not in self._taken:
                self._taken.add(number)
                return self._adopt(number)
        return None

    @cached_property
    def _orphans(self) -> dict[frozenset[bytes], list[int]]:
        """The ids that no live frontend leads to, by their endpoints."""
        led_to = self._led_to()
        endpoints: dict[int, set[bytes]] = {}
        for register, slots in self._slots.items():
            number = register >> ID_SHIFT & MAX_ID
            if number not in led_to:
                endpoints.setdefault(number, set()).update(self._handles.get(number) or slots.values())
        orphans: dict[frozenset[bytes], list[int]] = {}
        for number, found in sorted(endpoints.items(), key=itemgetter(0)):
            orphans.setdefault(frozenset(found), []).append(number)
        return orphans

    def _live_ids(self, route: Route) -> list[int]:
        protocol = PROTOCOL_BYTES[route.name.protocol]
        found = []
        for frontend in route.frontends:
            key = protocol + pack_port(frontend.port)
            container = self._layout.nodeports
            if frontend.address:
                container = self._layout.frontends
                key = address_bytes(route.family, frontend.address) + key
            value = self._entries[container].get(key)
            if value is not None:
                found.append(id_of(value.data))
        return found

    def _adopt(self, number: int) -> _Lists:
        lists = _Lists(number)
        lists.handles = dict(self._handles.get(number, {}))
        lists.last_handle = self._last_handles.get(number, max(lists.handles.values(), default=0))
        base = OURS | number << ID_SHIFT
        endpoints = {base | handle: endpoint for endpoint, handle in lists.handles.items()}
        for list_bit in (0, LOCAL_LIST):
            slots = self._slots.get(base | list_bit)
            if slots:
                found = [slots.get(slot) for slot in range(min(max(slots), MAX_SLOTS) + 1)]
                if lists.handles:
                    found = [endpoints.get(unpack_register(data)) if data else None for data in found]
                lists.slots[list_bit] = found
        return lists
