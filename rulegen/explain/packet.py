"""A packet as a person writes it comes in; what becomes of it goes out, with the rules and the entries behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rulegen.config import Family
from rulegen.errors import InputError, shown
from rulegen.explain.agreement import agreement
from rulegen.explain.model import DeliveryExplanation, PacketExplanation, View, members
from rulegen.kube.addresses import canonical_address
from rulegen.nftables.layout import LAYOUTS, EntryKey
from rulegen.nftables.scope import Scope, packet_keys
from rulegen.nftables.trace import Path, trace
from rulegen.nftables.words import in_words
from rulegen.routing.addresses import family_of
from rulegen.routing.flow import (
    Destination,
    Fate,
    FrontendIndex,
    Outcome,
    Packet,
    follow,
    parse_destination,
    source_towards,
)
from rulegen.routing.model import NodeRouting, RouteKey
from rulegen.routing.node import host_addresses

NODE = "node"


class PacketQuestion(NamedTuple):
    """What is asked. `source`: canonical address, or NODE for the one that the node itself would choose.

    `node_addresses`: what the node has on its interfaces, canonical; None for what its Node object states.
    """

    source: str
    destination: Destination
    interface: str = ""
    node_addresses: tuple[str, ...] | None = None


def parse_question(source: str, destination: str, interface: str) -> PacketQuestion:
    """From the options `--from`, `--to` and `--interface`. Raises InputError."""
    try:
        target = parse_destination(destination)
    except ValueError as error:
        raise InputError(f"--to: {error}") from error
    if source == NODE:
        return PacketQuestion(NODE, target, interface)
    address = canonical_address(source)
    if address is None:
        raise InputError(f"--from: expected an IP address or {NODE}, got {shown(source)}")
    if family_of(address) is not family_of(target.address):
        raise InputError(f"--from and --to: {address} and {target.address} are of different IP families")
    return PacketQuestion(address, target, interface)


def explain_packet(view: View, question: PacketQuestion) -> PacketExplanation:
    """What becomes of the first packet of a connection."""
    followed = _follow(view, question)
    packet, outcome = followed.packet, followed.outcome
    matched = outcome.matched if outcome else None
    path = _path(view, followed)
    entries = view.compiler.entries()
    return PacketExplanation(
        packet.source,
        str(question.destination),
        packet.interface,
        outcome.origin.value if outcome else "",
        outcome.fate.value if outcome else Fate.UNTOUCHED.value,
        outcome.reasons if outcome else (f"this node has no rules for {followed.family.value}",),
        str(matched) if matched else "",
        matched.route.affinity_timeout if matched and outcome and outcome.fate is Fate.BALANCED else None,
        tuple(_deliveries(outcome)) if outcome else (),
        tuple(_notes(followed)),
        path.chains,
        in_words((key, entries[key]) for key in path.keys),
        agreement(view, _scope(view, followed, path)),
    )


class _Followed(NamedTuple):
    """A packet and its Outcome; None for a family that the node has no rules for."""

    family: Family
    packet: Packet
    outcome: Outcome | None
    routing: NodeRouting | None
    node_addresses: tuple[str, ...]


def _follow(view: View, question: PacketQuestion) -> _Followed:
    target = question.destination
    family = family_of(target.address)
    addresses = question.node_addresses
    if addresses is None:
        addresses = host_addresses(view.cluster.node)
    source = source_towards(target.address, addresses) if question.source == NODE else question.source
    packet = Packet(source, target.address, target.port, target.protocol, question.interface)
    routing = view.cluster.node_routing(family)
    outcome = None
    if routing is not None:
        index = FrontendIndex(route for route in view.cluster.routes() if route.family is family)
        outcome = follow(index, routing, addresses, packet)
    return _Followed(family, packet, outcome, routing, addresses)


def _path(view: View, followed: _Followed) -> Path:
    if followed.outcome is None:
        return Path((), ())
    return trace(view.compiler.entries(), followed.family, followed.packet, followed.outcome, followed.node_addresses)


def _scope(view: View, followed: _Followed, path: Path) -> Scope:
    """What decides about the packet: its Service, what its destination would meet, what it met."""
    if followed.outcome is None:
        return Scope((), ())
    matched = followed.outcome.matched
    routes: list[RouteKey] = [(matched.route.name, matched.route.family)] if matched else []
    keys: set[EntryKey] = {*path.keys, *packet_keys(followed.family, followed.packet)}
    layout = LAYOUTS[followed.family]
    ranges = (layout.service_cidrs, layout.nodeport_addresses)
    keys.update(key for entries in (view.live or {}, view.compiler.entries()) for key in entries if key[0] in ranges)
    return Scope([followed.family], routes, keys)


def _deliveries(outcome: Outcome) -> Iterator[DeliveryExplanation]:
    found = members(tuple(delivery.backend for delivery in outcome.deliveries))
    for delivery, member in zip(outcome.deliveries, found, strict=True):
        fate, reason = delivery.decision
        yield DeliveryExplanation(
            member.endpoint,
            delivery.probability,
            member.probability,
            delivery.masquerade,
            "" if fate is Fate.UNTOUCHED else f"{fate.value}: {reason}",
        )


def _notes(followed: _Followed) -> Iterator[str]:
    routing = followed.routing
    if routing is None:
        return
    if routing.detector is None:
        yield "pods cannot be told from other sources: no pod detector (rule 48)"
    elif routing.detector.cidr is None and not followed.packet.interface:
        yield "pods are told by the interface: without --interface the packet counts as from elsewhere (rule 47)"
