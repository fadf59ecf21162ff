"""A set of packets on its way through rules: what it is by now, where it stands, what was decided about it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.model import Chain, Met, Rule, UnknownMeaningError, Verdict
from rulegen.netfilter.regions import DST, SRC, Region, split_bits
from rulegen.netfilter.values import NO_CHOICE, Bits, Choice, Column, Part, Unknown, Value

if TYPE_CHECKING:
    from rulegen.netfilter.machine import Run

# What `fib ... type` is of an address that is not the node's: anything but local.
NOT_LOCAL = Unknown(("not local",))
LOCAL = 2
# Of masquerading: one of the node's addresses, nobody knows which.
REPLACED_SOURCE = Unknown(("a source that was replaced",))

# The way, last thing first: chains that were entered, rules that matched, elements that were found.
Path: TypeAlias = "tuple[Chain | Rule | Met, Path] | None"
# A value in registers, its length in bytes, and whether it is in the machine's byte order.
Piece: TypeAlias = tuple[Value, int, bool]


class Connection(Enum):
    """What conntrack knows of a packet's connection.

    NEW: nothing. TRANSLATED: nothing, but somebody's DNAT before ours has changed the destination. UNREPLIED: it was
    let through before, and nobody has answered. UNTRACKED, INVALID: there is none.
    """

    NEW = "new"
    TRANSLATED = "translated by another program"
    UNREPLIED = "unreplied"
    ESTABLISHED = "established"
    RELATED = "related"
    UNTRACKED = "untracked"
    INVALID = "invalid"

    @property
    def is_first(self) -> bool:
        """Whether chains of type nat are called."""
        return self in {Connection.NEW, Connection.TRANSLATED}


class Remembered(NamedTuple):
    """A rule has written a key into a dynamic set: its known parts, and the data (None for a set)."""

    name: str
    key: Hashable
    data: Value | None
    seconds: int | None


class Frame(NamedTuple):
    """Where to go on after a chain."""

    rules: list[Rule]
    place: int
    above: Frame | None


class State:
    """Mutable; an instruction that splits it makes copies.

    `fields`: by variable, what stands in the packet now. `relation`: whether source and drawn destination are equal,
    `is_local` whether the drawn destination is the node's, None where nobody has asked. `cell`: the packets among which
    something was drawn.
    """

    __slots__ = (
        "accepted",
        "asked",
        "cell",
        "choice",
        "decided",
        "endpoint",
        "fields",
        "forgotten",
        "frame",
        "instruction",
        "is_inside",
        "is_local",
        "is_translated",
        "manips",
        "masqueraded",
        "path",
        "place",
        "region",
        "registers",
        "relation",
        "remembered",
        "rules",
        "run",
        "step",
        "steps",
        "weight",
    )

    def __init__(self, run: Run, region: Region, fields: list[Value]) -> None:
        """At the beginning of its way."""
        self.run = run
        self.region = region
        self.fields = fields
        self.registers: dict[int, Piece] = {}
        self.choice: Choice = NO_CHOICE
        self.relation: bool | None = None
        self.is_local: bool | None = None
        self.weight = Fraction(1)
        self.cell: Region | None = None
        self.rules: list[Rule] = []
        self.place = 0
        self.instruction = 0
        self.frame: Frame | None = None
        # A verdict that was found, and is still to be carried out.
        self.decided: Verdict | None = None
        self.is_inside = False
        self.steps: tuple[object, ...] = ()
        self.step = 0
        self.is_translated = False
        self.endpoint: tuple[Value, Value] | None = None
        self.masqueraded: bool = False
        self.manips: frozenset[str] = frozenset()
        self.accepted: tuple[str, ...] = ()
        self.remembered: tuple[Remembered, ...] = ()
        self.asked: frozenset[tuple[str, Hashable]] = frozenset()
        # What rules have deleted from dynamic sets.
        self.forgotten: frozenset[tuple[str, Hashable]] = frozenset()
        self.path: Path = None

    def copy(self) -> State:
        """One that changes on its own."""
        # Written out: this is what takes most of the time.
        new = State.__new__(State)
        new.accepted = self.accepted
        new.asked = self.asked
        new.cell = self.cell
        new.choice = self.choice
        new.decided = self.decided
        new.endpoint = self.endpoint
        new.fields = self.fields.copy()
        new.forgotten = self.forgotten
        new.frame = self.frame
        new.instruction = self.instruction
        new.is_inside = self.is_inside
        new.is_local = self.is_local
        new.is_translated = self.is_translated
        new.manips = self.manips
        new.masqueraded = self.masqueraded
        new.path = self.path
        new.place = self.place
        new.region = self.region
        new.registers = self.registers.copy()
        new.relation = self.relation
        new.remembered = self.remembered
        new.rules = self.rules
        new.run = self.run
        new.step = self.step
        new.steps = self.steps
        new.weight = self.weight
        return new

    def within(self, region: Region) -> State:
        """A copy with fewer packets."""
        new = self.copy()
        new.region = region
        return new

    def drawing(self, rows: list[int]) -> State:
        """A copy with only some of what was drawn."""
        new = self.copy()
        new.choice = self.choice.rows(rows)
        return new

    def known(self, value: Value) -> int | None:
        """The number, where only one is possible."""
        if type(value) is int:
            return value
        if isinstance(value, (Part, Bits)):
            return value.known(self.region)
        if isinstance(value, Column):
            column = self.choice.columns[value.place]
            return column[0] if len(set(column)) == 1 else None
        return None

    def draw(self) -> None:
        """Something is drawn from here on: what comes is a distribution over the packets that there are now."""
        if self.cell is None:
            self.cell = self.region


Split: TypeAlias = "tuple[list[State], list[State]]"


def split(state: State, value: Value, numbers: Intervals) -> Split:
    """The packets whose `value` is in `numbers`, and the others. Raises UnknownMeaningError."""
    if type(value) is int:
        return ([state], []) if value in numbers else ([], [state])
    if isinstance(value, Part):
        return _split_part(state, value, numbers)
    if isinstance(value, Column):
        return _split_column(state, value, numbers)
    if isinstance(value, Bits):
        return _split_bits(state, value, numbers)
    if value == NOT_LOCAL and numbers.only == LOCAL:
        return [], [state]
    if value == REPLACED_SOURCE and not numbers - state.run.foreign_addresses:
        return [], [state]
    raise UnknownMeaningError(f"a test of {what(value)}")


def split_by_all(state: State, tests: Iterable[tuple[Value, Intervals]]) -> Split:
    """The packets of which each value is in its numbers, and the others. Raises UnknownMeaningError."""
    inside, others = [state], []
    for value, numbers in tests:
        still = []
        for one in inside:
            yes, no = split(one, value, numbers)
            still += yes
            others += no
        inside = still
    return inside, others


def what(value: Value) -> str:
    """An unknown value in words."""
    return str(value.of[0]) if isinstance(value, Unknown) else "what nobody knows of a packet"


def _split_part(state: State, value: Part, numbers: Intervals) -> Split:
    domain = state.region.numbers(value.variable)
    inside = domain & value.widened(numbers)
    if not inside:
        return [], [state]
    if inside == domain:
        return [state], []
    yes = state.region.narrowed(value.variable, inside)
    no = state.region.narrowed(value.variable, domain - inside)
    if state.region.excluded:
        return (
            [] if yes.is_excluded() else [state.within(yes)],
            [] if no.is_excluded() else [state.within(no)],
        )
    other = state.within(no)
    state.region = yes
    return [state], [other]


def _split_column(state: State, value: Column, numbers: Intervals) -> Split:
    column = state.choice.columns[value.place]
    rows = [row for row, number in enumerate(column) if number in numbers]
    if len(rows) == len(column):
        return [state], []
    if not rows:
        return [], [state]
    inside = set(rows)
    others = [row for row in range(len(column)) if row not in inside]
    return [state.drawing(rows)], [state.drawing(others)]


def _split_bits(state: State, value: Bits, numbers: Intervals) -> Split:
    known = value.known(state.region)
    if known is not None:
        return ([state], []) if known in numbers else ([], [state])
    inside: list[State] = []
    rest = [state.region.bits(value.variable)]
    for low, high in numbers.ranges():
        if high - low > 64:
            raise UnknownMeaningError("a comparison of a mark or a priority with a long range")
        for number in range(low, high + 1):
            wanted = number ^ value.flip
            if wanted & ~value.keep:
                continue
            left = []
            for cube in rest:
                equal, others = split_bits(cube, value.keep, wanted)
                if equal is not None:
                    inside.append(state.within(state.region.narrowed(value.variable, equal)))
                left += others
            rest = left
    return inside, [state.within(state.region.narrowed(value.variable, cube)) for cube in rest]


# What a TCP header's flags say: SYN, and none of FIN, RST and ACK.
BEGINS = "begins a TCP connection"


def split_begins(state: State) -> list[tuple[State, bool]]:
    """Split by whether a TCP packet begins a connection; other packets must not be asked."""
    known = state.region.fact(BEGINS)
    return [(state, bool(known))] if known is not None else _decide(state, BEGINS)


# ---- addresses of the node ----


def split_local(state: State, variable: int) -> list[tuple[State, bool]]:
    """Split by whether the address that stands in SRC or DST now is one of the node's."""
    value = state.fields[variable]
    run = state.run
    if variable == SRC and (value == Part(SRC) or isinstance(value, Unknown)):
        # A source that was replaced is the node's, too.
        return [(state, run.is_sent)]
    if isinstance(value, Column):
        return _split_drawn_local(state, value)
    number = state.known(value)
    if number is not None:
        is_local = known_local(state, number)
        if is_local is not None:
            return [(state, is_local)]
        name: Hashable = number
    else:
        if not isinstance(value, Part):
            raise UnknownMeaningError("whether an address is the node's that nobody knows")
        name = ("local", value.variable)
        fact = state.region.fact(name)
        if fact is not None:
            return [(state, bool(fact))]
        return _split_known(state, value, name)
    return _decide(state, name)


