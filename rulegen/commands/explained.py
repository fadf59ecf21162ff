"""An explained packet as one document: what Services, policies and egress masquerade make of it. Only values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from msgspec import UNSET, UnsetType

from rulegen.egress.explain import EgressExplanation
from rulegen.policies.explain import PolicyExplanation
from rulegen.services.explain.model import PacketExplanation


class PacketDocument(PacketExplanation, frozen=True, tag_field="version", tag=1):
    """`policies`, `egress_masquerade`: what they say, wherever the packet may be sent on to.

    Neither is there where its feature is off.
    """

    policies: tuple[PolicyExplanation, ...] | UnsetType = UNSET
    egress_masquerade: tuple[EgressExplanation, ...] | UnsetType = UNSET

    @classmethod
    def of(
        cls,
        explanation: PacketExplanation,
        policies: Sequence[PolicyExplanation] | None,
        egress: Sequence[EgressExplanation] | None,
    ) -> Self:
        """All as one. `policies`, `egress`: None where the feature is off."""
        values = {name: getattr(explanation, name) for name in explanation.__struct_fields__}
        return cls(
            **values,
            policies=UNSET if policies is None else tuple(policies),
            egress_masquerade=UNSET if egress is None else tuple(egress),
        )
