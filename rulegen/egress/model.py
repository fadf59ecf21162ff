"""What the feature hands on: ranges of addresses, each on one side. Only values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Self

from rulegen.config import Cidr, Family

NAME = "egress-masquerade"


class Side(Enum):
    """What a range is about.

    PODS: sources, this node's pods. CLUSTER: destinations, pods and Services of the whole cluster, where the network
    model keeps the source. EXEMPT: destinations for which somebody has said so.
    """

    PODS = "pods"
    CLUSTER = "cluster"
    EXEMPT = "exempt"

    # Enum's own is written in Python.
    __hash__ = object.__hash__


class Range(NamedTuple):
    """An item's id. No range of a side lies within another."""

    side: Side
    family: Family
    cidr: Cidr


class TakenRanges(NamedTuple):
    """Ranges that differ, each with whose it is, as `Node worker-2`; None: gone.

    `context`: whether it is known by now whose traffic is masqueraded, and where to; None: as before. Until it is, what
    a kernel holds of the feature stays.
    """

    items: Mapping[Range, str | None]
    context: bool | None

    def followed_by(self, later: Self) -> TakenRanges:
        """Both as one."""
        context = self.context if later.context is None else later.context
        return TakenRanges({**self.items, **later.items}, context)
