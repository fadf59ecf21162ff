"""What network policies say of sets of packets: the policies' facts come in, what becomes of each part goes out.

Written from docs/network-policies.md, without a look at any rule. A packet is judged where it is forwarded, behind DNAT
and before SNAT: so packets are asked about that the Services have translated or let go on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network
from typing import NamedTuple, TypeAlias

from rulegen.config import Denial, Family, PolicySettings
from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.machine import LOOPBACK_INTERFACE, Fate, Outcome
from rulegen.netfilter.regions import DPORT, DST, IIF, PROTO, SPORT, SRC
from rulegen.netfilter.state import Connection, State, split, split_begins, split_by_all, split_equal
from rulegen.netfilter.values import Part, Value
from rulegen.policies.model import Action, Address, Combination, Direction, Isolation, PolicyName, Rule, family_of
from rulegen.policies.store import Store
from rulegen.verify.layers import Judged, Place

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_TCP, _ICMPV6 = 6, 58
# The type is the first byte of the header, where other protocols have the first half of the source port.
_DISCOVERY = Intervals.of([(133 << 8, (138 << 8) - 1)])
_NOT_ASKED = frozenset({Connection.ESTABLISHED, Connection.RELATED})

# Packets that pass, and those that are denied, with the reason.
_Passing: TypeAlias = "list[State]"
_Denied: TypeAlias = "list[tuple[State, Fate, str]]"


class _Isolated(NamedTuple):
    combination: Combination
    pods: Intervals


class _Places(NamedTuple):
    """Destinations that a rule is about. `addresses` None: any."""

    protocol: int
    ports: Intervals
    addresses: Intervals | None = None


class _Match(NamedTuple):
    """Whom a rule is about. None: everybody, every port."""

    peers: Intervals | None
    places: Sequence[_Places] | None


class PolicyMeaning:
    """The policies of one family on one node; see `layers.Layer`."""

    def __init__(self, store: Store, settings: PolicySettings, family: Family, *, is_iptables: bool) -> None:
        """Groups this node's pods by what isolates them.

        `is_iptables`: who a packet goes to is asked about behind the policies of who sends it, which are free to reject
        it; nftables asks whether both are known first.
        """
        self._is_iptables = is_iptables
        self._store = store
        self._family = family
        self._settings = settings
        self._denial = Fate.DROPPED if settings.denial is Denial.DROP else Fate.REJECTED
        local = [(address, found) for address, found in store.local_pods() if family_of(address) is family]
        self._pods = _numbers(address for address, _ in local)
        self._isolated = _numbers(address for address, found in local if found.ingress or found.egress)
        self._groups = {direction: list(_grouped(local, direction)) for direction in Direction}
        self._closed = Intervals.of(())
        if settings.fail_closed:
            networks = map(ip_network, store.pod_ranges(family))
            ranges = Intervals.of((int(one.network_address), int(one.broadcast_address)) for one in networks)
            self._closed = ranges - self._pods
        self._matches: dict[tuple[Rule, Direction], _Match] = {}

    @property
    def foreign(self) -> Intervals:
        """See `layers.Layer`."""
        return self._pods

    def judge(self, state: State, outcome: Outcome, connection: Connection, place: Place) -> Iterator[Judged]:
        """See `layers.Layer`. What the node sends is nobody's traffic; what it receives is asked about by an option."""
        if connection in _NOT_ASKED or place is Place.SENT:
            yield Judged(state, outcome)
            return
        if place is Place.RECEIVED and not self._settings.node_input:
            yield Judged(state, outcome)
            return
        asked, passing = self._discovery(state)
        denied: _Denied = []
        for one in asked:
            passing += self._forwarded(one, denied) if place is Place.FORWARDED else self._received(one, denied)
        yield from (Judged(one, outcome) for one in passing)
        yield from (Judged(one, Outcome(fate), why) for one, fate, why in denied)

    def _discovery(self, state: State) -> tuple[list[State], _Passing]:
        """Router and neighbour discovery are never denied; the others come first."""
        if self._family is Family.IPV4:
            return [state], []
        icmp, asked = split(state, Part(PROTO), Intervals.one(_ICMPV6))
        passing: _Passing = []
        for one in icmp:
            inside, others = split(one, Part(SPORT), _DISCOVERY)
            passing += inside
            asked += others
        return asked, passing

    def _received(self, state: State, denied: _Denied) -> _Passing:
        """Egress policies hold for the node itself as a destination, too, but not of what it sends to itself."""
        own, others = split(state, state.fields[IIF], Intervals.one(LOOPBACK_INTERFACE))
        states = []
        for one in self._guarded(others, (SRC,), denied):
            sources, left = split(one, one.fields[SRC], self._isolated) if self._settings.strict else ([], [one])
            states += left
            states += (part for source in sources for part in self._beginning(source, denied))
        return own + self._direction(states, Direction.EGRESS, denied)

    def _forwarded(self, state: State, denied: _Denied) -> _Passing:
        before, behind = ((SRC,), (DST,)) if self._is_iptables else ((SRC, DST), ())
        states = self._guarded([state], before, denied)
        if self._settings.strict:
            states = [
                passing
                for one in states
                for concerned, is_isolated in self._with_isolated(one)
                for passing in (self._beginning(concerned, denied) if is_isolated else [concerned])
            ]
        sent = self._guarded(self._direction(states, Direction.EGRESS, denied), behind, denied)
        return self._direction(sent, Direction.INGRESS, denied)

    def _guarded(self, states: list[State], variables: Iterable[int], denied: _Denied) -> _Passing:
        """With failClosed: who has an address of this node's pods must be known."""
        for variable in variables if self._closed else ():
            left = []
            for state in states:
                inside, others = split(state, state.fields[variable], self._closed)
                denied += ((one, Fate.DROPPED, "nobody has told of this pod (failClosed)") for one in inside)
                left += others
            states = left
        return states

    def _beginning(self, state: State, denied: _Denied) -> Iterator[State]:
        """With strict: a TCP packet of no connection must begin one, but for those from a pod to itself."""
        tcp, others = split(state, Part(PROTO), Intervals.one(_TCP))
        yield from others
        for one in tcp:
            for part, is_self in split_equal(one):
                if is_self:
                    yield part
                    continue
                for last, begins in split_begins(part):
                    if begins:
                        yield last
                    else:
                        denied.append((last, self._denial, "it begins no connection, and belongs to none (strict)"))

    def _with_isolated(self, state: State) -> Iterator[tuple[State, bool]]:
        sources, others = split(state, state.fields[SRC], self._isolated)
        yield from ((one, True) for one in sources)
        for other in others:
            inside, outside = split(other, other.fields[DST], self._isolated)
            yield from ((one, True) for one in inside)
            yield from ((one, False) for one in outside)

    # ---- one direction ----

    def _direction(self, states: list[State], direction: Direction, denied: _Denied) -> _Passing:
        variable = SRC if direction is Direction.EGRESS else DST
        passing: _Passing = []
        for combination, pods in self._groups[direction]:
            left = []
            for state in states:
                inside, others = split(state, state.fields[variable], pods)
                left += others
                for one in inside:
                    for part, is_self in split_equal(one):
                        passing += [part] if is_self else self._asked(part, combination, denied)
            states = left
        return passing + states

    def _asked(self, state: State, combination: Combination, denied: _Denied) -> _Passing:
        """Tier Admin, then NetworkPolicies, or where there are none tier Baseline."""
        direction = combination.direction
        passing, rest = self._tier([state], combination.admin, direction, denied)
        if combination.network:
            accepted, rest = self._tier(rest, combination.network, direction, denied)
            why = f"isolated ({direction.word}) by {', '.join(map(str, combination.network))}, and no rule accepts it"
            denied += ((one, self._denial, why) for one in rest)
            return passing + accepted
        accepted, rest = self._tier(rest, combination.baseline, direction, denied)
        return passing + accepted + rest

    def _tier(
        self, states: list[State], policies: Iterable[PolicyName], direction: Direction, denied: _Denied
    ) -> tuple[_Passing, list[State]]:
        """What is accepted, and what no rule decides or one passes on."""
        accepted: _Passing = []
        onward: list[State] = []
        for name in policies:
            for rule in self._store.policies[name].rules[direction]:
                left = []
                for state in states:
                    inside, others = self._matching(state, self._match(rule, direction), direction)
                    left += others
                    if rule.action is Action.DENY:
                        why = f"{name}, {rule.place or 'the whole policy'}, denies it ({direction.word})"
                        denied += ((one, self._denial, why) for one in inside)
                    elif rule.action is Action.ACCEPT:
                        accepted += inside
                    else:
                        onward += inside
                states = left
        return accepted, onward + states

    # ---- one rule ----

    def _matching(self, state: State, match: _Match, direction: Direction) -> tuple[list[State], list[State]]:
        variable = DST if direction is Direction.EGRESS else SRC
        inside, outside = [state], list[State]()
        if match.peers is not None:
            inside, outside = split(state, state.fields[variable], match.peers)
        if match.places is None:
            return inside, outside
        found: list[State] = []
        for place in match.places:
            left = []
            for one in inside:
                matching, others = _at(one, place)
                found += matching
                left += others
            inside = left
        return found, outside + inside

    def _match(self, rule: Rule, direction: Direction) -> _Match:
        key = (rule, direction)
        if key not in self._matches:
            peers = None if rule.anyone else self._peers(rule)
            places = None if rule.ports is None else list(self._places(rule))
            self._matches[key] = _Match(peers, places)
        return self._matches[key]

    def _peers(self, rule: Rule) -> Intervals:
        addresses = [address for selector in rule.selectors for address in self._store.members(selector)]
        blocks = ((int.from_bytes(first), int.from_bytes(last)) for first, last in rule.blocks_of(self._family))
        return Intervals.of(blocks) | self._of_family(addresses)

    def _places(self, rule: Rule) -> Iterator[_Places]:
        assert rule.ports is not None  # noqa: S101 - who asks has looked
        ranges: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for item in rule.ports.ranges:
            ranges[_PROTOCOLS[item.protocol]].append((item.first, item.last))
        yield from (_Places(protocol, Intervals.of(ports)) for protocol, ports in ranges.items())
        for named in rule.ports.named:
            addresses: dict[tuple[str, int], list[Address]] = defaultdict(list)
            for address, protocol, port in self._store.port_places(named.name):
                if named.protocol in {"", protocol}:
                    addresses[protocol, port].append(address)
            for (protocol, port), found in addresses.items():
                yield _Places(_PROTOCOLS[protocol], Intervals.one(port), self._of_family(found))

    def _of_family(self, addresses: Iterable[Address]) -> Intervals:
        return _numbers(address for address in addresses if family_of(address) is self._family)


def _at(state: State, place: _Places) -> tuple[list[State], list[State]]:
    """The packets to a place, and the others."""
    port: Value = Part(DPORT) if state.endpoint is None else state.endpoint[1]
    tests: list[tuple[Value, Intervals]] = [(Part(PROTO), Intervals.one(place.protocol)), (port, place.ports)]
    if place.addresses is not None:
        tests.append((state.fields[DST], place.addresses))
    return split_by_all(state, tests)


def _numbers(addresses: Iterable[Address]) -> Intervals:
    return Intervals.of((int.from_bytes(address), int.from_bytes(address)) for address in addresses)


def _grouped(pods: Iterable[tuple[Address, Isolation]], direction: Direction) -> Iterator[_Isolated]:
    """This node's pods that policies isolate in a direction, by what isolates them."""
    groups: dict[Combination, list[Address]] = defaultdict(list)
    for address, isolation in pods:
        combination = isolation.of(direction)
        if combination is not None:
            groups[combination].append(address)
    for combination, addresses in groups.items():
        yield _Isolated(combination, _numbers(addresses))
