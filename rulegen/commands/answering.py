"""What becomes of a packet, as the Services and the other features say together: a question in, an answer out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rulegen.commands.viewing import Sight
    from rulegen.egress.explain import EgressExplanation
    from rulegen.egress.feature import EgressMasquerade
    from rulegen.policies.explain import PolicyExplanation
    from rulegen.policies.feature import NetworkPolicies
    from rulegen.services.explain.asking import Asked
    from rulegen.services.explain.model import PacketExplanation


class Answer(NamedTuple):
    """What becomes of a packet; `policies`, `egress`: what they say of it, None where they are off."""

    explanation: PacketExplanation
    policies: list[PolicyExplanation] | None
    egress: list[EgressExplanation] | None


def answer_packet(view: Sight, asked: Asked) -> Answer:
    """With the policies' reasons in front of the Services'."""
    from msgspec.structs import replace

    from rulegen.services.explain import diagnosis

    explanation = diagnosis.answer(view.services, asked)
    egress = None if view.egress is None else list(_egress_explanations(view, view.egress, explanation, asked))
    if view.policies is None:
        return Answer(explanation, None, egress)
    from rulegen.policies.explain import denials as policy_denials
    from rulegen.services.explain.model import Cause, Why

    targets = _targets(explanation, asked)
    said = list(_policy_explanations(view.policies, explanation.source, asked.target.protocol, targets))
    denials = [
        Why(Cause.POLICY, message, (remedy,) if remedy else ())
        for one in said
        for message, remedy in policy_denials(one)
    ]
    return Answer(replace(explanation, why=(*denials, *explanation.why)), said, egress)


def _targets(explanation: PacketExplanation, asked: Asked) -> list[tuple[str, int]]:
    """Where the packet may be sent on to; nowhere where it is refused before policies are asked."""
    endpoints = [delivery.endpoint.rpartition(":") for delivery in explanation.deliveries if not delivery.decision]
    targets = [(address.strip("[]"), int(port)) for address, _, port in endpoints]
    if not targets and not explanation.frontend and asked.question is not None:
        targets = [(asked.question.destination.address, asked.question.destination.port)]
    return targets


def _egress_explanations(
    view: Sight, egress: EgressMasquerade, explanation: PacketExplanation, asked: Asked
) -> Iterator[EgressExplanation]:
    """Of each place that the packet may be sent on to with the source that it has."""
    from rulegen.egress.explain import explain as explain_egress
    from rulegen.services.node import host_addresses

    kept = [one.endpoint for one in explanation.deliveries if not (one.decision or one.masquerade)]
    destinations = [endpoint.rpartition(":")[0].strip("[]") for endpoint in kept]
    own = host_addresses(view.services.store.node)
    if asked.question is not None:
        own = (*own, *(asked.question.node_addresses or ()))
        if explanation.fate == "untouched":
            destinations = [asked.question.destination.address]
    yield from explain_egress(egress.store, explanation.source, destinations, own)


def _policy_explanations(
    policies: NetworkPolicies, source: str, protocol: str, targets: Iterable[tuple[str, int]]
) -> Iterator[PolicyExplanation]:
    """What policies say of the packet at each endpoint."""
    from rulegen.policies.explain import explain as explain_policies

    for address, port in targets:
        said = explain_policies(policies.store, source, address, protocol, port)
        if said is not None:
            yield said
