"""The nftables target, as explanations speak of it: a Compiler and live entries come in, words go out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from rulegen.config import Family
from rulegen.follow.model import HookPassage, Place
from rulegen.follow.nftables import FollowTables
from rulegen.nftables.diff_text import diff_text
from rulegen.nftables.elements import EntryKey, Value, data_text, key_text
from rulegen.nftables.tables import TableSpec
from rulegen.reconcile.delta import diff
from rulegen.services.explain import following
from rulegen.services.explain.model import Agreement, FollowedPacket, Member, Way, Weighed
from rulegen.services.model import Backend, ServicePort, ServicePortKey
from rulegen.services.on_nftables.annotate import AnnotatedEntry, annotate
from rulegen.services.on_nftables.base_chains import is_balance_chain
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.names import names_in, owner_among
from rulegen.services.on_nftables.slots import rounding_error, slot_counts
from rulegen.services.on_nftables.subset import Subset, difference, packet_keys
from rulegen.services.simulate import Decision, Delivery, Fate


class NftablesRuleset:
    """See `model.Ruleset`.

    `families`: those with rules. `follow`: the compiled rules of all features. `live`: the kernel's entries, whose ids
    `compiler` has adopted, or None when they are not asked about; then `follow_live` follows its rules.
    """

    def __init__(
        self,
        compiler: Compiler,
        families: Collection[Family],
        follow: FollowTables,
        live: Mapping[EntryKey, Value] | None = None,
        follow_live: FollowTables | None = None,
    ) -> None:
        self.compiler = compiler
        self._families = families
        self._follow = follow
        self._follow_live = follow_live or follow
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
        found = self._follow_live(following.sent(followed))
        hooks = [hook for hook in found.hooks if _is_shown(hook)]
        chains = tuple(_chain_name(passage.place) for hook in hooks for passage in hook.passages)
        met = {key: self._follow_live.value(key) or Value() for key in _met(self._follow_live, hooks, followed.family)}
        layout = LAYOUTS[followed.family]
        own = {key: value for key, value in met.items() if key[0].spec is layout and _is_told(key)}
        others = (_of_others(key, value) for key, value in met.items() if key[0].spec is not layout and _is_told(key))
        return Way(chains, (*annotate(own.items()), *others), following.way_ends(found.endings, _elsewhere))

    def service_ports_agree(self, service_ports: Collection[ServicePortKey]) -> Agreement | None:
        """The fixed part included."""
        return self._agreement(Subset(self._families, service_ports))

    def packet_agrees(self, followed: FollowedPacket | None) -> Agreement | None:
        """What decides about the packet: its Service, what its destination would meet, what it met."""
        if followed is None:
            return self._agreement(Subset((), ()))
        family, matched = followed.family, followed.outcome.matched
        service_ports: list[ServicePortKey] = [(matched.service_port.name, family)] if matched else []
        layout = LAYOUTS[family]
        met = self._met_anywhere(followed)
        keys = {key for key in met if key[0].spec is layout and _is_told(key)} | packet_keys(family, followed.packet)
        ranges = (layout.service_cidrs, layout.nodeport_addresses)
        for entries in (self._live or {}, self.compiler.entries()):
            keys.update(key for key in entries if key[0] in ranges)
        return self._agreement(Subset([family], service_ports, keys), [key for key in met if key[0].spec is not layout])

    def _met_anywhere(self, followed: FollowedPacket) -> list[EntryKey]:
        """What the packet meets in the compiled rules, or would meet there."""
        found: dict[EntryKey, None] = {}
        for follow in dict.fromkeys((self._follow, self._follow_live)):
            hooks = (hook for hook in follow(following.sent(followed)).hooks if _is_shown(hook))
            found |= dict.fromkeys(_met(follow, hooks, followed.family))
        return list(found)

    def _agreement(self, subset: Subset, others: Iterable[EntryKey] = ()) -> Agreement | None:
        """`others`: entries of other features that are looked at, too."""
        if self._live is None:
            return None
        delta = difference(self._live, self.compiler, subset)
        if self._follow_live is not self._follow:
            sides = (self._follow_live, self._follow)
            found, desired = ({key: value for key in others if (value := side.value(key))} for side in sides)
            delta = delta.merged(diff(found, desired))
        owner = owner_among(names_in(self._live) | self.compiler.names())
        return Agreement(not delta, tuple(str(line) for line in diff_text(delta, owner)))


def _met(follow: FollowTables, hooks: Iterable[HookPassage], family: Family) -> Iterator[EntryKey]:
    """The elements that a packet finds, and the chains that it passes."""
    for hook in hooks:
        yield from (follow.key(family, element) for element in hook.elements)
        yield from (follow.key(family, passage.place) for passage in hook.passages)


def _is_told(key: EntryKey) -> bool:
    """Whether an entry is more than a chain that is always there, or that its name stands for."""
    return not key[0].is_chains or is_balance_chain(key[1].decode())


def _of_others(entry: EntryKey, value: Value) -> AnnotatedEntry:
    set_spec, key = entry
    data = f" : {data_text(set_spec, value.data)}" if set_spec.data else ""
    meaning = set_spec.spec.meaning(set_spec, value) if isinstance(set_spec.spec, TableSpec) else ""
    return AnnotatedEntry(set_spec.label, set_spec.name, key_text(set_spec, key) + data, meaning)


def _is_shown(hook: HookPassage) -> bool:
    """Whether anything is decided there; by other features' chains it is wherever they lead the packet on."""
    base = hook.passages[0].place
    return hook.is_decisive or bool(_elsewhere(base) and (hook.elements or len(hook.passages) > 1))


def _elsewhere(place: Place) -> str:
    return "" if place.table in _OWN_TABLES else f"{place.table} {place.chain}"


def _chain_name(place: Place) -> str:
    return _elsewhere(place) or place.chain


_OWN_TABLES = frozenset(map(str, LAYOUTS.values()))


def _of_services(live: Mapping[EntryKey, Value]) -> Mapping[EntryKey, Value]:
    """Without the tables of other features; mostly there are none."""
    others = {key for key in live if key[0].spec is not LAYOUTS[key[0].family]}
    return {key: value for key, value in live.items() if key not in others} if others else live
