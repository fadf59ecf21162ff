"""What becomes of a packet, as the Services and the other features say together: a question in, an answer out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from rulegen.errors import printable

if TYPE_CHECKING:
    from rulegen.commands.viewing import Sight
    from rulegen.egress.explain import EgressExplanation
    from rulegen.egress.feature import EgressMasquerade
    from rulegen.ingress.explain import RequestExplanation
    from rulegen.ingress.requests import Request
    from rulegen.policies.explain import PolicyExplanation
    from rulegen.policies.feature import NetworkPolicies
    from rulegen.policies.simulate import Host
    from rulegen.services.explain.asking import Asked
    from rulegen.services.explain.model import PacketExplanation
    from rulegen.services.simulate import Destination

INGRESS = "ingress"


class Answer(NamedTuple):
    """What becomes of a packet; `policies`, `egress`: what they say of it, None where they are off."""

    explanation: PacketExplanation
    policies: list[PolicyExplanation] | None
    egress: list[EgressExplanation] | None


class RequestAnswer(NamedTuple):
    """What becomes of a request: what nginx does with it, and of its packets to the Service, where it sends any."""

    explanation: RequestExplanation
    packets: list[Answer]


def answer_request(view: Sight, source: str, request: Request) -> RequestAnswer:
    """`source`: who asks, as a person names it. Raises InputError."""
    from rulegen.features import feed, make
    from rulegen.ingress.explain import Known, Outcome, explain_request
    from rulegen.ingress.feature import IngressFeature

    node = view.services.configuration
    (feature,) = make([INGRESS], node)
    assert isinstance(feature, IngressFeature)  # noqa: S101 - which the registry says
    feed([feature], view.manifests.objects())
    feature.take()
    mentions = feature.mentions([request.host, "*." + request.host.partition(".")[2]])
    known = Known(feature.sites.now, mentions, node.ingress)
    explanation = explain_request(request, _client(view, source), known)
    if explanation.outcome is not Outcome.SERVICE:
        return RequestAnswer(explanation, [])
    return RequestAnswer(explanation, [answer_packet(view, one) for one in _behind_nginx(view, explanation)])


def _client(view: Sight, source: str) -> str:
    """Who asks, in words; that there is somebody of this name is all that counts."""
    from rulegen.services.parties import source as source_of

    found = source_of(view.services.directory, source)
    return f"pod {found.pod}" if found.pod is not None else printable(source)


def _behind_nginx(view: Sight, explanation: RequestExplanation) -> list[Asked]:
    """What nginx sends, as from this node: to one address of the Service, by the Service's name where that can be."""
    from rulegen.services.explain.asking import ask
    from rulegen.services.parties import THIS_NODE

    address = explanation.cluster_ip
    asked = ask(view.services, THIS_NODE, f"svc/{explanation.backend.rpartition(':')[0]}:{explanation.port}/tcp")
    named = [one for one in asked if one.question is not None and one.question.destination.address == address]
    place = f"[{address}]" if ":" in address else address
    return named or ask(view.services, THIS_NODE, f"{place}:{explanation.port}/tcp")


def answer_packet(view: Sight, asked: Asked) -> Answer:
    """With the policies' reasons in front of the Services'."""
    from msgspec.structs import replace

    from rulegen.services.explain import diagnosis

    policies = view.policies
    if policies is None:
        explanation = diagnosis.answer(view.services, asked)
        return Answer(explanation, None, _egress_answer(view, explanation, asked))
    from rulegen.policies.explain import denials as policy_denials
    from rulegen.policies.simulate import Host
    from rulegen.services.explain.model import Cause, Why

    host = Host.of(_own_addresses(view, asked), view.services.configuration.policies)

    def admits(source: str, place: Destination) -> bool:
        said = _policy_explanations(policies, source, place.protocol, [(place.address, place.port)], host)
        return all(one.allowed for one in said)

    explanation = diagnosis.answer(view.services, asked, admits)
    targets = _targets(explanation, asked)
    said = list(_policy_explanations(policies, explanation.source, asked.target.protocol, targets, host))
    denials = [
        Why(Cause.POLICY, message, (remedy,) if remedy else ())
        for one in said
        for message, remedy in policy_denials(one)
    ]
    whole = replace(explanation, why=(*denials, *explanation.why))
    return Answer(whole, said, _egress_answer(view, explanation, asked))


def _targets(explanation: PacketExplanation, asked: Asked) -> list[tuple[str, int]]:
    """Where the packet may be sent on to; nowhere where it is refused before policies are asked."""
    endpoints = [delivery.endpoint.rpartition(":") for delivery in explanation.deliveries if not delivery.decision]
    targets = [(address.strip("[]"), int(port)) for address, _, port in endpoints]
    if not targets and explanation.fate == "untouched" and asked.question is not None:
        targets = [(asked.question.destination.address, asked.question.destination.port)]
    return targets


def _egress_answer(view: Sight, explanation: PacketExplanation, asked: Asked) -> list[EgressExplanation] | None:
    """None where the feature is off."""
    return None if view.egress is None else list(_egress_explanations(view, view.egress, explanation, asked))


def _egress_explanations(
    view: Sight, egress: EgressMasquerade, explanation: PacketExplanation, asked: Asked
) -> Iterator[EgressExplanation]:
    """Of each place that the packet may be sent on to with the source that it has."""
    from rulegen.egress.explain import explain as explain_egress

    kept = [one.endpoint for one in explanation.deliveries if not (one.decision or one.masquerade)]
    destinations = [endpoint.rpartition(":")[0].strip("[]") for endpoint in kept]
    if asked.question is not None and explanation.fate == "untouched":
        destinations = [asked.question.destination.address]
    yield from explain_egress(egress.store, explanation.source, destinations, _own_addresses(view, asked))


def _own_addresses(view: Sight, asked: Asked) -> tuple[str, ...]:
    """The node's, as far as they are known."""
    from rulegen.services.node import host_addresses

    stated = () if asked.question is None else asked.question.node_addresses or ()
    return (*host_addresses(view.services.store.node), *stated)


def _policy_explanations(
    policies: NetworkPolicies, source: str, protocol: str, targets: Iterable[tuple[str, int]], host: Host
) -> Iterator[PolicyExplanation]:
    """What policies say of the packet at each endpoint."""
    from rulegen.policies.explain import explain as explain_policies

    for address, port in targets:
        said = explain_policies(policies.store, source, address, protocol, port, host)
        if said is not None:
            yield said