def _split_known(state: State, value: Part, name: Hashable) -> list[tuple[State, bool]]:
    """By what is known to be the node's and not to be; of the rest both is tried."""
    ours, others = split(state, value, state.run.local_addresses)
    found = [(one, True) for one in ours]
    for other in others:
        foreign, unknown = split(other, value, state.run.foreign_addresses)
        found += [(one, False) for one in foreign]
        for one in unknown:
            found += _decide(one, name)
    return found


def _decide(state: State, name: Hashable) -> list[tuple[State, bool]]:
    """Nobody knows: it may be another one of the node's, or not."""
    return [(state.within(state.region.knowing(name, is_local)), is_local) for is_local in (True, False)]


def known_local(state: State, number: int) -> bool | None:
    """Whether an address is the node's, where that is known or was decided about these packets."""
    region, run = state.region, state.run
    if number in run.local_addresses:
        return True
    if number in run.foreign_addresses:
        return False
    if region.numbers(SRC).only == number:
        return run.is_sent
    fact = region.fact(number)
    if fact is None and region.numbers(DST).only == number:
        fact = region.fact(("local", DST))
    return None if fact is None else bool(fact)


def _split_drawn_local(state: State, column: Column) -> list[tuple[State, bool]]:
    if state.is_local is not None:
        return [(state, state.is_local)]
    if state.relation:
        state.is_local = state.run.is_sent
        return [(state, state.is_local)]
    rows: dict[bool | None, list[int]] = {}
    for row, number in enumerate(state.choice.columns[column.place]):
        rows.setdefault(known_local(state, number), []).append(row)
    found = []
    for is_local, indexes in rows.items():
        part = state if len(rows) == 1 else state.drawing(indexes)
        for decided in (True, False) if is_local is None else (is_local,):
            one = part.copy()
            one.is_local = decided
            found.append((one, decided))
    return found


