"""What is left of a block."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rulegen.policies.model import AddressRange
from rulegen.policies.ranges import without

# The last addresses, where the one behind is none.
_LOWEST = 2**32 - 40
_PLACES = st.integers(_LOWEST, 2**32 - 1)


def _range(ends: tuple[int, int]) -> AddressRange:
    return min(ends).to_bytes(4, "big"), max(ends).to_bytes(4, "big")


_RANGES = st.tuples(_PLACES, _PLACES).map(_range)


@given(_RANGES, st.lists(_RANGES, max_size=4))
def test_what_is_left_is_each_address_that_no_exception_has(block: AddressRange, holes: list[AddressRange]) -> None:
    def addresses(ranges: list[AddressRange]) -> list[int]:
        return [
            number
            for first, last in ranges
            for number in range(int.from_bytes(first, "big"), int.from_bytes(last, "big") + 1)
        ]

    gone = set(addresses(holes))
    other_family = (bytes(16), bytes([255] * 16))
    left = without(block, [*holes, other_family])
    assert addresses(left) == [number for number in addresses([block]) if number not in gone]
