"""Registers of nf_tables: pieces of values side by side, read and written in the lengths that expressions give."""

from __future__ import annotations

from rulegen.netfilter.model import UnknownMeaningError
from rulegen.netfilter.state import Piece, State
from rulegen.netfilter.values import Bits, Column, Part, Unknown, Value


def write(state: State, offset: int, pieces: list[Piece]) -> None:
    """Puts pieces side by side from `offset` on, over whatever was there."""
    end = offset + sum(length for _, length, _ in pieces)
    for place in [
        place for place, (_, length, _) in state.registers.items() if place < end and place + length > offset
    ]:
        del state.registers[place]
    for piece in pieces:
        state.registers[offset] = piece
        offset += piece[1]


def read(state: State, offset: int, length: int) -> list[Piece]:
    """The pieces of so many bytes. Raises UnknownMeaningError for what was never written."""
    found = state.registers.get(offset)
    if found is not None and found[1] == length:
        return [found]
    pieces = []
    end = offset + length
    while offset < end:
        place, (value, size, is_host) = _piece_at(state, offset)
        inside, taken = offset - place, min(place + size, end) - offset
        if taken != size:
            value = _slice(state, value, size, inside, taken, is_host=is_host)
        pieces.append((value, taken, is_host))
        offset += taken
    return pieces


def read_key(state: State, offset: int, length: int) -> tuple[list[Value], tuple[tuple[int, int, bool], ...]]:
    """The fields of a key, which begin at multiples of four bytes; and of each its offset, length and byte order."""
    values, layout = [], []
    start, end = offset, offset + length
    while offset < end:
        if offset not in state.registers and (offset - start) % 4:
            offset += 4 - (offset - start) % 4
            continue
        place, (value, size, is_host) = _piece_at(state, offset)
        inside, taken = offset - place, min(place + size, end) - offset
        if taken != size:
            value = _slice(state, value, size, inside, taken, is_host=is_host)
        values.append(value)
        layout.append((offset - start, taken, is_host))
        offset += taken
    return values, tuple(layout)


def _piece_at(state: State, offset: int) -> tuple[int, Piece]:
    for place, piece in state.registers.items():
        if place <= offset < place + piece[1]:
            return place, piece
    raise UnknownMeaningError("a register that no expression has filled")


def _slice(state: State, value: Value, size: int, inside: int, taken: int, *, is_host: bool) -> Value:
    if is_host:
        raise UnknownMeaningError("a part of a number in the machine's byte order")
    below = 8 * (size - inside - taken)
    mask = (1 << 8 * taken) - 1
    if type(value) is int:
        return value >> below & mask
    if isinstance(value, Column):
        column = state.choice.columns[value.place]
        state.choice, new = state.choice.with_column(tuple([number >> below & mask for number in column]))
        return new
    if isinstance(value, Part) and not inside and not value.zeros:
        return Part(value.variable, value.shift + below)
    raise UnknownMeaningError("a part of an address or a port")


def as_number(state: State, value: Value, length: int, *, is_host: bool, wanted_host: bool) -> Value:
    """A value in the other byte order, where that is wanted."""
    if is_host == wanted_host or length == 1:
        return value
    if type(value) is int:
        return swapped(value, length)
    if isinstance(value, Column):
        column = tuple([swapped(number, length) for number in state.choice.columns[value.place]])
        state.choice, new = state.choice.with_column(column)
        return new
    if isinstance(value, Unknown):
        return value
    raise UnknownMeaningError("a field of the packet in another byte order")


def swapped(number: int, length: int) -> int:
    """A number read from the other end."""
    return int.from_bytes(number.to_bytes(length, "big"), "little")


def masked(state: State, value: Value, bits: int, mask: int, flip: int) -> Value:
    """`value & mask ^ flip`, of so many bits."""
    if type(value) is int:
        return value & mask ^ flip
    if isinstance(value, Column):
        column = tuple([number & mask ^ flip for number in state.choice.columns[value.place]])
        state.choice, new = state.choice.with_column(column)
        return new
    if isinstance(value, Bits):
        return Bits(value.variable, value.keep & mask, value.flip & mask ^ flip) if mask else flip
    if isinstance(value, Part) and not flip and not value.zeros:
        low = (mask & -mask).bit_length() - 1
        if mask and mask == (1 << bits) - 1 >> low << low:
            return Part(value.variable, value.shift + low, low)
    known = state.known(value) if mask else 0
    return Unknown(("bits of an address or a port", value, mask, flip)) if known is None else known & mask ^ flip
