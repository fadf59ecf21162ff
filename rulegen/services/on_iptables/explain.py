"""The iptables target, as explanations speak of it: a Compiler and live chains come in, words go out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from msgspec import UNSET

from rulegen.config import Family
from rulegen.follow.iptables import Chains
from rulegen.follow.model import HookPassage, Place
from rulegen.iptables.chains import EntryKey, Rules
from rulegen.iptables.diff_text import diff_text
from rulegen.iptables.names import PREFIX, prefix_of
from rulegen.iptables.rules import parse_rule
from rulegen.iptables.text import adopt_wording, comment_of
from rulegen.reconcile.delta import diff
from rulegen.services.explain import following
from rulegen.services.explain.model import Agreement, FollowedPacket, Member, Way, Weighed
from rulegen.services.model import Backend, ServicePort, ServicePortKey
from rulegen.services.on_iptables.annotate import AnnotatedChain, AnnotatedRule, annotate, place
from rulegen.services.on_iptables.compiler import Compiler
from rulegen.services.on_iptables.lists import probabilities
from rulegen.services.on_iptables.names import is_of_service
from rulegen.services.on_iptables.subset import Subset, difference, service_port_part
from rulegen.services.simulate import Decision, Delivery, Destination

_REMEMBERED = (
    "session affinity: the kernel remembers 100 clients of each endpoint (xt_recent, ip_list_tot); beyond that the one "
    "that was silent longest is balanced anew"
)


class OtherChains(NamedTuple):
    """The chains of other features. `features`: their names by the prefix of their chains.

    `fixed`: the chains that are there whatever the cluster.
    """

    features: Mapping[str, str] = MappingProxyType({})
    fixed: frozenset[str] = frozenset()

    def feature_of(self, chain: str) -> str:
        """Whose a chain is; "" for the Services' or the kernel's."""
        return self.features.get(prefix_of(chain, self.features), "")

    def are_made(self, chain: str) -> bool:
        """Whether some object has made a chain of another feature."""
        return bool(self.feature_of(chain)) and chain not in self.fixed


def _of_services(entries: Mapping[EntryKey, Rules]) -> dict[EntryKey, Rules]:
    """Without the chains of other features."""
    return {key: rules for key, rules in entries.items() if key.prefix == PREFIX}


def _key(family: Family, where: Place) -> EntryKey:
    return EntryKey(family, where.table.rpartition(" ")[2], where.chain)


class IptablesRuleset:
    """See `model.Ruleset`.

    `service_ports`: those that were compiled. `families`: those with rules. `follow`: the compiled rules of all
    features. `live`: the kernel's, or None when they are not asked about.
    """

    def __init__(
        self,
        compiler: Compiler,
        service_ports: Iterable[ServicePort],
        families: Collection[Family],
        follow: Chains,
        live: Chains | None = None,
        others: OtherChains = OtherChains(),  # noqa: B008 - never changes
    ) -> None:
        self.compiler = compiler
        self._service_ports = {(service_port.name, service_port.family): service_port for service_port in service_ports}
        self._families = families
        self._follow = follow
        self._follow_live = live or follow
        self._live = None if live is None else _of_services(live.entries)
        self._others = others

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
        found = self._follow_live(following.sent(followed))
        passages = [
            (_key(followed.family, passage.place), passage.rules)
            for hook in found.hooks
            if self._is_shown(hook)
            for passage in hook.passages
        ]
        entries = [entry for key, rules in passages for entry in self._annotated(key, rules)]
        ends = following.way_ends(found.endings, lambda where: self._elsewhere(_key(followed.family, where)))
        return Way(tuple(place(key) for key, _ in passages), tuple(entries), ends)

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
        others = self._others_met(followed)
        return self._agreement(Subset([family], service_ports, {family: destinations}), others)

    def _others_met(self, followed: FollowedPacket) -> list[Place]:
        """The chains of other features that the packet passes, or would pass as they were compiled."""
        sides = dict.fromkeys((self._follow, self._follow_live))
        hooks = (hook for side in sides for hook in side(following.sent(followed)).hooks)
        places = dict.fromkeys(passage.place for hook in hooks for passage in hook.passages)
        return [place for place in places if self._others.feature_of(place.chain)]

    def _is_shown(self, hook: HookPassage) -> bool:
        """Whether anything is decided there, or a chain is passed that somebody's objects have made."""
        chains = [passage.place.chain for passage in hook.passages]
        return hook.is_decisive or any(is_of_service(chain) or self._others.are_made(chain) for chain in chains)

    def _annotated(self, key: EntryKey, rules: Rules) -> tuple[AnnotatedChain, ...]:
        feature = self._others.feature_of(key.chain)
        if not feature:
            return annotate([(key, rules)])
        words = tuple(AnnotatedRule(rule, comment_of([rule]) or parse_rule(rule).target) for rule in rules)
        table = place(key._replace(chain="")).rstrip()
        return (AnnotatedChain(table, key.chain, feature, words),) if rules else ()

    def _elsewhere(self, key: EntryKey) -> str:
        return place(key) if self._others.feature_of(key.chain) else ""

    def _destinations(self, key: ServicePortKey) -> list[Destination]:
        service_port = self._service_ports.get(key)
        frontends = service_port.frontends if service_port else ()
        return [Destination(frontend.address, frontend.port, key[0].protocol) for frontend in frontends]

    def _agreement(self, subset: Subset, others: Iterable[Place] = ()) -> Agreement | None:
        """`others`: chains of other features that are looked at, too."""
        if self._live is None:
            return None
        delta = difference(self._live, self.compiler, subset)
        if self._follow_live is not self._follow:
            keys = [_key(family, place) for family in subset.families for place in others]
            found, desired = (
                dict(rules for key in keys if (rules := side.rules(key.family, key.table, key.chain)))
                for side in (self._follow_live, self._follow)
            )
            delta = delta.merged(diff(adopt_wording(found, desired), desired))
        return Agreement(not delta, tuple(str(line) for line in diff_text(delta, lambda _, rules: comment_of(rules))))