def split_equal(state: State) -> list[tuple[State, bool]]:
    """Split by whether source and destination, as they are now, are the same address."""
    source, destination = state.fields[SRC], state.fields[DST]
    if source != Part(SRC):
        raise UnknownMeaningError("a comparison with a source that was changed")
    if destination == Part(DST):
        return [(state.within(region), equal) for region, equal in state.region.equal_ends()]
    if isinstance(destination, Column):
        return _split_drawn_equal(state, destination)
    if type(destination) is not int:
        raise UnknownMeaningError("a comparison with a destination that nobody knows")
    equal, others = split(state, source, Intervals.one(destination))
    return [*((one, True) for one in equal), *((one, False) for one in others)]


def _split_drawn_equal(state: State, column: Column) -> list[tuple[State, bool]]:
    if state.relation is not None:
        return [(state, state.relation)]
    domain = state.region.numbers(SRC)
    only = domain.only
    rows: dict[bool | None, list[int]] = {}
    for row, number in enumerate(state.choice.columns[column.place]):
        known = False if number not in domain else (True if only is not None else None)
        rows.setdefault(known, []).append(row)
    found = []
    for known, indexes in rows.items():
        part = state if len(rows) == 1 else state.drawing(indexes)
        for decided in (True, False) if known is None else (known,):
            one = part.copy()
            one.relation = decided
            found.append((one, decided))
    return found


__all__ = [
    "Connection",
    "Frame",
    "Remembered",
    "State",
    "Verdict",
    "known_local",
    "split",
    "split_begins",
    "split_equal",
    "split_local",
]
