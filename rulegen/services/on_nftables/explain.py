"""The nftables target, as explanations speak of it: a Compiler and live entries come in, words go out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rulegen.config import Family
from rulegen.nftables.diff_text import diff_text
from rulegen.nftables.elements import EntryKey, Value
from rulegen.services.explain.model import Agreement, FollowedPacket, Member, Way, Weighed
from rulegen.services.model import Backend, ServicePort, ServicePortKey
from rulegen.services.on_nftables.annotate import AnnotatedEntry, annotate
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.names import names_in, owner_among
from rulegen.services.on_nftables.slots import rounding_error, slot_counts
from rulegen.services.on_nftables.subset import Subset, difference, packet_keys
from rulegen.services.on_nftables.trace import Path, trace
from rulegen.services.simulate import Decision, Delivery, Fate


class NftablesRuleset:
    """See `model.Ruleset`.

    `families`: those with rules. `live`: the kernel's entries, whose ids `compiler` has adopted, or None when they are
    not asked about.
    """

    def __init__(
        self, compiler: Compiler, families: Collection[Family], live: Mapping[EntryKey, Value] | None = None
    ) -> None:
        self.compiler = compiler
        self._families = families
        self._live = None if live is None else _of_services(live)

    def weigh(self, backends: Sequence[Backend]) -> Weighed:
        """A weight is a number of slots."""
        weights = [backend.weight for backend in backends]
        counts = slot_counts(weights)
        total, slots = sum(weights), sum(counts)
        members = tuple(
            Member(str(backend), backend.weight, backend.weight / total, count, count / slots)
            for backend, count in zip(backends, counts, strict=True)
        )
        return Weighed(slots, rounding_error(weights, counts), members)

    def service_port_entries(self, service_port: ServicePortKey) -> tuple[AnnotatedEntry, ...]:
        """Elements, and the chains that they lead to."""
        return annotate(self.compiler.service_port_entries(service_port).items())

    def notes(self, _: ServicePort) -> tuple[str, ...]:
        """None: there is nothing that this target lacks."""
        return ()

    def on_the_way(self, _: Delivery) -> Decision:
        """Nothing: what is translated is not asked again (D20)."""
        return Decision(Fate.UNTOUCHED, "")

    def way(self, followed: FollowedPacket) -> Way:
        """Chains, and the elements that are looked up there."""
        path = self._path(followed)
        entries = self.compiler.entries()
        return Way(path.chains, annotate((key, entries[key]) for key in path.keys))

    def service_ports_agree(self, service_ports: Collection[ServicePortKey]) -> Agreement | None:
        """The fixed part included."""
        return self._agreement(Subset(self._families, service_ports))

    def packet_agrees(self, followed: FollowedPacket | None) -> Agreement | None:
        """What decides about the packet: its Service, what its destination would meet, what it met."""
        if followed is None:
            return self._agreement(Subset((), ()))
        family, matched = followed.family, followed.outcome.matched
        service_ports: list[ServicePortKey] = [(matched.service_port.name, family)] if matched else []
        keys: set[EntryKey] = {*self._path(followed).keys, *packet_keys(family, followed.packet)}
        layout = LAYOUTS[family]
        ranges = (layout.service_cidrs, layout.nodeport_addresses)
        for entries in (self._live or {}, self.compiler.entries()):
            keys.update(key for key in entries if key[0] in ranges)
        return self._agreement(Subset([family], service_ports, keys))

    def _path(self, followed: FollowedPacket) -> Path:
        return trace(
            self.compiler.entries(), followed.family, followed.packet, followed.outcome, followed.node_addresses
        )

    def _agreement(self, subset: Subset) -> Agreement | None:
        if self._live is None:
            return None
        delta = difference(self._live, self.compiler, subset)
        owner = owner_among(names_in(self._live) | self.compiler.names())
        return Agreement(not delta, tuple(str(line) for line in diff_text(delta, owner)))


def _of_services(live: Mapping[EntryKey, Value]) -> Mapping[EntryKey, Value]:
    """Without the tables of other features; mostly there are none."""
    others = {key for key in live if key[0].spec is not LAYOUTS[key[0].family]}
    return {key: value for key, value in live.items() if key not in others} if others else live
