"""Socket filters in iptables' rules (`-m bpf`): whether one compares a packet's source with its destination. Pure.

The language is that of linux/filter.h. Of all filters that there may be, those are understood that load words of the two
addresses, compare them with each other, and answer 0 or something else.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    except (TypeError, ValueError):
        return False
    if len(program) != int(count):
        return False
    words = family.bits // 32
    wanted = frozenset(range(words))
    try:
        ends = list(_ends(family, program))
    except (IndexError, LookupError, RecursionError):
        return False
    matching = [equal for equal, _, result in ends if result]
    return matching == [wanted] and all(differing for _, differing, result in ends if not result)


def _ends(family: Family, program: list[_Instruction]) -> Iterator[tuple[frozenset[int], frozenset[int], int]]:
    """All ways through the filter: the words that are equal on it, those that are not, and the answer."""
    waiting: list[tuple[int, _Word | None, _Word | None, dict[int, _Word], frozenset[int], frozenset[int]]] = [
        (0, None, None, {}, frozenset(), frozenset())
    ]
    steps = 0
    while waiting:
        place, a, x, memory, equal, differing = waiting.pop()
        steps += 1
        if steps > _MOST_STEPS:
            raise LookupError
        code, if_true, if_false, operand = program[place]
        if code == _RETURN:
            yield equal, differing, operand
            continue
        if code == _EQUAL_X:
            if a is None or x is None or a[1] != x[1] or a[0] == x[0]:
                raise LookupError
            waiting.append((place + 1 + if_true, a, x, memory, equal | {a[1]}, differing))
            waiting.append((place + 1 + if_false, a, x, memory, equal, differing | {a[1]}))
            continue
        if code == _LOAD_WORD:
            a = _word(family, operand)
        elif code == _TO_X:
            x = a
        elif code == _TO_A:
            a = x
        elif code in {_STORE, _STORE_X}:
            stored = a if code == _STORE else x
            if stored is None:
                raise LookupError
            memory = memory | {operand: stored}
        elif code == _LOAD_MEMORY:
            a = memory[operand]
        elif code == _LOAD_X_MEMORY:
            x = memory[operand]
        else:
            raise LookupError
        waiting.append((place + 1, a, x, memory, equal, differing))


def _word(family: Family, offset: int) -> _Word:
    """What stands at an offset from the IP header."""
    size = family.bits // 8
    first = 12 if family is Family.IPV4 else 8
    for name, start in (("source", first), ("destination", first + size)):
        if start <= offset < start + size and not (offset - start) % 4:
            return name, (offset - start) // 4
    raise LookupError
