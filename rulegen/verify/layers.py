"""What features besides the Services say of packets: a feature comes in, its part of the meaning goes out.

A feature that is not in the table here is one of which nothing is proved. To add one: a `Layer`, if it has a say about
packets on their way, or service-ports, if it has more of those; and a line in `_KNOWN`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from rulegen.config import Family, NodeConfiguration
from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.machine import Outcome
from rulegen.netfilter.state import Connection, State
from rulegen.services.feature import NAME as SERVICES
from rulegen.services.model import ServicePort


class Place(Enum):
    """Where the node has a packet by when a feature is asked."""

    FORWARDED = "forwarded"
    RECEIVED = "received"
    SENT = "sent by the node"


class Judged(NamedTuple):
    """Some packets, with what becomes of them. `why`: for people; "" where it is as it was."""

    state: State
    outcome: Outcome
    why: str = ""


class Layer(Protocol):
    """What one feature makes of packets that the Services have translated or let go on."""

    @property
    def foreign(self) -> Intervals:
        """Addresses that are not the node's, so that it sends nothing from them."""
        ...

    def judge(self, state: State, outcome: Outcome, connection: Connection, place: Place) -> Iterator[Judged]:
        """Splits packets by what the feature tells apart; together the parts are all of them."""
        ...


class Part(NamedTuple):
    """What a feature adds to the meaning: service-ports, and layers in the order in which packets meet them."""

    service_ports: Sequence[ServicePort] = ()
    layers: Sequence[Layer] = ()


class Node(NamedTuple):
    """What a feature's part depends on besides its objects."""

    configuration: NodeConfiguration
    family: Family
    is_iptables: bool


class _Feature(Protocol):
    @property
    def name(self) -> str: ...


def uncovered(features: Iterable[_Feature]) -> list[str]:
    """The features of which nothing is known."""
    return [feature.name for feature in features if feature.name != SERVICES and feature.name not in _KNOWN]


def parts(features: Iterable[_Feature], node: Node) -> list[Part]:
    """What those add that are known."""
    return [_KNOWN[feature.name](feature, node) for feature in features if feature.name in _KNOWN]


def _of_policies(feature: Any, node: Node) -> Part:
    from rulegen.verify.policies import PolicyMeaning

    settings = node.configuration.policies
    return Part(layers=[PolicyMeaning(feature.store, settings, node.family, is_iptables=node.is_iptables)])


def _of_egress(feature: Any, node: Node) -> Part:
    from rulegen.verify.egress import EgressMeaning

    return Part(layers=[EgressMeaning(feature.store, node.family)])


_KNOWN: dict[str, Callable[[Any, Node], Part]] = {"egress-masquerade": _of_egress, "network-policies": _of_policies}
