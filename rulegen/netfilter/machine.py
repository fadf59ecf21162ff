"""Packets follow rules: a Ruleset and a set of packets come in, what becomes of each goes out.

The way is the kernel's: a packet passes the chains of each hook in the order of their priorities; those of type nat
only if it is the first of its connection, at the place of the kernel's own NAT, until one of them has translated it.
Then routing decides, which here means that both is tried: its destination may be the node's or not.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Collection, Hashable, Iterator
from enum import Enum
from typing import NamedTuple, TypeAlias

from rulegen.netfilter.expressions import settle
from rulegen.netfilter.intervals import EMPTY, Intervals
from rulegen.netfilter.model import (
    Chain,
    Code,
    Family,
    Hook,
    Rule,
    Ruleset,
    UnknownMeaningError,
    Verdict,
)
from rulegen.netfilter.regions import (
    ANY_BITS,
    DPORT,
    DST,
    IIF,
    MARK,
    OIF,
    PRIO,
    PROTO,
    SPORT,
    SRC,
    Domain,
    Region,
)
from rulegen.netfilter.state import Connection, Frame, Path, Remembered, State, split, split_local
from rulegen.netfilter.values import Bits, Column, Part, Shares, Unknown, Value, shares

# Where the kernel's NAT stands at each hook (linux/netfilter_ipv4.h); chains of type nat are called there.
_NAT_PRIORITIES = {Hook.PREROUTING: -100, Hook.OUTPUT: -100, Hook.INPUT: 100, Hook.POSTROUTING: 100}
# Where connections are looked up (NF_IP_PRI_CONNTRACK).
_CONNTRACK_PRIORITY = -200
_MANIP = {
    Hook.PREROUTING: "destination",
    Hook.OUTPUT: "destination",
    Hook.INPUT: "source",
    Hook.POSTROUTING: "source",
}
_TRANSLATING = (Hook.PREROUTING, Hook.OUTPUT)
_DEEPEST = 64
# In which remembered data of one Service may differ.
_FEW_BITS = 12
_STATES = {
    Connection.NEW: 0x08,
    Connection.TRANSLATED: 0x08,
    Connection.UNREPLIED: 0x08,
    Connection.ESTABLISHED: 0x02,
    Connection.RELATED: 0x04,
    Connection.UNTRACKED: 0x40,
    Connection.INVALID: 0x01,
}
_DST_NAT = 0x20
LOOPBACK_INTERFACE = int.from_bytes(b"lo".ljust(16, b"\0"), "big")
INTERFACE_BITS = 128

Endpoint: TypeAlias = tuple[int, int]


class Fate(Enum):
    """What becomes of a packet. LEFT: another program is asked. UNKNOWN: a rule is not understood."""

    PASSED = "passed"
    TRANSLATED = "translated"
    REJECTED = "rejected"
    DROPPED = "dropped"
    LEFT = "left to another program"
    UNKNOWN = "unknown"


class Outcome(NamedTuple):
    """What becomes of packets.

    `accepted`: the hooks at which other rules of iptables are passed over. `remembered`: for how many seconds the
    client is, None for not. `touched`: bits of the mark that are not as they were. `is_priority_left`: whether a
    number of the rules' own is left in the priority.
    """

    fate: Fate
    masqueraded: bool = False
    accepted: tuple[str, ...] = ()
    remembered: int | None = None
    touched: int = 0
    is_priority_left: bool = False


_FATES = {
    Code.DROP: Fate.DROPPED,
    Code.REJECT: Fate.REJECTED,
    Code.QUEUE: Fate.LEFT,
    Code.UNKNOWN: Fate.UNKNOWN,
}


class Stale(Enum):
    """What a client may be remembered by that no rule knows any more."""

    STALE = "an endpoint that has gone"


class Probe(NamedTuple):
    """The client is in a dynamic set, under a key, with data of which nobody knows yet what they lead to."""

    name: str
    key: Hashable
    data: bytes | None


Memory: TypeAlias = "Endpoint | Stale | None"


class Ending(NamedTuple):
    """Where some packets end, with a share of their connections.

    `cell`: the packets of which `endpoints` and their shares are a part of the distribution. `region`: those of them
    that end here; `relation`: only where source and endpoint are equal, or only where they are not; `is_local`: if the
    endpoint's address is the node's, or is not. `asked`: the dynamic sets that were looked into, or written: what
    is remembered and never looked up is another client's way all the same.
    """

    cell: Region
    region: Region
    relation: bool | None
    is_local: bool | None
    outcome: Outcome
    endpoints: Shares
    path: Path
    asked: frozenset[tuple[str, Hashable]]
    why: str = ""


class _Call(NamedTuple):
    """A base chain. `notes_accept`: what it accepts passes over rules of others.

    `is_behind_translation`: it sees where a packet goes by then; those before judge by where the client sent it.
    """

    chain: Chain
    hook: Hook
    is_nat: bool
    notes_accept: bool
    is_behind_translation: bool


class _NatEnds(NamedTuple):
    """All chains of type nat of a hook were passed: nothing translates the packet any more."""

    manip: str


class _Enter(NamedTuple):
    """A hook begins."""

    hook: Hook


class _Route(Enum):
    """Where the kernel routes."""

    ARRIVED = "arrived"
    SENT = "sent"


_Step: TypeAlias = "_Call | _NatEnds | _Enter | _Route"


class Machine:
    """A Ruleset, made ready for packets.

    `local_addresses`: what is known to be the node's, loopback included; any other address may be one, too, and both is
    tried. `foreign_addresses`: what is known not to be.
    """

    def __init__(self, ruleset: Ruleset, local_addresses: Intervals, foreign_addresses: Intervals = EMPTY) -> None:
        """Sorts the chains."""
        self.family = ruleset.family
        self.ruleset = ruleset
        self.local_addresses = local_addresses
        self.foreign_addresses = foreign_addresses - local_addresses
        self.chains: dict[tuple[str, str], Chain] = {}
        for table in ruleset.tables:
            for chain in table.chains.values():
                self.chains[table.name, chain.name] = chain
        hooks = {hook: self._hook(hook) for hook in Hook}
        after = hooks[Hook.FORWARD] + hooks[Hook.POSTROUTING]
        self.arriving = (*hooks[Hook.PREROUTING], _Route.ARRIVED)
        self.received = tuple(hooks[Hook.INPUT])
        self.forwarded = tuple(after)
        self.sent = (*hooks[Hook.OUTPUT], *hooks[Hook.POSTROUTING], _Route.SENT)
        self.looped = (*hooks[Hook.PREROUTING], *hooks[Hook.INPUT])
        # What is learned about dynamic sets: of a set, a key and data, the endpoint that they stand for.
        self.learned: dict[tuple[str, Hashable], dict[bytes | None, set[Endpoint]]] = {}
        self._numbers: dict[int, set[int]] | None = None

    def unlearned(self, key: tuple[str, Hashable]) -> list[bytes | None]:
        """Data that a dynamic set may hold though no rule writes them any more: of an endpoint that gets nobody new.

        Of maps that is whatever maps have as a key and differs in a few bits from what rules write.
        """
        known = self.learned.get(key, {})
        written = [int.from_bytes(data, sys.byteorder) for data in known if data is not None]
        if not written:
            return [] if known else [None]
        near = {number for one in written for number in self._near(one)} - set(written)
        return [number.to_bytes(4, sys.byteorder) for number in sorted(near)]

    def _near(self, number: int) -> set[int]:
        if self._numbers is None:
            self._numbers = {}
            for table in self.ruleset.tables:
                for found in table.sets.values():
                    if found.is_map and not found.is_dynamic and found.key_length >= 4:
                        for low, _, _ in found.elements:
                            key = int.from_bytes(low[:4], sys.byteorder)
                            self._numbers.setdefault(key >> _FEW_BITS, set()).add(key)
        return self._numbers.get(number >> _FEW_BITS, set())

    def _hook(self, hook: Hook) -> list[_Step]:
        found: list[tuple[tuple[int, int, int], _Step]] = [((-(1 << 40), 0, 0), _Enter(hook))]
        nat = _NAT_PRIORITIES.get(hook, 0)
        for order, chain in enumerate(self.chains.values()):
            if chain.hook is None or chain.hook.hook is not hook:
                continue
            is_nat = chain.hook.kind == "nat"
            priority = chain.hook.priority
            place = (nat, priority, order) if is_nat else (priority, -(1 << 40), order)
            notes = chain.table.startswith(("iptables ", "ip6tables ")) and chain.table.endswith(" filter")
            found.append((place, _Call(chain, hook, is_nat, notes, hook not in _TRANSLATING or priority > nat)))
        if hook in _MANIP:
            found.append(((nat, 1 << 40, 0), _NatEnds(_MANIP[hook])))
        found.sort(key=lambda one: one[0])
        return [step for _, step in found]


def everything(family: Family) -> Region:
    """All packets of a family."""
    addresses = Intervals.all_of(family.bits)
    domains: dict[int, Domain] = {
        SRC: addresses,
        DST: addresses,
        PROTO: Intervals.all_of(8),
        SPORT: Intervals.all_of(16),
        DPORT: Intervals.all_of(16),
        IIF: Intervals.all_of(INTERFACE_BITS),
        OIF: Intervals.all_of(INTERFACE_BITS),
        MARK: ANY_BITS,
        PRIO: ANY_BITS,
    }
    return Region(tuple(domains[variable] for variable in range(len(domains))))


class Run:
    """One way through the rules: `is_sent` by the node itself, or arriving at it; with a state of the connection.

    `memory`: the endpoint that the client is remembered by; None for a client that nobody has seen.
    """

    def __init__(
        self, machine: Machine, connection: Connection, *, is_sent: bool, memory: Memory | Probe = None
    ) -> None:
        """Follows nothing yet."""
        self.machine = machine
        self.connection = connection
        self.is_sent = is_sent
        self.memory = memory
        self.local_addresses = machine.local_addresses
        self.foreign_addresses = machine.foreign_addresses
        self.connection_state = _STATES[connection]

    def begin(self, region: Region) -> Region | None:
        """The part of a Region that can take this way: a packet that arrives is not from the node. None for nothing."""
        if self.is_sent:
            own = region.numbers(SRC) - self.foreign_addresses
            return region.narrowed(SRC, own) if own else None
        outside = region.numbers(SRC) - self.local_addresses
        return region.narrowed(SRC, outside) if outside else None

    def follow(self, region: Region) -> Iterator[list[Ending]]:
        """What becomes of the packets: disjoint cells, and of each its Endings, whose shares add up to 1."""
        begun = self.begin(region)
        if begun is None:
            return
        waiting = [self._state(begun)]
        cell: Region | None = None
        endings: list[Ending] = []
        while waiting:
            ending = self._go(waiting.pop(), waiting)
            if ending is None:
                continue
            if ending.cell is not cell:
                if endings:
                    yield endings
                cell, endings = ending.cell, []
            endings.append(ending)
        if endings:
            yield endings

    def _state(self, region: Region) -> State:
        """Packets at the beginning of their way."""
        fields: list[Value] = [Part(variable) for variable in range(MARK)]
        fields += [Bits(MARK), Bits(PRIO)]
        if self.is_sent:
            fields[IIF] = 0
        state = State(self, region, fields)
        state.steps = self.machine.sent if self.is_sent else self.machine.arriving
        if self.connection is Connection.TRANSLATED:
            state.is_translated = True
            state.manips = frozenset({"destination"})
        return state

    # -- what instructions ask --

    def connection_status(self, state: State) -> int:
        """The bits of `ct status` that rules may ask for."""
        return _DST_NAT if state.is_translated else 0

    def is_tracked(self, state: State) -> bool:
        """Whether connection tracking has seen the packet where it is now. Raises UnknownMeaningError."""
        step = state.steps[state.step]
        first = Hook.OUTPUT if self.is_sent else Hook.PREROUTING
        if not isinstance(step, _Call) or step.hook is not first or step.chain.hook is None:
            return True
        priority = step.chain.hook.priority
        if priority <= _CONNTRACK_PRIORITY and (
            priority == _CONNTRACK_PRIORITY or self.connection is Connection.UNTRACKED
        ):
            raise UnknownMeaningError("a connection that may not be tracked yet")
        return priority > _CONNTRACK_PRIORITY

    def recalled(self, name: str, key: Hashable) -> tuple[bytes | None] | None:
        """What a dynamic set holds of the client; None for nothing."""
        if self.memory is None:
            return None
        if isinstance(self.memory, Probe):
            return (self.memory.data,) if (name, key) == self.memory[:2] else None
        known = self.machine.learned.get((name, key), {})
        if self.memory is Stale.STALE:
            is_map = any(data is not None for data in known)
            return (_stale({*known, *self.machine.unlearned((name, key))}),) if is_map else None
        for data, endpoints in known.items():
            if self.memory in endpoints:
                return (data,)
        return None

    def translate(self, state: State, address: Value, port: Value | None) -> list[tuple[State, Verdict | None]]:
        """DNAT; the kernel notes it in the connection's status only where it changes something."""
        if port is None:
            port = state.fields[DPORT]
        accept = Verdict(Code.ACCEPT)
        if Hook.PREROUTING is not self._hook_of(state) and Hook.OUTPUT is not self._hook_of(state):
            raise UnknownMeaningError("dnat at this hook")
        state.endpoint = (address, port)
        found: list[tuple[State, Verdict | None]] = []
        for one, changes in self._changes(state, address, port):
            assert one.endpoint is not None  # noqa: S101 - set above
            one.fields[DST], one.fields[DPORT] = one.endpoint
            one.relation = one.is_local = None
            one.is_translated = one.is_translated or changes
            one.manips |= {"destination"}
            found.append((one, accept))
        return found

    def _hook_of(self, state: State) -> Hook | None:
        step = state.steps[state.step]
        return step.hook if isinstance(step, _Call) else None

    def _changes(self, state: State, address: Value, port: Value) -> Iterator[tuple[State, bool]]:
        """Split by whether the translation is one."""
        if isinstance(address, Unknown) or isinstance(port, Unknown):
            raise UnknownMeaningError("a translation to what nobody knows")
        columns = state.choice.columns
        rows = range(len(state.choice.weights))
        addresses = columns[address.place] if isinstance(address, Column) else [state.known(address)] * len(rows)
        ports = columns[port.place] if isinstance(port, Column) else [state.known(port)] * len(rows)
        now, now_port = state.fields[DST], state.known(state.fields[DPORT])
        domain = state.region.numbers(DST) if now == Part(DST) else None
        doubtful = [
            row
            for row in rows
            if (now_port is None or ports[row] is None or ports[row] == now_port)
            and (domain is None or (number := addresses[row]) is None or number in domain)
        ]
        if not doubtful:
            yield state, True
            return
        certain = [row for row in rows if row not in set(doubtful)]
        if certain:
            yield state.drawing(certain), True
        for row in doubtful:
            yield from self._compared(settle(state.drawing([row])))

    @staticmethod
    def _compared(state: State) -> Iterator[tuple[State, bool]]:
        assert state.endpoint is not None  # noqa: S101 - set before
        address, port = state.endpoint
        equal = [state]
        for value, now in ((address, state.fields[DST]), (port, state.fields[DPORT])):
            still = []
            for one in equal:
                if value == now:
                    still.append(one)
                    continue
                number = one.known(value)
                if number is None:
                    raise UnknownMeaningError("a translation to what nobody knows")
                inside, others = split(one, now, Intervals.one(number))
                still += inside
                yield from ((other, True) for other in others)
            equal = still
        yield from ((one, False) for one in equal)

    # -- the way --

    def _go(self, state: State, waiting: list[State]) -> Ending | None:
        """Follows one state until it ends or splits."""
        while True:
            if state.step >= len(state.steps):
                return self._ending(state, Fate.TRANSLATED if state.endpoint else Fate.PASSED)
            step = state.steps[state.step]
            if isinstance(step, _Call):
                done = self._call(state, step, waiting)
                if done is not None:
                    return done[0]
            elif isinstance(step, _Route):
                self._route(state, step, waiting)
                return None
            else:
                self._note(state, step)
                state.step += 1

    def _note(self, state: State, step: object) -> None:
        if isinstance(step, _NatEnds):
            state.manips |= {step.manip}
        elif isinstance(step, _Enter):
            self._enter(state, step.hook)

    def _enter(self, state: State, hook: Hook) -> None:
        """What the kernel changes about a packet on its way to a hook."""
        leaving = hook in {Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING}
        state.fields[OIF] = Part(OIF) if leaving else 0
        if hook is Hook.FORWARD and self.machine.family is Family.IPV4:
            # ip_forward() takes the priority from the type of service: one of sixteen.
            state.fields[PRIO] = Bits(PRIO, keep=0xF)

    def _route(self, state: State, step: _Route, waiting: list[State]) -> None:
        machine = self.machine
        for one, is_local in split_local(state, DST):
            one.step = 0
            if step is _Route.ARRIVED:
                one.steps = machine.received if is_local else machine.forwarded
            elif is_local:
                one.steps = machine.looped
                one.fields[IIF] = LOOPBACK_INTERFACE
            else:
                one.steps = ()
            waiting.append(one)

    def _is_called(self, state: State, call: _Call) -> bool:
        if not call.is_nat:
            return self.connection is not Connection.TRANSLATED or call.is_behind_translation
        return self.connection.is_first and _MANIP[call.hook] not in state.manips

    def _call(self, state: State, call: _Call, waiting: list[State]) -> tuple[Ending | None] | None:
        """Goes on in a base chain; None when it was passed, else what ended (None: it has split)."""
        if not state.is_inside:
            if not self._is_called(state, call):
                state.step += 1
                return None
            state.rules, state.place, state.instruction, state.frame = call.chain.entered(), 0, 0, None
            state.registers, state.is_inside = {}, True
            state.path = (call.chain, state.path)
        verdict = self._walk(state, waiting)
        return (None,) if verdict is None else self._leave(state, call, verdict)

    def _leave(self, state: State, call: _Call, verdict: Verdict) -> tuple[Ending] | None:
        """Carries out a base chain's verdict; None when the packet goes on behind it."""
        code = verdict.code
        if code is Code.CONTINUE and call.chain.hook is not None:
            code = call.chain.hook.policy
        elif code is Code.ACCEPT and call.notes_accept:
            state.accepted = (*state.accepted, call.hook.value)
        if code is Code.ACCEPT:
            state.is_inside = False
            state.step += 1
            return None
        return (self._ending(state, _FATES[code], verdict.chain if code is Code.UNKNOWN else ""),)

    def _walk(self, state: State, waiting: list[State]) -> Verdict | None:
        """Follows rules to a verdict; CONTINUE at the end of the base chain, None when the state has split."""
        while True:
            state.place = self._next_place(state)
            if state.place >= len(state.rules):
                if not self._return(state):
                    return Verdict(Code.CONTINUE)
                continue
            rule = state.rules[state.place]
            verdict = self._verdict(state, rule, waiting)
            if verdict is _SPLIT:
                return None
            ended = self._move(state, rule, verdict)
            if ended is not None:
                return ended

    def _move(self, state: State, rule: Rule, verdict: Verdict | None) -> Verdict | None:
        """Goes on behind a rule, in another chain or where that was jumped to from; else the verdict on the packet."""
        if verdict is None or verdict.code is Code.CONTINUE:
            state.place += 1
            state.instruction = 0
            return None
        if verdict.code is Code.RETURN:
            return None if self._return(state) else Verdict(Code.CONTINUE)
        if verdict.code in {Code.JUMP, Code.GOTO}:
            return self._enter_chain(state, rule, verdict)
        return verdict

    def _verdict(self, state: State, rule: Rule, waiting: list[State]) -> Verdict | None:
        """The one that was found before the state split, or that of the rule."""
        verdict, state.decided = state.decided, None
        if verdict is None:
            return self._take(state, rule, waiting)
        state.path = (rule, state.path)
        return verdict

    @staticmethod
    def _return(state: State) -> bool:
        """Goes on where a chain was jumped to from; False in a base chain."""
        frame = state.frame
        if frame is None:
            return False
        state.rules, state.place, state.frame, state.instruction = frame.rules, frame.place, frame.above, 0
        return True

    def _next_place(self, state: State) -> int:
        """The next rule that may match: those for one destination other than the packet's are passed over."""
        place, rules = state.place, state.rules
        if state.instruction or place >= len(rules) or state.decided is not None:
            return place
        rule = rules[place]
        if rule.destination is None:
            return place
        skips = rule.chain.skips
        destination = state.known(state.fields[DST]) if skips is not None else None
        if skips is None or destination is None:
            return place
        best = len(rules)
        for places in (skips.general, skips.by_destination.get(destination, ())):
            found = _first_from(places, place)
            if found is not None:
                best = min(best, found)
        return best

    def _enter_chain(self, state: State, rule: Rule, verdict: Verdict) -> Verdict | None:
        chain = self.machine.chains.get((rule.chain.table, verdict.chain))
        if chain is None:
            return Verdict(Code.UNKNOWN, f"{rule}: no chain {verdict.chain}")
        depth, frame = 0, state.frame
        while frame is not None:
            depth, frame = depth + 1, frame.above
        if depth > _DEEPEST:
            return Verdict(Code.UNKNOWN, f"{rule}: chains that lead to each other")
        if verdict.code is Code.JUMP:
            state.frame = Frame(state.rules, state.place + 1, state.frame)
        state.rules, state.place, state.instruction = chain.entered(), 0, 0
        state.path = (chain, state.path)
        return None

    def _take(self, state: State, rule: Rule, waiting: list[State]) -> Verdict | None:
        """One rule: a verdict, None for none, _SPLIT when the state has split."""
        instructions = rule.instructions
        verdict: Verdict | None = None
        while verdict is None and state.instruction < len(instructions):
            try:
                result = instructions[state.instruction](state)
            except UnknownMeaningError as error:
                return Verdict(Code.UNKNOWN, f"{rule.chain}, rule {rule.place} ({rule.text}): {error}")
            state.instruction += 1
            if isinstance(result, list):
                if len(result) != 1 or result[0][0] is not state:
                    self._split(state.instruction, result, waiting)
                    return _SPLIT
                verdict = result[0][1]
            else:
                verdict = result
        if verdict is not None and verdict.code is Code.BREAK:
            return None
        state.path = (rule, state.path)
        return verdict

    @staticmethod
    def _split(instruction: int, result: list[tuple[State, Verdict | None]], waiting: list[State]) -> None:
        """Each part goes on behind the instruction, with its own verdict."""
        for one, verdict in result:
            if verdict is not None and verdict.code is Code.BREAK:
                one.place, one.instruction = one.place + 1, 0
            else:
                one.instruction, one.decided = instruction, verdict
            waiting.append(one)

    # -- the end --

    def _ending(self, state: State, fate: Fate, why: str = "") -> Ending:
        numbers = drawn_endpoints(state)
        endpoints = shares(numbers, state.choice.weights, state.weight / state.choice.total)
        seconds = None
        for one in state.remembered:
            seconds = one.seconds
            self._learn(one, state, numbers)
        remembered = seconds if state.endpoint is not None and fate is Fate.TRANSLATED else None
        refused = fate in {Fate.REJECTED, Fate.DROPPED}
        accepted = state.accepted
        outcome = Outcome(fate)
        if not refused:
            left = isinstance(state.fields[PRIO], (int, Column)) and state.known(state.fields[PRIO]) != 0
            outcome = Outcome(fate, state.masqueraded, accepted, remembered, _touched(state), left)
        return Ending(
            state.cell or state.region,
            state.region,
            state.relation,
            state.is_local,
            outcome,
            endpoints,
            state.path,
            state.asked.union((one.name, one.key) for one in state.remembered),
            why,
        )

    def _learn(self, one: Remembered, state: State, numbers: tuple[Endpoint | None, ...]) -> None:
        known = self.machine.learned.setdefault((one.name, one.key), {})
        for row, endpoint in enumerate(numbers):
            if endpoint is None:
                continue
            data: bytes | None = None
            if one.data is not None:
                value = state.choice.columns[one.data.place][row] if isinstance(one.data, Column) else one.data
                if not isinstance(value, int):
                    continue
                data = value.to_bytes(4, "big")
            known.setdefault(data, set()).add(endpoint)


