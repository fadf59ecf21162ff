"""What a diagnosis looks at: a packet, what becomes of it, and everybody who could have had it. Only reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import TypeAlias

from rulegen.config import Family
from rulegen.kube.objects import Service
from rulegen.networks import family_of
from rulegen.services.explain.asking import Asked
from rulegen.services.explain.model import PacketExplanation, View
from rulegen.services.explain.packet import PacketQuestion, explain_packet
from rulegen.services.model import SERVICE, Frontend, FrontendKind, NodeSettings, ServicePort
from rulegen.services.names import NamedPort
from rulegen.services.reasons import PortReasons
from rulegen.services.simulate import Destination, Fate, FrontendIndex, Match, Origin, Packet, simulate

# Of what would work so much is told, and so many destinations are tried.
_MOST_OFFERS = 5
_MOST_TRIED = 200


# Whether other features let a packet pass, by its source and where it goes once Services are through with it.
Admits: TypeAlias = Callable[[str, Destination], bool]


class Case:
    """A packet that was explained. `settings`: the node's part of its family, None where it has no rules for that.

    `admits`: what other features say of packets of its source.
    """

    def __init__(
        self, view: View, asked: Asked, question: PacketQuestion, explanation: PacketExplanation, admits: Admits
    ) -> None:
        self.view = view
        self.asked = asked
        self.explanation = explanation
        self.target = question.destination
        self.source = explanation.source
        self.interface = question.interface
        self._question = question
        self._admits = admits
        self.node_addresses = question.node_addresses or ()
        self.family: Family = family_of(self.target.address)
        self.settings: NodeSettings | None = view.store.node_settings(self.family)

    @property
    def node_name(self) -> str:
        """The own node's."""
        return self.view.configuration.node_name

    @cached_property
    def service_ports(self) -> list[ServicePort]:
        """Those of the family."""
        return [one for one in self.view.store.service_ports() if one.family is self.family]

    @cached_property
    def index(self) -> FrontendIndex:
        return FrontendIndex(self.service_ports)

    @property
    def matched(self) -> Match | None:
        """The frontend that decided."""
        target = self.target
        found = (
            self.index.by_address(target.address, target.port, target.protocol),
            self.index.by_node_port(target.port, target.protocol),
        )
        return next((one for one in found if one is not None and str(one) == self.explanation.frontend), None)

    def reasons_of(self, service_port: ServicePort) -> PortReasons | None:
        """Why its endpoints are in its lists; None for what is no Service's."""
        name = service_port.name
        found = self.view.store.reasons(name.namespace, name.name)
        return next((one for one in found if one.intent.name == name and one.intent.family is self.family), None)

    def admits(self, target: Destination) -> bool:
        """Whether other features let packets of the same source pass that go there directly."""
        return self._admits(self.source, target)

    def arrives(self, target: Destination) -> bool:
        """Whether a packet from the same source would reach an endpoint there."""
        if self.settings is None or family_of(target.address) is not self.family:
            return False
        packet = Packet(self.source, target.address, target.port, target.protocol, self.interface)
        outcome = simulate(self.index, self.settings, self.node_addresses, packet)
        return outcome.fate is Fate.BALANCED and all(
            one.decision.fate is Fate.UNTOUCHED
            and self.admits(Destination(one.backend.address, one.backend.port, target.protocol))
            for one in outcome.deliveries
        )

    def towards(self, target: Destination) -> Case:
        """A packet from the same source that goes there instead."""
        question = self._question._replace(destination=target)
        return Case(self.view, self.asked, question, explain_packet(self.view, question), self._admits)

    def offers(self, found: Iterable[tuple[Destination, str]]) -> tuple[str, ...]:
        """Of destinations, each with what it is, the first few that a packet from the same source reaches."""
        offers: list[str] = []
        for target, what in islice(found, _MOST_TRIED):
            if len(offers) == _MOST_OFFERS:
                break
            text = f"{target}, {what}"
            if text not in offers and self.arrives(target):
                offers.append(text)
        return tuple(offers)

    def ways_to(self, service: Service, wanted: Collection[NamedPort] = ()) -> Iterator[tuple[Destination, str]]:
        """The frontends of a Service, of the `wanted` ports where there are such; those that are likely first.

        Likely are the packet's protocol and address, and for clients from outside what is there for them.
        """
        key = (service.metadata.namespace, service.metadata.name)
        own = [one for one in self.service_ports if one.name[:2] == key and one.name.kind == SERVICE]
        if wanted:
            own = [one for one in own if any((one.name.port, one.name.protocol) == port[::2] for port in wanted)]
        is_outside = self.explanation.origin == Origin.OUTSIDE.value
        places = [(one, frontend) for one in own for frontend in one.frontends]
        places.sort(
            key=lambda place: (
                place[0].name.protocol != self.target.protocol,
                place[1].address != self.target.address,
                is_outside and place[1].kind is FrontendKind.CLUSTER_IP,
            )
        )
        for service_port, frontend in places:
            for address in [frontend.address] if frontend.address else self.node_addresses:
                yield way(service_port, frontend, address)


def way(service_port: ServicePort, frontend: Frontend, address: str) -> tuple[Destination, str]:
    """A frontend as a destination, and what it is in words."""
    where = Destination(address, frontend.port, service_port.name.protocol)
    return where, f"{frontend.kind.value} of {service_port.name}"
