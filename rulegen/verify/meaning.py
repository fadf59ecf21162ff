"""What service-ports say of sets of packets: ServicePorts and a Region come in, Endings as rules have them go out.

Written from docs/service-proxy.md, by number, without a look at any rule. It follows the same sets of packets as the
evaluator, so that both can be compared class by class.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from fractions import Fraction
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from rulegen.config import Cidr
from rulegen.config import Family as RouteFamily
from rulegen.netfilter.intervals import EMPTY, Intervals
from rulegen.netfilter.machine import INTERFACE_BITS, Ending, Endpoint, Fate, Memory, Outcome, drawn_endpoints
from rulegen.netfilter.model import Family
from rulegen.netfilter.regions import DPORT, DST, IIF, MARK, PROTO, SRC, Region
from rulegen.netfilter.state import Connection, State, split, split_equal, split_local
from rulegen.netfilter.tables import KeyTable
from rulegen.netfilter.values import Bits, Choice, Column, Part, Value, shares
from rulegen.services.model import (
    Backend,
    Frontend,
    FrontendKind,
    NodeSettings,
    PodDetector,
    ServicePort,
    TrafficPolicy,
    Verdict,
)
from rulegen.verify.layers import Judged, Layer, Place

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_LOOPBACK = {
    Family.IPV4: Intervals.of([(int(ip_address("127.0.0.0")), int(ip_address("127.255.255.255")))]),
    Family.IPV6: Intervals.one(1),
}
FAMILIES = {RouteFamily.IPV4: Family.IPV4, RouteFamily.IPV6: Family.IPV6}


def loopback(family: Family) -> Intervals:
    """Addresses that every node has."""
    return _LOOPBACK[family]


def networks(cidrs: Iterable[Cidr]) -> Intervals:
    """CIDRs as numbers."""
    found = (ip_network(cidr) for cidr in cidrs)
    return Intervals.of((int(one.network_address), int(one.broadcast_address)) for one in found)


class Match(NamedTuple):
    """A Frontend and whose it is."""

    port: ServicePort
    frontend: Frontend

    @property
    def has_endpoints(self) -> bool:
        """Whether anybody gets through; on an external one of policy Local pods and the node may (SVC-43)."""
        return self.frontend.verdict is Verdict.BALANCE or (
            self.frontend.kind is not FrontendKind.CLUSTER_IP and self.frontend.verdict is Verdict.DROP
        )

    def __str__(self) -> str:
        """In words."""
        frontend = self.frontend
        what = frontend.kind.value + (f" {frontend.address}" if frontend.address else "")
        return f"{what} port {frontend.port}/{self.port.name.protocol} of {self.port.name}"


class _Chosen(NamedTuple):
    backends: tuple[Backend, ...]
    masquerade: bool
    reason: str
    is_local: bool = False


class Habits(NamedTuple):
    """How a target does what it may do in its own way.

    `rechecks`: it judges packets by where they go after DNAT, and every packet of a connection that nobody has answered
    (D5, D20, SVC-38); `accepts`: it accepts in front of others' rules (D14).
    """

    rechecks: bool
    accepts: bool


_EVERYWHERE = {RouteFamily.IPV4: ("0.0.0.0/0",), RouteFamily.IPV6: ("::/0",)}

ON_NFTABLES = Habits(rechecks=False, accepts=False)
ON_IPTABLES = Habits(rechecks=True, accepts=True)


class Meaning:
    """The ServicePorts of one family on one node. `mark`: the bit for "to be masqueraded".

    `local_addresses`: as the `Machine` that it is compared with has them.
    """

    def __init__(
        self,
        service_ports: Iterable[ServicePort],
        node: NodeSettings,
        mark: int,
        local_addresses: Intervals,
        habits: Habits,
        layers: Sequence[Layer] = (),
    ) -> None:
        """Indexes the Frontends."""
        service_ports = list(service_ports)
        self.family = FAMILIES[node.family]
        self.node = node
        self.mark = mark
        self.local_addresses = local_addresses
        self.habits = habits
        self.layers = layers
        addressed: dict[tuple[int, int, int], Match] = {}
        node_ports: dict[tuple[int, int], Match] = {}
        health_checks = set()
        for port in service_ports:
            if port.family is not node.family:
                continue
            protocol = _PROTOCOLS[port.name.protocol]
            for frontend in port.frontends:
                match = Match(port, frontend)
                if not frontend.address:
                    node_ports[protocol, frontend.port] = match
                else:
                    addressed[int(ip_address(frontend.address)), protocol, frontend.port] = match
            if port.health_check_port:
                health_checks.add(port.health_check_port)
        # Data of a table are compared and hashed, so they are numbers.
        self.matches = [*addressed.values(), *node_ports.values()]
        self.addressed = _table(addressed, 0)
        self.node_ports = _table(node_ports, len(addressed))
        self.cluster_ips = Intervals.of(
            (address, address)
            for (address, _, _), match in addressed.items()
            if match.frontend.kind is FrontendKind.CLUSTER_IP
        )
        self.service_cidrs = networks(node.service_cidrs)
        self._own = networks(_EVERYWHERE[node.family]) - loopback(self.family)
        self.accepting = networks(node.nodeport_addresses) - loopback(self.family)
        self.health_checks = Intervals.of((port, port) for port in health_checks)
        self.pods = _pods(node.detector)
        self._host_port_pods = Intervals.of(
            (number, number)
            for match in self.matches
            if match.frontend.kind is FrontendKind.HOST_PORT
            for number in (int(ip_address(backend.address)) for backend in match.port.cluster_endpoints)
        )
        self.by_address = addressed
        self.by_node_port = node_ports
        self._allowed: dict[tuple[Cidr, ...], Intervals] = {}

    def accepting_addresses(self, match: Match) -> Intervals:
        """Where a frontend is accepted that must be on an address of the node: a NodePort, or a host port (D21)."""
        return self._own if match.frontend.kind is FrontendKind.HOST_PORT else self.accepting

    def follow(
        self, region: Region, connection: Connection, memory: Memory = None, *, is_sent: bool
    ) -> Iterator[list[Ending]]:
        """As `machine.Run.follow`."""
        return _Way(self, connection, memory, is_sent=is_sent).follow(region)

    def remembered(self, _: Region, __: frozenset[tuple[str, Hashable]], *, is_sent: bool) -> set[Endpoint]:  # noqa: ARG002
        """Nothing: what is remembered is the rules' to say."""
        return set()

    def allowed(self, sources: tuple[Cidr, ...]) -> Intervals:
        """Source ranges as numbers."""
        if sources not in self._allowed:
            self._allowed[sources] = networks(sources)
        return self._allowed[sources]

    @property
    def foreign_addresses(self) -> Intervals:
        """Addresses of the node's pods, which are none of the node's: it sends nothing from them."""
        found = self._host_port_pods
        for layer in self.layers:
            found |= layer.foreign
        return found - self.local_addresses

    def preferred(self) -> dict[int, tuple[int, ...]]:
        """Values that are good to read in an example, by variable: those of the first frontend."""
        first = next(iter(self.by_address), None)
        return {} if first is None else {DST: (first[0],), DPORT: (first[2],)}


