"""The iptables target, as explanations speak of it: a Compiler and live chains come in, words go out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import UNSET

from rulegen.config import Family
from rulegen.iptables.chains import EntryKey, Rules
from rulegen.iptables.diff_text import diff_text
from rulegen.iptables.text import comment_of
from rulegen.services.explain.model import Agreement, FollowedPacket, Member, Way, Weighed
from rulegen.services.model import Backend, ServicePort, ServicePortKey
from rulegen.services.on_iptables.annotate import AnnotatedChain, annotate, place
from rulegen.services.on_iptables.compiler import Compiler
from rulegen.services.on_iptables.lists import probabilities
from rulegen.services.on_iptables.subset import Subset, difference, service_port_part
from rulegen.services.on_iptables.trace import trace
from rulegen.services.simulate import Decision, Delivery, Destination, Origin

_REMEMBERED = (
    "session affinity: the kernel remembers 100 clients of each endpoint (xt_recent, ip_list_tot); beyond that the one "
    "that was silent longest is balanced anew"
)


class IptablesRuleset:
    """See `model.Ruleset`.

    `service_ports`: those that were compiled. `families`: those with rules. `live`: the kernel's chains, or None when
    they are not asked about.
    """

    def __init__(
        self,
        compiler: Compiler,
        service_ports: Iterable[ServicePort],
        families: Collection[Family],
        live: Mapping[EntryKey, Rules] | None = None,
    ) -> None:
        self.compiler = compiler
        self._service_ports = {(service_port.name, service_port.family): service_port for service_port in service_ports}
        self._families = families
        self._live = live

    def weigh(self, backends: Sequence[Backend]) -> Weighed:
        """A weight is the probability of a rule; there are no slots."""
        total = sum(backend.weight for backend in backends)
        members = tuple(
            Member(str(backend), backend.weight, backend.weight / total, UNSET, probability)
            for backend, probability in zip(backends, probabilities(backends), strict=True)
        )
        error = max((abs(member.probability / member.share - 1) for member in members), default=0.0)
        return Weighed(UNSET, error, members)

    def service_port_entries(self, service_port: ServicePortKey) -> tuple[AnnotatedChain, ...]:
        """The ServicePort's own chains, and of those on the way there the rules that lead there."""
        return annotate(service_port_part(self.compiler, service_port, self._destinations(service_port)).items())

    def notes(self, service_port: ServicePort) -> tuple[str, ...]:
        """How many clients session affinity remembers."""
        return () if service_port.affinity_timeout is None else (_REMEMBERED,)

    def on_the_way(self, delivery: Delivery) -> Decision:
        """The table filter sees where the packet is going by then (SVC-38)."""
        return delivery.decision

    def way(self, followed: FollowedPacket) -> Way:
        """Chains, and the rules that match there."""
        found = trace(
            self.compiler.entries(),
            followed.family,
            followed.packet,
            followed.node_addresses,
            sent=followed.outcome.origin is Origin.NODE,
        )
        return Way(tuple(place(passage.key) for passage in found.passages), annotate(found.passages))

    def service_ports_agree(self, service_ports: Collection[ServicePortKey]) -> Agreement | None:
        """The fixed part included."""
        destinations: dict[Family, list[Destination]] = {}
        for service_port in service_ports:
            destinations.setdefault(service_port[1], []).extend(self._destinations(service_port))
        return self._agreement(Subset(self._families, service_ports, destinations))

    def packet_agrees(self, followed: FollowedPacket | None) -> Agreement | None:
        """What decides about the packet: its Service, and all rules for its destination, before and after DNAT."""
        if followed is None:
            return self._agreement(Subset((), (), {}))
        family, packet, outcome, _ = followed
        matched = outcome.matched
        sent_to = [(delivery.backend.address, delivery.backend.port) for delivery in outcome.deliveries]
        destinations = [
            Destination(address, port, packet.protocol)
            for address, port in ((packet.destination, packet.port), ("", packet.port), *sent_to)
        ]
        service_ports = [(matched.service_port.name, family)] if matched else []
        return self._agreement(Subset([family], service_ports, {family: destinations}))

    def _destinations(self, key: ServicePortKey) -> list[Destination]:
        service_port = self._service_ports.get(key)
        frontends = service_port.frontends if service_port else ()
        return [Destination(frontend.address, frontend.port, key[0].protocol) for frontend in frontends]

    def _agreement(self, subset: Subset) -> Agreement | None:
        if self._live is None:
            return None
        delta = difference(self._live, self.compiler, subset)
        return Agreement(not delta, tuple(str(line) for line in diff_text(delta, lambda _, rules: comment_of(rules))))
