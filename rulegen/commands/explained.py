"""An explained packet as one document: what the Services' rules do, and what policies say of it. Only values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from msgspec import UNSET, UnsetType

from rulegen.policies.explain import PolicyExplanation
from rulegen.services.explain.model import PacketExplanation


class PacketDocument(PacketExplanation, frozen=True, tag_field="version", tag=1):
    """`policies`: what they say, wherever the packet may be sent on to; not there where the feature is off.

    `other_families`: the same question in the other family, where both ends have addresses of both.
    """

    policies: tuple[PolicyExplanation, ...] | UnsetType = UNSET
    other_families: tuple[PacketDocument, ...] = ()

    @classmethod
    def of(
        cls,
        explanation: PacketExplanation,
        policies: Sequence[PolicyExplanation] | None,
        others: Sequence[PacketDocument] = (),
    ) -> Self:
        """All as one. `policies`: None where the feature is off."""
        values = {name: getattr(explanation, name) for name in explanation.__struct_fields__}
        said = UNSET if policies is None else tuple(policies)
        return cls(**values, policies=said, other_families=tuple(others))
