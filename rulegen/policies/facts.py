"""What the feature hands on at once. Only values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self, TypeAlias

from rulegen.config import Family
from rulegen.policies.model import Address
from rulegen.policies.store import Id

PodRanges: TypeAlias = Mapping[Family, tuple[str, ...]]


class PolicyFacts(NamedTuple):
    """What differs from what was taken last.

    `items`: facts, None for those that are no more. `context`: the ranges of this node's pods, None: as before. `lost`:
    addresses that a pod had and has no more.
    """

    items: Mapping[Id, Any]
    context: PodRanges | None = None
    lost: tuple[Address, ...] = ()

    def followed_by(self, later: Self) -> PolicyFacts:
        """Both as one; of what is in both, the later."""
        context = self.context if later.context is None else later.context
        return PolicyFacts({**self.items, **later.items}, context, tuple(dict.fromkeys((*self.lost, *later.lost))))