def _table(keys: Iterable[tuple[int, ...]], first: int) -> KeyTable[int]:
    return KeyTable((tuple((part, part) for part in key), number) for number, key in enumerate(keys, first))


def _pods(detector: PodDetector | None) -> tuple[int, Intervals]:
    """Which variable tells pods, and by which values."""
    if detector is None:
        return SRC, EMPTY
    if detector.cidr is not None:
        return SRC, networks([detector.cidr])
    size = INTERFACE_BITS // 8
    name = (detector.interface or detector.interface_prefix or "").encode()
    low = int.from_bytes(name.ljust(size, b"\0"), "big")
    if detector.interface is not None:
        return IIF, Intervals.one(low)
    return IIF, Intervals.of([(low, int.from_bytes(name.ljust(size, b"\xff"), "big"))])


_REFUSED = frozenset({Fate.REJECTED, Fate.DROPPED})
_NO_SERVICE = "no Service is concerned"


class _Way:
    """One kind of packets."""

    def __init__(self, meaning: Meaning, connection: Connection, memory: Memory, *, is_sent: bool) -> None:
        self._of = meaning
        self._connection = connection
        self._memory = memory
        self.is_sent = is_sent
        # What `split_local` asks of a Run.
        self.local_addresses = meaning.local_addresses
        self.foreign_addresses = meaning.foreign_addresses
        self._found: list[list[Ending]] = []
        self._cell: list[Ending] = []
        # Why what comes next becomes of packets, for people.
        self._why = _NO_SERVICE

    def follow(self, region: Region) -> Iterator[list[Ending]]:
        fields: list[Value] = [Part(variable) for variable in range(MARK)]
        fields += [Bits(MARK), Bits(MARK + 1)]
        if self.is_sent:
            fields[IIF] = 0
        state = State(self, region, fields)  # type: ignore[arg-type]
        if self._connection is Connection.NEW:
            self._first_packet(state)
        elif self._connection is Connection.TRANSLATED:
            self._translated_before(state)
        elif self._connection is Connection.UNREPLIED and self._of.habits.rechecks:
            self._again(state)
        else:
            self._later(state)
        return iter(self._found)

    # -- kinds of connections --

    def _first_packet(self, state: State) -> None:
        for one, match in self._addressed(state):
            if match is None:
                self._at_node(one, None)
                continue
            for inside in self._let_in(one, match):
                if match.has_endpoints:
                    self._at_frontend(inside, match, match)
                else:
                    self._at_node(inside, match)

    def _translated_before(self, state: State) -> None:
        """Of what reaches itself nothing is said: SVC-44 is about endpoints that were given themselves here."""
        for one, equal in split_equal(state):
            if equal:
                self._why = ""
                self._end_at_once(one, Outcome(Fate.UNKNOWN))
            elif self._of.habits.rechecks:
                for part, match in self._addressed(one):
                    self._unless_refused(part, match)
            else:
                self._pass(one)

    def _again(self, state: State) -> None:
        """A later packet of a connection that nobody has answered and that was let through as it was (D5)."""
        for one, match in self._addressed(state):
            if match is None:
                self._unless_refused(one, None)
            else:
                for inside in self._let_in(one, match):
                    self._unless_refused(inside, match)

    def _later(self, state: State) -> None:
        self._arrive(state, Fate.PASSED)

    # -- frontends --

    def _addressed(self, state: State) -> Iterator[tuple[State, Match | None]]:
        """Rule 9, those with an address."""
        found = self._of.addressed.lookup(state.region, [Part(DST), Part(PROTO), Part(DPORT)])
        for region, number in found.hits:
            match = self._of.matches[number]
            if match.frontend.kind is FrontendKind.HOST_PORT:
                yield from self._on_own_addresses(state.within(region), match)
            else:
                yield state.within(region), match
        for region in found.rest:
            yield state.within(region), None

    def _let_in(self, state: State, match: Match) -> Iterator[State]:
        """SVC-50 to 54: source ranges come first."""
        if match.frontend.allowed_sources is None:
            yield state
            return
        inside, outside = split(state, Part(SRC), self._of.allowed(match.frontend.allowed_sources))
        for one in outside:
            self._why = f"{match}: in none of the loadBalancerSourceRanges (SVC-51)"
            self._end_at_once(one, Outcome(Fate.DROPPED))
        yield from inside

    def _node_ports(self, state: State) -> Iterator[tuple[State, Match | None]]:
        """SVC-60 to 64: NodePorts, on addresses that accept them and that the node has."""
        found = self._of.node_ports.lookup(state.region, [Part(PROTO), Part(DPORT)])
        for region in found.rest:
            yield state.within(region), None
        for region, number in found.hits:
            yield from self._on_own_addresses(state.within(region), self._of.matches[number])

    def _on_own_addresses(self, state: State, match: Match) -> Iterator[tuple[State, Match | None]]:
        accepting, others = split(state, Part(DST), self._of.accepting_addresses(match))
        yield from ((one, None) for one in others)
        for one in accepting:
            for part, is_local in split_local(one, DST):
                yield part, match if is_local else None

    def _at_node(self, state: State, addressed: Match | None) -> None:
        """A packet whose address nobody answers, or that is no frontend's."""
        for one, match in self._node_ports(state):
            if match is not None and match.has_endpoints:
                self._at_frontend(one, match, addressed)
            else:
                self._refused_or_passed(one, addressed, match)

    def _unless_refused(self, state: State, addressed: Match | None) -> None:
        for one, match in self._node_ports(state):
            self._refused_or_passed(one, addressed, match)

    def _refused_or_passed(self, state: State, addressed: Match | None, node_port: Match | None) -> None:
        """SVC-36 to 38 and 67, in the order in which a packet passes them."""
        for one, is_local in split_local(state, DST):
            asked: list[State] = [one]
            if is_local and not self._of.habits.rechecks:
                # Where all is decided at once, a NodePort of the node's own address comes before its frontends.
                if self.is_sent and addressed is None:
                    asked = self._unless_nobodys(one)
                asked = [left for left in asked if not self._refuse(left, node_port)]
            for left in asked:
                self._refused_or_passed_there(left, addressed, node_port, is_local=is_local)

    def _refused_or_passed_there(
        self, state: State, addressed: Match | None, node_port: Match | None, *, is_local: bool
    ) -> None:
        outcomes: list[State] = [state]
        if self.is_sent or not is_local:
            refusing = addressed if _without_endpoints(addressed) else None
            outcomes = [] if self._refuse(state, refusing) else self._unless_unused(state)
        refusing = next((match for match in (node_port, addressed) if is_local and _without_endpoints(match)), None)
        for left in outcomes:
            if not self._refuse(left, refusing):
                self._why = _NO_SERVICE
                self._pass(left)

    def _refuse(self, state: State, match: Match | None) -> bool:
        """Whether there was a frontend that nobody answers for."""
        fate = _without_endpoints(match)
        if fate is None:
            return False
        where = "" if fate is Fate.REJECTED else " on this node (SVC-37)"
        self._why = f"{match}: no endpoint{where or ' (SVC-36)'}"
        self._end(state, Outcome(fate))
        return True

    def _unless_unused(self, state: State) -> list[State]:
        """Rule 67."""
        rejected, others = split(state, Part(DST), self._of.cluster_ips)
        self._why = "a ClusterIP without this port (SVC-67)"
        for one in rejected:
            self._end(one, Outcome(Fate.REJECTED))
        return [left for other in others for left in self._unless_in_service_cidr(other)]

    def _unless_nobodys(self, state: State) -> list[State]:
        """The second half of rule 67."""
        of_services, others = split(state, Part(DST), self._of.cluster_ips)
        return of_services + [left for other in others for left in self._unless_in_service_cidr(other)]

    def _unless_in_service_cidr(self, state: State) -> list[State]:
        dropped, left = split(state, Part(DST), self._of.service_cidrs)
        self._why = "in a ServiceCIDR, of no Service (SVC-67)"
        for one in dropped:
            self._end(one, Outcome(Fate.DROPPED))
        return left

    # -- endpoints --

    def _at_frontend(self, state: State, match: Match, addressed: Match | None) -> None:
        """SVC-41 to 45."""
        for one, chosen in self._choose(state, match):
            if chosen.backends:
                self._deliver(one, match, chosen)
            else:
                node_port = match if match.frontend.kind is FrontendKind.NODE_PORT else None
                self._refused_or_passed(one, addressed if node_port else match, node_port)

    def _choose(self, state: State, match: Match) -> Iterator[tuple[State, _Chosen]]:
        port, frontend = match
        if frontend.kind is FrontendKind.CLUSTER_IP:
            yield from self._choose_internal(state, match)
        elif frontend.policy is TrafficPolicy.CLUSTER:
            yield state, _Chosen(port.cluster_endpoints, True, "all endpoints, masqueraded (SVC-42)")
        else:
            for one, is_pod in self._detected(state):
                if is_pod:
                    yield one, _Chosen(port.cluster_endpoints, False, "policy Local, from a pod: all (SVC-43a)")
                elif self.is_sent:
                    yield one, _Chosen(port.cluster_endpoints, True, "policy Local, from the node: all (SVC-43b)")
                else:
                    yield one, _Chosen(port.local_endpoints, False, "policy Local: this node's (SVC-43c)", True)

    def _choose_internal(self, state: State, match: Match) -> Iterator[tuple[State, _Chosen]]:
        port, frontend = match
        is_local = frontend.policy is TrafficPolicy.LOCAL
        backends = port.local_endpoints if is_local else port.cluster_endpoints
        reason = "this node's endpoints (SVC-41)" if is_local else "all endpoints (SVC-41)"
        if self._of.node.masquerade_all:
            yield state, _Chosen(backends, True, f"{reason}, masqueradeAll (SVC-45)", is_local)
        elif self._of.node.detector is None:
            yield state, _Chosen(backends, False, reason, is_local)
        else:
            for one, is_pod in self._detected(state):
                words = reason if is_pod else f"{reason}, not from a pod"
                yield one, _Chosen(backends, not is_pod, words, is_local)

    def _detected(self, state: State) -> Iterator[tuple[State, bool]]:
        """SVC-47, 48."""
        variable, values = self._of.pods
        inside, outside = split(state, state.fields[variable], values)
        yield from ((one, True) for one in inside)
        yield from ((one, False) for one in outside)

    def _deliver(self, state: State, match: Match, chosen: _Chosen) -> None:
        port = match.port
        self._why = f"{match}: {chosen.reason}"
        backends: Sequence[Backend] = self._remembered(match, chosen) or chosen.backends
        numbers = [(int(ip_address(backend.address)), backend.port) for backend in backends]
        weights = tuple([backend.weight or 1 for backend in backends])
        if len(backends) > 1:
            state.draw()
        columns = (tuple([address for address, _ in numbers]), tuple([port for _, port in numbers]))
        state.choice = Choice(weights, sum(weights), columns)
        state.endpoint = (Column(0), Column(1))
        state.fields[DST] = Column(0)
        whole = state.cell or state.region
        self._cell = []
        protocol = _PROTOCOLS[port.name.protocol]
        if self.is_sent:
            self._send(state, chosen, port)
        else:
            for one, is_local in split_local(state, DST):
                if is_local:
                    self._receive(one, port, masqueraded=False)
                else:
                    for part in self._unless_refused_there(one, self._refusal_on_the_way, protocol):
                        for last, masqueraded in self._masquerade(part, chosen):
                            self._arrive_at(last, port, (), masqueraded=masqueraded)
        self._found.append([ending._replace(cell=whole) for ending in self._cell])

    def _send(self, state: State, chosen: _Chosen, port: ServicePort) -> None:
        """What the node sends passes postrouting before it may turn out to be for the node itself."""
        for part in self._unless_refused_there(state, self._refusal_on_the_way, _PROTOCOLS[port.name.protocol]):
            for one, masqueraded in self._masquerade(part, chosen):
                for last, is_local in split_local(one, DST):
                    if is_local:
                        self._receive(last, port, masqueraded=masqueraded)
                    else:
                        self._arrive_at(last, port, (), masqueraded=masqueraded)

    def _unless_refused_there(
        self, state: State, refusal: Callable[[int, int, int], Fate | None], protocol: int
    ) -> Iterator[State]:
        """An endpoint may be the destination of other rules; some targets ask for these after DNAT (SVC-38)."""
        if not self._of.habits.rechecks:
            yield state
            return
        rows: dict[Fate | None, list[int]] = {}
        for row, (address, number) in enumerate(zip(*state.choice.columns, strict=True)):
            rows.setdefault(refusal(address, protocol, number), []).append(row)
        for fate, indexes in rows.items():
            one = state if len(rows) == 1 else state.drawing(indexes)
            if fate is None:
                yield one
            else:
                self._note(one, Outcome(fate))

    def _refusal_on_the_way(self, address: int, protocol: int, port: int) -> Fate | None:
        """What the node sends or forwards."""
        of = self._of
        if (fate := _without_endpoints(of.by_address.get((address, protocol, port)))) is not None:
            return fate
        if address in of.cluster_ips:
            return Fate.REJECTED
        return Fate.DROPPED if address in of.service_cidrs else None

    def _refusal_on_receipt(self, address: int, protocol: int, port: int) -> Fate | None:
        """What the node receives."""
        of = self._of
        node_port = of.by_node_port.get((protocol, port)) if address in of.accepting else None
        return _without_endpoints(node_port) or _without_endpoints(of.by_address.get((address, protocol, port)))

    def _remembered(self, match: Match, chosen: _Chosen) -> list[Backend]:
        """SVC-55 to 58: the endpoint of a client that is known, if it is in the list still, or draining (D9)."""
        if match.port.affinity_timeout is None or self._memory is None or not isinstance(self._memory, tuple):
            return []
        draining = [one for one in match.port.draining if one.local or not chosen.is_local]
        return [
            one for one in (*chosen.backends, *draining) if (int(ip_address(one.address)), one.port) == self._memory
        ]

    def _masquerade(self, state: State, chosen: _Chosen) -> Iterator[tuple[State, bool]]:
        """SVC-44 and SVC-46: whether the source is replaced, of what leaves."""
        if chosen.masquerade:
            yield state, True
            return
        for one, is_marked in self._marked(state):
            if is_marked:
                yield one, True
            else:
                yield from split_equal(one)

    def _receive(self, state: State, port: ServicePort, *, masqueraded: bool) -> None:
        """SVC-84: health checks are accepted where they are received."""
        protocol = _PROTOCOLS[port.name.protocol]
        for one in self._unless_refused_there(state, self._refusal_on_receipt, protocol):
            if not (self._of.habits.accepts and port.name.protocol == "TCP"):
                self._arrive_at(one, port, (), masqueraded=masqueraded)
                continue
            rows: dict[bool, list[int]] = {}
            for row, number in enumerate(one.choice.columns[1]):
                rows.setdefault(number in self._of.health_checks, []).append(row)
            for is_check, indexes in rows.items():
                accepted = ("input",) if is_check else ()
                self._arrive_at(one.drawing(indexes), port, accepted, masqueraded=masqueraded)

    def _arrive_at(self, state: State, port: ServicePort, accepted: tuple[str, ...], *, masqueraded: bool) -> None:
        """D14: what is masqueraded is accepted where it is forwarded."""
        if self._of.habits.accepts and masqueraded and not self.is_sent:
            accepted = ("forward", *accepted)
        self._note(state, Outcome(Fate.TRANSLATED, masqueraded, accepted, port.affinity_timeout))

    # -- the end --

    def _marked(self, state: State) -> Iterator[tuple[State, bool]]:
        """Whether somebody has set the mark."""
        bits = Bits(MARK, keep=self._of.mark)
        inside, outside = split(state, bits, Intervals.one(self._of.mark))
        yield from ((one, True) for one in inside)
        yield from ((one, False) for one in outside)

    def _pass(self, state: State) -> None:
        """It goes where it was going; a mark means that it is masqueraded, if it leaves (SVC-46)."""
        for one, is_local in split_local(state, DST):
            if is_local and not self.is_sent:
                self._end_received(one, Outcome(Fate.PASSED))
                continue
            for part, is_marked in self._marked(one):
                masqueraded = is_marked and self._connection.is_first
                accepts = is_marked and self._of.habits.accepts and not self.is_sent
                outcome = Outcome(Fate.PASSED, masqueraded, ("forward",) if accepts else ())
                if is_local:
                    self._end_received(part, outcome)
                else:
                    self._end(part, outcome)

    def _end_received(self, state: State, outcome: Outcome) -> None:
        """Rule 84: health checks are accepted at input."""
        if not self._of.habits.accepts:
            self._end(state, outcome)
            return
        checks, others = split(state, Part(PROTO), Intervals.one(6))
        for one in others:
            self._end(one, outcome)
        for check in checks:
            inside, outside = split(check, Part(DPORT), self._of.health_checks)
            for one in inside:
                self._end(one, outcome._replace(accepted=(*outcome.accepted, "input")))
            for one in outside:
                self._end(one, outcome)

    def _arrive(self, state: State, fate: Fate) -> None:
        """A packet of a connection that no rule decides about any more."""
        for one, is_local in split_local(state, DST):
            if is_local:
                self._end_received(one, Outcome(fate))
                continue
            established = self._connection in {Connection.ESTABLISHED, Connection.RELATED}
            accepts = established and self._of.habits.accepts and not self.is_sent
            self._end(one, Outcome(fate, accepted=("forward",) if accepts else ()))

    def _end(self, state: State, outcome: Outcome) -> None:
        """Cells of their own."""
        for one in self._judged(state, outcome):
            self._found.append([_ending(one.state, one.outcome, one.why or self._why)])

    def _end_at_once(self, state: State, outcome: Outcome) -> None:
        """Before the packet is routed, so that no other feature has a say."""
        self._found.append([_ending(state, outcome, self._why)])

    def _note(self, state: State, outcome: Outcome) -> None:
        self._cell += (_ending(one.state, one.outcome, one.why or self._why) for one in self._judged(state, outcome))

    def _judged(self, state: State, outcome: Outcome) -> Iterator[Judged]:
        """What the layers make of it; a target that refuses before routing asks no layer about what it refuses."""
        if not self._of.layers or (outcome.fate in _REFUSED and not self._of.habits.rechecks):
            yield Judged(state, outcome)
        elif self.is_sent:
            yield from self._through_layers(state, outcome, Place.SENT)
        else:
            for one, is_local in split_local(state, DST):
                yield from self._through_layers(one, outcome, Place.RECEIVED if is_local else Place.FORWARDED)

    def _through_layers(self, state: State, outcome: Outcome, place: Place) -> Iterator[Judged]:
        waiting = [Judged(state, outcome)]
        for layer in self._of.layers:
            found: list[Judged] = []
            for one in waiting:
                judged = layer.judge(one.state, one.outcome, self._connection, place)
                # Who is refused meets nobody else.
                found += [one] if one.why and one.outcome.fate in _REFUSED else judged
            waiting = found
        yield from waiting


def _ending(state: State, outcome: Outcome, why: str) -> Ending:
    endpoints = shares(drawn_endpoints(state), state.choice.weights, Fraction(1, state.choice.total))
    asked: frozenset[tuple[str, Hashable]] = frozenset()
    return Ending(state.region, state.region, state.relation, state.is_local, outcome, endpoints, None, asked, why)


def _without_endpoints(match: Match | None) -> Fate | None:
    """SVC-36, 37."""
    if match is None or match.frontend.verdict is Verdict.BALANCE:
        return None
    return Fate.REJECTED if match.frontend.verdict is Verdict.REJECT else Fate.DROPPED
