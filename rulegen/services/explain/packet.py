"""A packet as a person writes it comes in; what becomes of it goes out, with the rules and the entries behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rulegen.config import Family
from rulegen.networks import family_of
from rulegen.services.explain import following
from rulegen.services.explain.model import DeliveryExplanation, FollowedPacket, PacketExplanation, Ruleset, View
from rulegen.services.model import NodeSettings
from rulegen.services.node import host_addresses
from rulegen.services.simulate import (
    Destination,
    Fate,
    FrontendIndex,
    Outcome,
    Packet,
    simulate,
    source_towards,
)

NODE = "node"


class PacketQuestion(NamedTuple):
    """What is asked. `source`: canonical address, or NODE for the one that the node itself would choose.

    `node_addresses`: what the node has on its interfaces, canonical; None for what its Node object states.
    """

    source: str
    destination: Destination
    interface: str = ""
    node_addresses: tuple[str, ...] | None = None


def explain_packet(view: View, question: PacketQuestion) -> PacketExplanation:
    """What becomes of the first packet of a connection."""
    target = question.destination
    family = family_of(target.address)
    addresses = question.node_addresses
    if addresses is None:
        addresses = host_addresses(view.store.node)
    source = source_towards(target.address, addresses) if question.source == NODE else question.source
    packet = Packet(source, target.address, target.port, target.protocol, question.interface)
    settings = view.store.node_settings(family)
    if settings is None:
        return _without_rules(view, question, family, packet)
    index = FrontendIndex(service_port for service_port in view.store.service_ports() if service_port.family is family)
    outcome = simulate(index, settings, addresses, packet)
    return _explanation(view, question, settings, FollowedPacket(family, packet, outcome, addresses))


def _without_rules(view: View, question: PacketQuestion, family: Family, packet: Packet) -> PacketExplanation:
    return PacketExplanation(
        packet.source,
        str(question.destination),
        packet.interface,
        "",
        Fate.UNTOUCHED.value,
        (f"this node has no rules for {family.value}",),
        "",
        None,
        (),
        (),
        (),
        (),
        view.ruleset.packet_agrees(None),
    )


def _explanation(
    view: View, question: PacketQuestion, settings: NodeSettings, followed: FollowedPacket
) -> PacketExplanation:
    packet, outcome = followed.packet, followed.outcome
    balanced = outcome.matched.service_port if outcome.matched and outcome.fate is Fate.BALANCED else None
    way = view.ruleset.way(followed)
    deliveries = tuple(_deliveries(view.ruleset, outcome))
    return PacketExplanation(
        packet.source,
        str(question.destination),
        packet.interface,
        outcome.origin.value,
        outcome.fate.value,
        outcome.reasons,
        str(outcome.matched or ""),
        balanced.affinity_timeout if balanced else None,
        deliveries,
        (*_notes(settings, packet), *(view.ruleset.notes(balanced) if balanced else ())),
        way.chains,
        way.entries,
        view.ruleset.packet_agrees(followed),
        tuple(dict.fromkeys(following.elsewhere(way.endings))),
        tuple(following.otherwise(way.endings, outcome, deliveries)),
    )


def _deliveries(ruleset: Ruleset, outcome: Outcome) -> Iterator[DeliveryExplanation]:
    weighed = ruleset.weigh([delivery.backend for delivery in outcome.deliveries])
    for delivery, member in zip(outcome.deliveries, weighed.members, strict=True):
        fate, reason = ruleset.on_the_way(delivery)
        yield DeliveryExplanation(
            member.endpoint,
            delivery.probability,
            member.probability,
            delivery.masquerade,
            "" if fate is Fate.UNTOUCHED else f"{fate.value}: {reason}",
        )


def _notes(settings: NodeSettings, packet: Packet) -> Iterator[str]:
    if settings.detector is None:
        yield "pods cannot be told from other sources: no pod detector (SVC-48)"
    elif settings.detector.cidr is None and not packet.interface:
        yield "pods are told by the interface: without --interface the packet counts as from elsewhere (SVC-47)"
