"""Socket filters in iptables' rules (`-m bpf`): whether one compares a packet's source with its destination. Pure.

The language is that of linux/filter.h. Of all filters that there may be, those are understood that load words of the
two addresses, compare them with each other, and answer 0 or something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from rulegen.netfilter.model import Family

_LOAD_WORD, _TO_X, _TO_A, _RETURN = 0x20, 0x07, 0x87, 0x06
_LOAD_X_MEMORY, _STORE, _STORE_X, _LOAD_MEMORY = 0x61, 0x02, 0x03, 0x60
_EQUAL_X = 0x1D
_MOST_STEPS = 1000
# Which address, and which word of it.
_Word: TypeAlias = tuple[str, int]


class _Instruction(NamedTuple):
    code: int
    if_true: int
    if_false: int
    operand: int


def compares_addresses(family: Family, text: str) -> bool:
    """Whether a filter matches exactly the packets from an address to itself. False for all others, known or not."""
    try:
        count, *parts = text.rstrip(",").split(",")
        program = [_Instruction(*map(int, part.split())) for part in parts]
        is_whole = len(program) == int(count)
    except (TypeError, ValueError):
        return False
    if not is_whole:
        return False
    words = family.bits // 32
    wanted = frozenset(range(words))
    try:
        ends = list(_ends(family, program))
    except (IndexError, LookupError, RecursionError):
        return False
    matching = [equal for equal, _, result in ends if result]
    return matching == [wanted] and all(differing for _, differing, result in ends if not result)


class _Way(NamedTuple):
    """A point on a way through a filter: what the registers and the memory hold, and what was compared."""

    place: int
    a: _Word | None
    x: _Word | None
    memory: Mapping[int, _Word]
    equal: frozenset[int]
    differing: frozenset[int]


def _ends(family: Family, program: list[_Instruction]) -> Iterator[tuple[frozenset[int], frozenset[int], int]]:
    """All ways through the filter: the words that are equal on it, those that are not, and the answer."""
    waiting = [_Way(0, None, None, {}, frozenset(), frozenset())]
    steps = 0
    while waiting:
        way = waiting.pop()
        steps += 1
        if steps > _MOST_STEPS:
            raise LookupError
        instruction = program[way.place]
        if instruction.code == _RETURN:
            yield way.equal, way.differing, instruction.operand
        elif instruction.code == _EQUAL_X:
            waiting += _compare(way, instruction)
        else:
            waiting.append(_move(family, way, instruction)._replace(place=way.place + 1))


def _compare(way: _Way, instruction: _Instruction) -> Iterator[_Way]:
    """The same word of both addresses; anything else raises LookupError."""
    if way.a is None or way.x is None or way.a[1] != way.x[1] or way.a[0] == way.x[0]:
        raise LookupError
    word = {way.a[1]}
    yield way._replace(place=way.place + 1 + instruction.if_true, equal=way.equal | word)
    yield way._replace(place=way.place + 1 + instruction.if_false, differing=way.differing | word)


def _move(family: Family, way: _Way, instruction: _Instruction) -> _Way:
    """Loads and stores; raises LookupError for everything else."""
    code, _, _, operand = instruction
    if code == _LOAD_WORD:
        return way._replace(a=_word(family, operand))
    if code in {_STORE, _STORE_X}:
        stored = way.a if code == _STORE else way.x
        if stored is None:
            raise LookupError
        return way._replace(memory={**way.memory, operand: stored})
    moved = {
        _TO_X: lambda: way._replace(x=way.a),
        _TO_A: lambda: way._replace(a=way.x),
        _LOAD_MEMORY: lambda: way._replace(a=way.memory[operand]),
        _LOAD_X_MEMORY: lambda: way._replace(x=way.memory[operand]),
    }
    return moved[code]()


def _word(family: Family, offset: int) -> _Word:
    """What stands at an offset from the IP header."""
    size = family.bits // 8
    first = 12 if family is Family.IPV4 else 8
    for name, start in (("source", first), ("destination", first + size)):
        if start <= offset < start + size and not (offset - start) % 4:
            return name, (offset - start) // 4
    raise LookupError
