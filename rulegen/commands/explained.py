"""An explained packet, or request, as one document: what all features make of it. Only values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from msgspec import UNSET, UnsetType

from rulegen.egress.explain import EgressExplanation
from rulegen.ingress.explain import RequestExplanation
from rulegen.policies.explain import PolicyExplanation
from rulegen.services.explain.model import PacketExplanation


class PacketDocument(PacketExplanation, frozen=True, tag_field="version", tag=1):
    """`policies`, `egress_masquerade`: what they say, wherever the packet may be sent on to; not there where off.

    `other_families`: the same question in the other family, where both ends have addresses of both.
    """

    policies: tuple[PolicyExplanation, ...] | UnsetType = UNSET
    egress_masquerade: tuple[EgressExplanation, ...] | UnsetType = UNSET
    other_families: tuple[PacketDocument, ...] = ()

    @classmethod
    def of(
        cls,
        explanation: PacketExplanation,
        policies: Sequence[PolicyExplanation] | None,
        egress: Sequence[EgressExplanation] | None,
        others: Sequence[PacketDocument] = (),
    ) -> Self:
        """All as one. `policies`, `egress`: None where the feature is off."""
        values = {name: getattr(explanation, name) for name in explanation.__struct_fields__}
        said = UNSET if policies is None else tuple(policies)
        leaving = UNSET if egress is None else tuple(egress)
        return cls(**values, policies=said, egress_masquerade=leaving, other_families=tuple(others))


class RequestDocument(RequestExplanation, frozen=True, tag_field="version", tag=1):
    """`packets`: what becomes of the request behind nginx, at the Service; none where it does not get that far."""

    packets: tuple[PacketDocument, ...] = ()

    @classmethod
    def with_packets(cls, explanation: RequestExplanation, packets: Sequence[PacketDocument]) -> Self:
        """Both as one."""
        values = {name: getattr(explanation, name) for name in explanation.__struct_fields__}
        return cls(**values, packets=tuple(packets))