def _touched(state: State) -> int:
    """The bits of the mark that may be others than at first."""
    mark, first = state.fields[MARK], state.region.bits(MARK)
    if isinstance(mark, Bits):
        return (~mark.keep | mark.flip) & 0xFFFFFFFF
    number = state.known(mark)
    return 0xFFFFFFFF if number is None else ~first.mask & 0xFFFFFFFF | (number ^ first.value) & first.mask


def drawn_endpoints(state: State) -> tuple[Endpoint | None, ...]:
    """Where packets go, for each row of what was drawn."""
    rows = len(state.choice.weights)
    if state.endpoint is None:
        return (None,) * rows
    address, port = (_column(state, value, rows) for value in state.endpoint)
    return tuple(zip(address, port, strict=True))


def _column(state: State, value: Value, rows: int) -> tuple[int, ...]:
    if isinstance(value, Column):
        return state.choice.columns[value.place]
    number = state.known(value)
    return (-1 if number is None else number,) * rows


def _stale(known: Collection[bytes | None]) -> bytes:
    """Data that no rule writes any more: as those that are written, but for some of its lowest bits."""
    written = next(data for data in known if data is not None)
    number = int.from_bytes(written, sys.byteorder)
    others = ((number ^ flipped).to_bytes(len(written), sys.byteorder) for flipped in range(1, 1 << 16))
    return next(data for data in others if data not in known)


def _first_from(places: tuple[int, ...], place: int) -> int | None:
    index = bisect_left(places, place)
    return places[index] if index < len(places) else None


_SPLIT = Verdict(Code.UNKNOWN, "split")
