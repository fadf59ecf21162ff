"""The ranges of one family as a compiler has them, and whether there is anything to do. Pure, whatever the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from rulegen.config import Cidr, Family
from rulegen.egress.model import Range, Side

# Each side's ranges, with whose they are.
Ranges: TypeAlias = dict[Side, dict[Cidr, str]]


def no_ranges() -> Ranges:
    """None of any side."""
    return {side: {} for side in Side}


def is_wanted(ranges: Ranges) -> bool:
    """Without a pod of this node there is nothing to do."""
    return bool(ranges[Side.PODS])


def changed(ranges: Mapping[Family, Ranges], items: Mapping[Range, str | None]) -> dict[Family, set[Range]]:
    """Puts changed items into the ranges; returns those that came or went, by family."""
    touched: dict[Family, set[Range]] = {}
    for item, owner in items.items():
        found = ranges.get(item.family)
        if found is None:
            continue
        of_side = found[item.side]
        if (owner is None) is (item.cidr in of_side):
            touched.setdefault(item.family, set()).add(item)
        if owner is None:
            of_side.pop(item.cidr, None)
        else:
            of_side[item.cidr] = owner
    return touched
