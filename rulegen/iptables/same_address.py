"""The one comparison that iptables has no match for: source and destination of a packet with each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rulegen.config import Family

# Where source and destination address stand in a packet, and how many words of 32 bits they have.
_ADDRESSES = {Family.IPV4: (12, 16, 1), Family.IPV6: (8, 24, 4)}


def same_address(family: Family) -> str:
    """A BPF program as `-m bpf` takes it: true when the packet's source address is its destination."""
    source, destination, words = _ADDRESSES[family]
    instructions = list(_comparisons(source, destination, words))
    return ",".join(map(str, [len(instructions), *instructions]))


def _comparisons(source: int, destination: int, words: int) -> Iterator[str]:
    for word in range(words):
        yield f"32 0 0 {source + 4 * word}"
        yield "7 0 0 0"
        yield f"32 0 0 {destination + 4 * word}"
        # on to the next word, or to the last instruction
        yield f"29 0 {4 * (words - word) - 3} 0"
    yield "6 0 0 1"
    yield "6 0 0 0"
