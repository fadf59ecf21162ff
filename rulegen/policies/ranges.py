"""Address blocks as people write them come in; ranges of addresses go out, subtracted and collapsed. Pure.

Interval sets of the kernel refuse ranges that overlap, and an `except` belongs to its own block alone: so it is taken
out before blocks come together.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, summarize_address_range

from rulegen.networks import parse_network
from rulegen.policies.model import Address, AddressRange


def parse_block(text: str) -> AddressRange | None:
    """The range of a CIDR, or None when it is none. Bits of the host are ignored, as everywhere in Kubernetes."""
    network = parse_network(text)
    return None if network is None else (network.network_address.packed, network.broadcast_address.packed)


def without(block: AddressRange, holes: Iterable[AddressRange]) -> list[AddressRange]:
    """What is left of a block; holes of the other family, or outside, take nothing."""
    size = len(block[0])
    first, end = _number(block[0]), _number(block[1])
    left = []
    for start, last in collapse(hole for hole in holes if len(hole[0]) == size):
        if first < _number(start):
            left.append((first, min(end, _number(start) - 1)))
        first = max(first, _number(last) + 1)
        if first > end:
            break
    if first <= end:
        left.append((first, end))
    return [(_address(one, size), _address(other, size)) for one, other in left]


def collapse(ranges: Iterable[AddressRange]) -> tuple[AddressRange, ...]:
    """The same addresses in the fewest ranges, IPv4 first, each family in order."""
    result: list[tuple[int, int, int]] = []
    for size, first, last in sorted((len(start), _number(start), _number(end)) for start, end in ranges):
        if result and result[-1][0] == size and first <= result[-1][2] + 1:
            result[-1] = (size, result[-1][1], max(last, result[-1][2]))
        else:
            result.append((size, first, last))
    return tuple((_address(first, size), _address(last, size)) for size, first, last in result)


def is_everything(block: AddressRange) -> bool:
    """Whether a range holds all addresses of its family."""
    return not any(block[0]) and all(byte == 0xFF for byte in block[1])


def text_of(block: AddressRange) -> str:
    """As nft reads it: `10.0.0.0/8`, `10.0.0.1`, `10.0.0.1-10.0.0.9`."""
    first, last = ip_address(block[0]), ip_address(block[1])
    if first == last:
        return str(first)
    networks = list(summarize_address_range(first, last))
    return str(networks[0]) if len(networks) == 1 else f"{first}-{last}"


def _number(address: Address) -> int:
    return int.from_bytes(address, "big")


def _address(number: int, size: int) -> Address:
    return number.to_bytes(size, "big")
