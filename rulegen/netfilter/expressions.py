"""What expressions of nf_tables do to a packet, as the kernel's `nft_*` do it.

Byte order: fields of packets are big-endian in registers; marks, priorities, states and random numbers are in the
machine's order. Registers are byte offsets from 0.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from rulegen.netfilter.intervals import EMPTY, Intervals
from rulegen.netfilter.model import Code, Met, Result, Set, UnknownMeaningError, Verdict
from rulegen.netfilter.regions import DST, MARK, PRIO, PROTO, SPORT, SRC
from rulegen.netfilter.registers import as_number, masked, read, read_key, swapped, write
from rulegen.netfilter.state import (
    LOCAL,
    NOT_LOCAL,
    REPLACED_SOURCE,
    Connection,
    Piece,
    Remembered,
    State,
    split,
    split_begins,
    split_by_all,
    split_equal,
    split_local,
    what,
)
from rulegen.netfilter.tables import Found, KeyTable, TooManyUnknownsError
from rulegen.netfilter.values import Column, Part, Unknown, Value

BREAK = Verdict(Code.BREAK)
Split: TypeAlias = "list[tuple[State, Verdict | None]]"
_HOST_IS_LITTLE = sys.byteorder == "little"
_ICMP = Intervals.of([(1, 1), (58, 58)])
# Of ct state, as the kernel numbers it.
_INVALID = 0x01
# More values than any list has slots.
_MOST_DRAWN = 1 << 16
_EACH_WITH_ITSELF: Mapping[int, tuple[int, ...]] = {byte: (byte,) for byte in range(256)}
LayoutPart: TypeAlias = tuple[int, int, bool]


@dataclass(frozen=True, slots=True)
class Load:
    """`meta`, `payload`: fields of the packet into registers. `pieces`: variable or number, length, byte order."""

    register: int
    pieces: tuple[tuple[int | None, int, int, bool], ...]
    text: str

    def __call__(self, state: State) -> Result:
        """Each piece is (variable, number if there is none, length, is in the machine's order)."""
        fields = state.fields
        if len(self.pieces) == 1:
            variable, number, length, is_host = self.pieces[0]
            value = number if variable is None else fields[variable]
            write(state, self.register, [(value, length, is_host)])
            return None
        pieces: list[Piece] = [
            (number if variable is None else fields[variable], length, is_host)
            for variable, number, length, is_host in self.pieces
        ]
        write(state, self.register, pieces)
        return None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class LoadPrefix:
    """The first bytes of a field."""

    register: int
    variable: int
    length: int
    whole: int
    text: str

    def __call__(self, state: State) -> Result:
        """See `Load`."""
        value = state.fields[self.variable]
        write(state, self.register, [(value, self.whole, False)])
        pieces = read(state, self.register, self.length)
        write(state, self.register, [(0, self.whole, False)])
        write(state, self.register, pieces)
        return None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class LoadUnknown:
    """Something that no rule of ours reads; a test of it is not known."""

    register: int
    length: int
    text: str

    def __call__(self, state: State) -> Result:
        """See `Load`."""
        write(state, self.register, [(Unknown((self.text,)), self.length, False)])
        return None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class LoadByte:
    """One byte of an address, `place` counted from its beginning; `size`: of the address."""

    register: int
    variable: int
    place: int
    size: int
    text: str

    def __call__(self, state: State) -> Result:
        """See `Load`; of an address that is not known a byte in the middle is nothing that can be tested alone."""
        write(state, self.register, [(state.fields[self.variable], self.size, False)])
        try:
            pieces = read(state, self.register + self.place, 1)
        except UnknownMeaningError:
            pieces = [(Unknown((self.text,)), 1, False)]
        write(state, self.register, [(0, self.size, False)])
        write(state, self.register, pieces)
        return None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class SameBytes:
    """Each byte of the source, with the same byte of the destination, is in a set of pairs of bytes.

    Where the set holds each byte with itself and nothing else, that says that they are equal. Else, of each address the
    sources that match it are found out.
    """

    pairs: Set
    size: int

    def __call__(self, state: State) -> Result:
        """Splits."""
        if self.pairs.find is not None:
            return self._ask(state)
        partners = self._partners()
        if partners is _EACH_WITH_ITSELF:
            return [(one, None if equal else BREAK) for one, equal in split_equal(state)]
        destination = state.fields[DST]
        if isinstance(destination, Column):
            return self._row_by_row(state)
        number = state.known(destination)
        if number is None:
            raise UnknownMeaningError(
                f"addresses compared by {self.pairs.name}, in which pairs are missing or too many"
            )
        inside, others = split(state, state.fields[SRC], self._sources(partners, number))
        return [*((one, None) for one in inside), *((one, BREAK) for one in others)]

    def _row_by_row(self, state: State) -> Split:
        found: Split = []
        for row in range(len(state.choice.weights)):
            one = settle(state.drawing([row]))
            result = self(one)
            found += result if isinstance(result, list) else [(one, result)]
        return found

    def _ask(self, state: State) -> Result:
        """Of one packet: each byte of its addresses is looked up, for all that was drawn."""
        destination, source = state.fields[DST], state.known(state.fields[SRC])
        drawn = (
            state.choice.columns[destination.place] if isinstance(destination, Column) else (state.known(destination),)
        )
        if source is None or None in drawn:
            raise UnknownMeaningError(f"addresses compared by {self.pairs.name} that nobody knows")
        found = {number: self._elements(source, number) for number in set(drawn) if number is not None}
        if len(found) == 1:
            (elements,) = found.values()
            return self._met(state, elements)
        hits = [row for row, number in enumerate(drawn) if found[number]]  # type: ignore[index]
        missed = [row for row, number in enumerate(drawn) if not found[number]]  # type: ignore[index]
        # Of a source, one destination at most is the same address; with pairs that are wrong there may be more.
        parts = [(state.drawing([row]), found[drawn[row]]) for row in hits]  # type: ignore[index]
        if missed:
            parts.append((state.drawing(missed), []))
        return [(one, self._met(one, elements)) for one, elements in parts]

    def _elements(self, source: int, destination: int) -> list[bytes]:
        """The keys of the pairs of two addresses, from the first byte on; none if one is not there."""
        find = self.pairs.find
        assert find is not None  # noqa: S101 - who calls has looked
        ends = zip(source.to_bytes(self.size, "big"), destination.to_bytes(self.size, "big"), strict=True)
        elements = [find(bytes((one, 0, 0, 0, other, 0, 0, 0))) for one, other in ends]
        return [] if None in elements else [element.key for element in elements if element is not None]

    def _met(self, state: State, keys: Sequence[bytes]) -> Verdict | None:
        for key in keys:
            state.path = (Met(self.pairs, key), state.path)
        return None if keys else BREAK

    def _partners(self) -> Mapping[int, tuple[int, ...]]:
        """The bytes of sources that each byte of a destination is paired with."""
        if self.pairs.partners is None:
            found: dict[int, list[int]] = {byte: [] for byte in range(256)}
            for low, _, _ in self.pairs.elements:
                found[low[4]].append(low[0])
            partners = {byte: tuple(sources) for byte, sources in found.items()}
            self.pairs.partners = _EACH_WITH_ITSELF if partners == _EACH_WITH_ITSELF else partners
        return self.pairs.partners

    def _sources(self, partners: Mapping[int, tuple[int, ...]], destination: int) -> Intervals:
        numbers = [0]
        for byte in destination.to_bytes(self.size, "big"):
            numbers = [number << 8 | source for number in numbers for source in partners[byte]]
            if len(numbers) > _MOST_DRAWN:
                raise UnknownMeaningError(f"addresses compared by {self.pairs.name}, in which there are too many pairs")
        return Intervals.of((number, number) for number in numbers)

    def __str__(self) -> str:
        return f"source and destination byte by byte @{self.pairs.name}"


@dataclass(frozen=True, slots=True)
class LoadOriginal:
    """`ct original ip daddr`, `ct original proto-dst`: what the client asked for, before any DNAT."""

    register: int
    variable: int
    length: int

    def __call__(self, state: State) -> Result:
        """As the packet came; where another program has translated it before, nobody knows."""
        if not state.run.is_tracked(state):
            return BREAK
        known = state.run.connection is not Connection.TRANSLATED
        value: Value = Part(self.variable) if known else Unknown(("what a client asked another program for",))
        write(state, self.register, [(value, self.length, False)])
        return None

    def __str__(self) -> str:
        return "ct original daddr" if self.variable == DST else "ct original proto-dst"


@dataclass(frozen=True, slots=True)
class LoadConnection:
    """`ct state` and `ct status`."""

    register: int
    is_status: bool

    def __call__(self, state: State) -> Result:
        """Known: packets are followed for each state of their connection apart."""
        if not state.run.is_tracked(state):
            # Without a connection there is no status, and its state is invalid.
            if self.is_status:
                return BREAK
            write(state, self.register, [(_INVALID, 4, True)])
            return None
        number = state.run.connection_status(state) if self.is_status else state.run.connection_state
        write(state, self.register, [(number, 4, True)])
        return None

    def __str__(self) -> str:
        return "ct status" if self.is_status else "ct state"


@dataclass(frozen=True, slots=True)
class LoadAddressType:
    """`fib saddr type`, `fib daddr type`."""

    register: int
    variable: int

    def __call__(self, state: State) -> Result:
        """Local, or something else."""
        found: Split = []
        for one, is_local in split_local(state, self.variable):
            write(one, self.register, [(LOCAL if is_local else NOT_LOCAL, 4, True)])
            found.append((one, None))
        return found

    def __str__(self) -> str:
        return f"fib {'saddr' if self.variable == SRC else 'daddr'} type"


@dataclass(frozen=True, slots=True)
class Immediate:
    """A constant into a register."""

    register: int
    data: bytes

    def __call__(self, state: State) -> Result:
        """In the packet's byte order, as bytes are."""
        write(state, self.register, [(int.from_bytes(self.data, "big"), len(self.data), False)])
        return None

    def __str__(self) -> str:
        return f"0x{self.data.hex()}"


@dataclass(frozen=True, slots=True)
class Decide:
    """A verdict."""

    verdict: Verdict

    def __call__(self, _: State) -> Result:
        """Whatever the packet."""
        return self.verdict

    def __str__(self) -> str:
        return str(self.verdict)


@dataclass(frozen=True, slots=True)
class Bitwise:
    """`& mask ^ flip`; both are bytes as they are in registers."""

    source: int
    register: int
    mask: bytes
    flip: bytes
    text: str

    def __call__(self, state: State) -> Result:
        """Piece by piece."""
        offset = 0
        found: list[Piece] = []
        for value, length, is_host in read(state, self.source, len(self.mask)):
            order = sys.byteorder if is_host else "big"
            mask = int.from_bytes(self.mask[offset : offset + length], order)
            flip = int.from_bytes(self.flip[offset : offset + length], order)
            found.append((masked(state, value, 8 * length, mask, flip), length, is_host))
            offset += length
        write(state, self.register, found)
        return None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ByteOrder:
    """A number into the other byte order."""

    source: int
    register: int
    length: int

    def __call__(self, state: State) -> Result:
        """The number stays the same, so that only its order is another."""
        pieces = read(state, self.source, self.length)
        if len(pieces) != 1:
            raise UnknownMeaningError("the byte order of several fields at once")
        value, length, is_host = pieces[0]
        write(state, self.register, [(value, length, not is_host)])
        return None

    def __str__(self) -> str:
        return "in the other byte order"


@dataclass(frozen=True, slots=True)
class Compare:
    """A register with a constant, or with a range of them; `operator` as in nf_tables: ==, !=, <, <=, >, >=."""

    register: int
    operator: str
    data: bytes
    last: bytes | None
    text: str

    def __call__(self, state: State) -> Result:
        """Several pieces at once only for (in)equality."""
        pieces = read_comparable(state, self.register, len(self.data))
        if len(pieces) == 1:
            value, length, is_host = pieces[0]
            inside, others = split(state, value, self._numbers(self.data, length, is_host=is_host))
        else:
            inside, others = self._split_pieces(state, pieces)
        if self.operator == "!=":
            inside, others = others, inside
        if not others and len(inside) == 1 and inside[0] is state:
            return None
        if not inside:
            return BREAK if len(others) == 1 and others[0] is state else [(one, BREAK) for one in others]
        return [*((one, None) for one in inside), *((one, BREAK) for one in others)]

    def _split_pieces(self, state: State, pieces: list[Piece]) -> tuple[list[State], list[State]]:
        if self.operator not in {"==", "!="} or self.last is not None:
            raise UnknownMeaningError("a comparison of several fields at once")
        ends = accumulate(length for _, length, _ in pieces)
        tests = [
            (value, self._numbers(self.data[end - length : end], length, is_host=is_host))
            for (value, length, is_host), end in zip(pieces, ends, strict=True)
        ]
        return split_by_all(state, tests)

    def _numbers(self, data: bytes, length: int, *, is_host: bool) -> Intervals:
        """What the register must be in; for != what it must not be."""
        number = int.from_bytes(data, sys.byteorder if is_host else "big")
        if self.last is not None:
            if is_host and length > 1:
                raise UnknownMeaningError("a range of numbers in the machine's byte order")
            return Intervals.of([(number, int.from_bytes(self.last, "big"))])
        if self.operator in {"==", "!="}:
            return Intervals.one(number)
        if is_host and length > 1 and _HOST_IS_LITTLE:
            raise UnknownMeaningError("an order of numbers in the machine's byte order")
        highest = (1 << 8 * length) - 1
        low, high = {
            "<": (0, number - 1),
            "<=": (0, number),
            ">": (number + 1, highest),
            ">=": (number, highest),
        }[self.operator]
        return Intervals.of([(low, high)]) if low <= high else EMPTY

    def __str__(self) -> str:
        return self.text


def read_comparable(state: State, register: int, length: int) -> list[Piece]:
    """What a comparison of so many bytes reads: with fewer than there are, the first ones."""
    return read(state, register, length)


@dataclass(frozen=True, slots=True)
class Draw:
    """`numgen random mod N offset O`: each number equally likely, and each draw for itself.

    The kernel scales 32 random bits, so a number's probability is within 2^-32 of 1/N.
    """

    register: int
    modulus: int
    offset: int

    def __call__(self, state: State) -> Result:
        """What comes is a distribution."""
        if self.modulus == 1:
            write(state, self.register, [(self.offset, 4, True)])
            return None
        if self.modulus * len(state.choice.weights) > _MOST_DRAWN:
            raise UnknownMeaningError(f"a draw of {self.modulus} numbers")
        state.draw()
        state.choice, column = state.choice.times(self.modulus, self.offset)
        write(state, self.register, [(column, 4, True)])
        return None

    def __str__(self) -> str:
        return f"numgen random mod {self.modulus}" + (f" offset {self.offset}" if self.offset else "")


@dataclass(frozen=True, slots=True)
class Hash:
    """`jhash`: a function of which nothing is known but its input."""

    source: int
    register: int
    length: int
    function: tuple[int, int, int]

    def __call__(self, state: State) -> Result:
        """Good for keys of dynamic sets. `function`: modulus, seed and offset."""
        values, _ = read_key(state, self.source, self.length)
        write(state, self.register, [(Unknown(("jhash", tuple(values), self.function)), 4, True)])
        return None

    def __str__(self) -> str:
        return "jhash"


@dataclass(frozen=True, slots=True)
class SetField:
    """`meta mark set`, `meta priority set`."""

    register: int
    variable: int

    def __call__(self, state: State) -> Result:
        """In the machine's byte order."""
        pieces = read(state, self.register, 4)
        if len(pieces) != 1:
            raise UnknownMeaningError("a mark put together from several fields")
        value, length, is_host = pieces[0]
        value = as_number(state, value, length, is_host=is_host, wanted_host=True)
        if not isinstance(value, (int, Column)) and getattr(value, "variable", None) not in {MARK, PRIO}:
            known = state.known(value)
            value = Unknown(("a field in a mark", value)) if known is None else known
        state.fields[self.variable] = value
        return None

    def __str__(self) -> str:
        return f"meta {'mark' if self.variable == MARK else 'priority'} set"


def _is_foreign(state: State, table: KeyTable[bytes | Verdict | None], place: int) -> bool:
    """Whether all that a table has in a place of its keys is addresses that are not the node's."""
    return not Intervals.of(key[place] for key, _ in table.elements) - state.run.foreign_addresses


@dataclass(frozen=True, slots=True)
class Lookup:
    """A set or map; `register`: where the data goes, None for a set, 0 for a verdict."""

    found_in: Set
    source: int
    register: int | None
    is_verdict: bool
    is_inverted: bool

    def __call__(self, state: State) -> Result:
        """What hits goes on, what misses does not match; for a verdict map it goes on as well."""
        key, layout = read_key(state, self.source, self.found_in.key_length)
        if self.found_in.is_dynamic:
            return self._recall(state, key)
        if self.found_in.find is not None:
            return self._ask(state, key, layout)
        table = table_for(self.found_in, layout)
        if any(isinstance(part, Column) and state.known(part) is None for part in key):
            return self._lookup_drawn(state, table, key)
        if any(part == REPLACED_SOURCE and _is_foreign(state, table, place) for place, part in enumerate(key)):
            return self._missed(state)
        return self._lookup(state, table, key)

    def _lookup(self, state: State, table: KeyTable[bytes | Verdict | None], key: list[Value]) -> Result:
        hits, rest = self._look_up(state, table, [self._known(state, part) for part in key])
        if len(hits) == 1 and not rest and hits[0][0] is state.region:
            return self._hit(state, hits[0][1])
        if not hits:
            if len(rest) == 1 and rest[0] is state.region:
                return self._missed(state)
            return [(one, self._missed(one)) for one in map(state.within, rest)]
        found: Split = []
        for region, data in hits:
            one = state.within(region)
            found.append((one, self._hit(one, data)))
        found += [(one, self._missed(one)) for one in map(state.within, rest)]
        return found

    def _look_up(
        self, state: State, table: KeyTable[bytes | Verdict | None], parts: list[Value]
    ) -> Found[bytes | Verdict | None]:
        try:
            return table.lookup(state.region, parts)  # type: ignore[arg-type]
        except TooManyUnknownsError:
            raise UnknownMeaningError(f"a lookup in {self.found_in.name} of what is not known") from None

    def _known(self, state: State, part: Value) -> Value:
        if isinstance(part, Unknown):
            raise UnknownMeaningError(f"a lookup in {self.found_in.name} of {what(part)}")
        if isinstance(part, Column):
            number = state.known(part)
            assert number is not None  # noqa: S101 - looked up as drawn, else
            return number
        return part

    def _hit(self, state: State, data: bytes | Verdict | None) -> Verdict | None:
        if self.is_inverted:
            return BREAK
        if isinstance(data, Verdict):
            return data
        if self.register is not None and data is not None:
            write(state, self.register, [(int.from_bytes(data, "big"), len(data), False)])
        return None

    def _missed(self, _: State) -> Verdict | None:
        return None if self.is_inverted else BREAK

    # -- what depends on a draw --

    def _lookup_drawn(self, state: State, table: KeyTable[bytes | Verdict | None], key: list[Value]) -> Result:
        """Row by row; the rows that find data go on together, with the data as a column more."""
        columns = [state.choice.columns[part.place] if isinstance(part, Column) else None for part in key]
        others = [state.known(part) for part in key]
        if any(number is None for number, column in zip(others, columns, strict=True) if column is None):
            return self._lookup_drawn_and_unknown(state, table, key)
        answers = []
        for row in range(len(state.choice.weights)):
            wanted = tuple(
                [number if column is None else column[row] for number, column in zip(others, columns, strict=True)]
            )
            answers.append(table.get(wanted))  # type: ignore[arg-type]
        return self._divide(state, answers)

    def _divide(
        self, state: State, answers: Sequence[tuple[bytes | Verdict | None] | None], keys: Sequence[bytes] = ()
    ) -> Result:
        """By what was found for each row. `keys`: of the elements, where it is noted which were found."""
        hits: dict[object, list[tuple[int, bytes | Verdict | None]]] = {}
        missed = []
        for row, data in enumerate(answers):
            if data is None:
                missed.append(row)
            else:
                # Data go together, each verdict for itself.
                hits.setdefault(data[0] if isinstance(data[0], Verdict) else "", []).append((row, data[0]))
        found: Split = []
        for rows in hits.values():
            one = state.drawing([row for row, _ in rows])
            for row, _ in rows if keys else ():
                one.path = (Met(self.found_in, keys[row]), one.path)
            found.append((one, self._hit_drawn(one, [data for _, data in rows])))
        if missed:
            one = state.drawing(missed)
            found.append((one, self._missed(one)))
        return found

    def _hit_drawn(self, state: State, data: Sequence[bytes | Verdict | None]) -> Verdict | None:
        first = data[0]
        if not isinstance(first, bytes) or self.is_inverted or self.register is None:
            return self._hit(state, first)
        numbers = tuple([int.from_bytes(one, "big") for one in data if isinstance(one, bytes)])
        state.choice, column = state.choice.with_column(numbers)
        write(state, self.register, [(column, len(first), False)])
        return None

    def _lookup_drawn_and_unknown(
        self, state: State, table: KeyTable[bytes | Verdict | None], key: list[Value]
    ) -> Result:
        """The source is not known and the destination was drawn: who of the drawn ones is looked up with whom.

        Rows that hit only with the source that equals them stay together; others are followed one by one.
        """
        together: dict[str, list[int]] = {"miss": [], "equal": [], "single": []}
        domain = state.region.numbers(SRC)
        for row in range(len(state.choice.weights)):
            parts = [
                state.choice.columns[part.place][row] if isinstance(part, Column) else self._known(state, part)
                for part in key
            ]
            hits, rest = self._look_up(state, table, parts)
            destination = state.fields[DST]
            if not hits:
                together["miss"].append(row)
            elif (
                len(hits) == 1
                and isinstance(destination, Column)
                and Part(SRC) in key
                and hits[0][0].numbers(SRC) == Intervals.one(state.choice.columns[destination.place][row])
                and (rest or domain.only is not None)
                and all(state.known(part) is not None or part == Part(SRC) or isinstance(part, Column) for part in key)
            ):
                together["equal"].append(row)
            else:
                together["single"].append(row)
        found: Split = []
        if together["miss"]:
            one = state.drawing(together["miss"])
            found.append((one, self._missed(one)))
        if together["equal"]:
            found += self._split_by_relation(state.drawing(together["equal"]), table, key)
        for row in together["single"]:
            one = self._apart(state, row)
            result = self(one)
            found += result if isinstance(result, list) else [(one, result)]
        return found

    def _split_by_relation(self, state: State, table: KeyTable[bytes | Verdict | None], key: list[Value]) -> Split:
        found: Split = []
        for equal in (True, False) if state.relation is None else (state.relation,):
            one = state.copy()
            one.relation = equal
            if not equal:
                found.append((one, self._missed(one)))
                continue
            data = {self._data_of_equal(one, table, key, row) for row in range(len(one.choice.weights))}
            if len(data) != 1:
                raise UnknownMeaningError(f"data in {self.found_in.name} that depend on a draw and on the client")
            found.append((one, self._hit(one, data.pop())))
        return found

    def _data_of_equal(
        self, state: State, table: KeyTable[bytes | Verdict | None], key: list[Value], row: int
    ) -> bytes | Verdict | None:
        parts = [state.choice.columns[part.place][row] if isinstance(part, Column) else part for part in key]
        return table.lookup(state.region, parts).hits[0][1]  # type: ignore[arg-type]

    def _apart(self, state: State, row: int) -> State:
        """One row as a number in the packet, and no draw any more."""
        one = state.drawing([row])
        return settle(one)

    # -- sets that are asked for one key at a time --

    def _ask(self, state: State, key: list[Value], layout: tuple[LayoutPart, ...]) -> Result:
        """Of one packet everything is known but what was drawn."""
        find = self.found_in.find
        assert find is not None  # noqa: S101 - who calls has looked
        columns = [state.choice.columns[part.place] if isinstance(part, Column) else None for part in key]
        others = [None if isinstance(part, Unknown) else state.known(part) for part in key]
        for part, number, column in zip(key, others, columns, strict=True):
            if number is None and column is None:
                raise UnknownMeaningError(f"a lookup in {self.found_in.name} of {what(part)}")
        rows = 1 if None not in others else len(state.choice.weights)
        answers = [
            find(_key_bytes(numbers, layout, self.found_in.key_length))
            for numbers in (
                [column[row] if number is None else number for number, column in zip(others, columns, strict=True)]  # type: ignore[index]
                for row in range(rows)
            )
        ]
        if rows > 1:
            keys = [b"" if one is None else one.key for one in answers]
            return self._divide(state, [None if one is None else (one.data,) for one in answers], keys)
        (found,) = answers
        if found is None:
            return self._missed(state)
        state.path = (Met(self.found_in, found.key), state.path)
        return self._hit(state, found.data)

    # -- what rules remember --

    def _recall(self, state: State, key: list[Value]) -> Result:
        name, known = self.found_in.name, known_key(state, key)
        written = written_before(state, name, known)
        if written is not None:
            if self.register is not None and written.data is not None and not self.is_inverted:
                write(state, self.register, [(written.data, self.found_in.data_length, False)])
            return BREAK if self.is_inverted else None
        if (name, known) in state.forgotten:
            return self._missed(state)
        data = state.run.recalled(name, known)
        state.asked |= {(name, known)}
        if data is None:
            return self._missed(state)
        return self._hit(state, data[0])

    def __str__(self) -> str:
        word = {True: "vmap", False: "map" if self.found_in.is_map else ""}[self.is_verdict]
        return " ".join(filter(None, ("!=" if self.is_inverted else "", word, f"@{self.found_in.name}")))


def written_before(state: State, name: str, key: tuple[int, ...]) -> Remembered | None:
    """What the packet itself has written into a dynamic set on its way."""
    return next((one for one in state.remembered if (one.name, one.key) == (name, key)), None)


def known_key(state: State, key: Sequence[Value]) -> tuple[int, ...]:
    """The known fields of a key of a dynamic set; the others must be the client or a function of it.

    Raises UnknownMeaningError.
    """
    known = []
    for part in key:
        number = None if part == Part(SRC) else state.known(part)
        if number is not None:
            known.append(number)
        elif not _is_client(part):
            raise UnknownMeaningError("a key of a dynamic set that is not the client's")
    return tuple(known)


def _is_client(part: object) -> bool:
    if isinstance(part, Unknown):
        kind, *rest = part.of
        return kind == "jhash" and isinstance(rest[0], tuple) and all(map(_is_client, rest[0]))
    return isinstance(part, Part) and part.variable == SRC


def settle(state: State) -> State:
    """A state of which one row is left, without a draw: numbers stand where columns stood."""
    choice = state.choice
    assert len(choice.weights) == 1  # noqa: S101 - the caller has taken one row

    def number(value: Value) -> Value:
        return choice.columns[value.place][0] if isinstance(value, Column) else value

    state.weight *= choice.share(0)
    old = state.fields[DST]
    state.fields = [number(value) for value in state.fields]
    state.registers = {place: (number(value), *rest) for place, (value, *rest) in state.registers.items()}  # type: ignore[misc]
    if state.endpoint is not None:
        state.endpoint = (number(state.endpoint[0]), number(state.endpoint[1]))
    state.remembered = tuple(
        one._replace(data=None if one.data is None else number(one.data)) for one in state.remembered
    )
    destination = number(old)
    if isinstance(destination, int):
        _settle_facts(state, destination)
    state.choice = type(choice)((1,), 1, ())
    state.relation = state.is_local = None
    return state


def _settle_facts(state: State, destination: int) -> None:
    domain = state.region.numbers(SRC)
    one = Intervals.one(destination)
    if state.relation is True:
        state.region = state.region.narrowed(SRC, domain & one)
    elif state.relation is False:
        state.region = state.region.narrowed(SRC, domain - one)
    if state.is_local is not None and state.region.fact(destination) is None:
        state.region = state.region.knowing(destination, state.is_local)


def table_for(found_in: Set, layout: tuple[LayoutPart, ...]) -> KeyTable[bytes | Verdict | None]:
    """A set's elements with keys as a rule has put them together."""
    signature = tuple(length << 1 | is_host for _, length, is_host in layout)
    table = found_in.tables.get(signature)
    if table is None:
        elements = [(tuple(_range(low, high, part) for part in layout), data) for low, high, data in found_in.elements]
        table = found_in.tables[signature] = KeyTable(elements)
    return table


def _key_bytes(numbers: Sequence[int], layout: tuple[LayoutPart, ...], size: int) -> bytes:
    """A key as the kernel has it, each field filled up to four bytes."""
    key = bytearray(size)
    for number, (start, length, is_host) in zip(numbers, layout, strict=True):
        key[start : start + length] = number.to_bytes(length, sys.byteorder if is_host else "big")
    return bytes(key)


def _range(low: bytes, high: bytes, part: LayoutPart) -> tuple[int, int]:
    start, length, is_host = part
    first, last = (int.from_bytes(data[start : start + length], "big") for data in (low, high))
    if is_host:
        if first != last:
            raise UnknownMeaningError("a range of numbers in the machine's byte order")
        first = last = swapped(first, length) if _HOST_IS_LITTLE else first
    return first, last


@dataclass(frozen=True, slots=True)
class Update:
    """`add`, `update`, `delete` of an element of a dynamic set. `timeout`: seconds, None for the set's own."""

    written: Set
    operation: str
    key: int
    data: int | None
    data_length: int
    timeout: int | None

    def __call__(self, state: State) -> Result:
        """What is written is noted with the packet; what the rule remembers by it, the run finds out."""
        values, _ = read_key(state, self.key, self.written.key_length)
        known = known_key(state, values)
        mine = tuple(one for one in state.remembered if (one.name, one.key) != (self.written.name, known))
        if self.operation == "delete":
            state.remembered = mine
            state.forgotten |= {(self.written.name, known)}
            return None
        data: Value | None = None
        if self.data is not None:
            pieces = read(state, self.data, self.data_length)
            if len(pieces) != 1:
                raise UnknownMeaningError("data of a dynamic set put together from several fields")
            value, length, is_host = pieces[0]
            data = as_number(state, value, length, is_host=is_host, wanted_host=False)
            data = self._kept(state, known, data)
        seconds = self.written.timeout if self.timeout is None else self.timeout
        state.remembered = (*mine, Remembered(self.written.name, known, data, seconds))
        return None

    def _kept(self, state: State, key: tuple[int, ...], data: Value) -> Value | None:
        """What is there by then: an element that was there before keeps its data."""
        name = self.written.name
        before = written_before(state, name, key)
        if before is not None:
            return before.data
        found = None if (name, key) in state.forgotten else state.run.recalled(name, key)
        return data if found is None or found[0] is None else int.from_bytes(found[0], "big")

    def __str__(self) -> str:
        return f"{self.operation} @{self.written.name}"


@dataclass(frozen=True, slots=True)
class Translate:
    """`dnat`; the port is None where it stays."""

    address: int | None
    address_length: int
    port: int | None
    text: str

    def __call__(self, state: State) -> Result:
        """Ends the chains of type nat."""
        address = state.fields[DST]
        if self.address is not None:
            address = self._one(state, self.address, self.address_length)
        port: Value | None = None
        if self.port is not None:
            port = self._one(state, self.port, 2)
        return state.run.translate(state, address, port)

    def _one(self, state: State, register: int, length: int) -> Value:
        pieces = read(state, register, length)
        if len(pieces) != 1 or pieces[0][2]:
            raise UnknownMeaningError("an address to translate to put together from several fields")
        return pieces[0][0]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Masquerade:
    """`masquerade`."""

    def __call__(self, state: State) -> Result:
        """Ends the chains of type nat; what the node sends to itself goes on with another source."""
        state.masqueraded = True
        state.fields[SRC] = REPLACED_SOURCE
        state.manips |= {"source"}
        # What ICMP has in place of a port, its type, stays.
        icmp, others = split(state, Part(PROTO), _ICMP)
        for one in others:
            one.fields[SPORT] = Unknown(("a source port that was replaced",))
        return [(one, Verdict(Code.ACCEPT)) for one in (*icmp, *others)]

    def __str__(self) -> str:
        return "masquerade"


@dataclass(frozen=True, slots=True)
class BeginsConnection:
    """Of FIN, SYN, RST and ACK a TCP header has SYN only, or (`is_negated`) something else."""

    is_negated: bool

    def __call__(self, state: State) -> Result:
        """Splits."""
        return [(one, None if begins is not self.is_negated else BREAK) for one, begins in split_begins(state)]

    def __str__(self) -> str:
        return f"tcp flags & (fin | syn | rst | ack) {'!=' if self.is_negated else '=='} syn"


@dataclass(frozen=True, slots=True)
class Nothing:
    """What changes nothing about a packet: a counter, a comment."""

    text: str

    def __call__(self, _: State) -> Result:
        """Goes on."""
        return None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Mystery:
    """What the evaluator does not know."""

    text: str

    def __call__(self, _: State) -> Result:
        """Raises UnknownMeaningError, always."""
        raise UnknownMeaningError(self.text)

    def __str__(self) -> str:
        return self.text
