"""Facts about policies and pods come in; the entries of the tables go out, and which of them changed.

A fact is compiled alone: a pod that comes is an element for each selector that selects it, and no chain is touched.
What several facts need (the chain of a combination, a set of blocks) is counted, and goes with the last of them. All
names say what they stand for, so nothing is adopted from the kernel. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rulegen.config import Family, PolicySettings
from rulegen.errors import TargetError
from rulegen.nftables.elements import PROTOCOL_BYTES, EntryKey, SetSpec, Value, pack_port, safe_comment
from rulegen.nftables.tables import AllEntries, BaseChains, Chain, Entries, TableSpec, digest
from rulegen.policies import names
from rulegen.policies.model import (
    SIZES,
    Address,
    Combination,
    Direction,
    Isolation,
    PolicyName,
    PortRange,
    Rules,
    Tier,
    family_of,
)
from rulegen.policies.on_nftables import chains
from rulegen.policies.on_nftables.layout import LAYOUTS, PolicyTable
from rulegen.policies.on_nftables.preserve_unreadable import Preserved
from rulegen.policies.on_nftables.rules import block_lists, port_lists
from rulegen.policies.on_nftables.table import base_chains
from rulegen.policies.shared_entries import SharedEntries
from rulegen.policies.store import Id, LocalPod, Members, Membership, PeerSet, PolicyRules, PortSet
from rulegen.reconcile.delta import Delta
from rulegen.reference import ObjectReference

_MEMBER = Value()


class PolicyCompiler:
    """See `nftables.tables.TableCompiler`. `families`: those that get rules."""

    def __init__(self, families: Sequence[Family], settings: PolicySettings) -> None:
        """Compiles nothing yet."""
        self._tables = {family: TableCompiler(family, settings) for family in families}
        self._preserved = Preserved()
        self.specs: Sequence[TableSpec] = [LAYOUTS[family] for family in families]

    @property
    def base_chains(self) -> Mapping[TableSpec, BaseChains]:
        """Of both families, where there is something to do."""
        found = {LAYOUTS[family]: table.base_chains for family, table in self._tables.items()}
        return {spec: fixed for spec, fixed in found.items() if fixed is not None}

    def adopt(self, live: AllEntries, unreadable: Collection[ObjectReference]) -> None:
        """Nothing is chosen freely; a policy that cannot be read isolates, and of such a pod stays what there is."""
        self._preserved.adopt(live, unreadable)

    def update(
        self, items: Mapping[Id, Any], context: Mapping[Family, tuple[str, ...]] | None
    ) -> tuple[Delta[EntryKey, Value], dict[Id, TargetError]]:
        """Takes changed facts (None: no more), and the ranges of the node's pods."""
        delta: Delta[EntryKey, Value] = Delta()
        for family, table in self._tables.items():
            delta = delta.merged(table.update(items, None if context is None else context[family]))
        self._preserved.mean(delta.added)
        return delta, {}

    def entries(self) -> Entries:
        """All that is wanted."""
        found: Entries = {}
        for table in self._tables.values():
            found |= table.entries
        return found

    def entries_of(self, item_id: Id) -> Entries:
        """All of it for a policy: the chains of pods lead to it, its rules look into sets of others."""
        return self.entries() if isinstance(item_id, PolicyRules) else {}

    def entries_without(self, item_ids: Collection[Id]) -> Entries:
        """All that is wanted."""
        del item_ids
        return self.entries()

    def spare(self, delta: Delta[EntryKey, Value]) -> Delta[EntryKey, Value]:
        """The Delta without what may be of a pod that cannot be read."""
        known = {address for table in self._tables.values() for address in table.addresses()} if self._preserved else ()
        return self._preserved.spare(delta, known)

    def in_new_table(self, spared: Entries) -> Entries:
        """See `nftables.tables.KeepsInNewTables`: who was isolated is so as others are, or closed where none is."""
        wanted = self.entries()
        kept: Entries = {}
        for (set_spec, data), value in spared.items():
            spec = set_spec.spec
            if not isinstance(spec, PolicyTable) or set_spec.is_chains:
                continue
            is_there = (spec.declared, set_spec.name.encode()) in wanted
            direction = next((word for word, pods in spec.pods.items() if pods is set_spec), None)
            if direction is not None:
                is_there = (spec.chains, value.data.removeprefix(b"goto ")) in wanted
                closed = Value(f"goto denied-{direction.word}".encode(), value.comment)
                kept[set_spec, data] = value if is_there else closed
            elif (
                set_spec in {spec.self, spec.isolated, spec.known} or (spec.declared, set_spec.name.encode()) in wanted
            ):
                kept[set_spec, data] = value
        return kept

    def owners(self, live: AllEntries) -> Callable[[EntryKey, Value], str]:
        """The pod or the policy that an entry is of."""
        del live

        def owner(key: EntryKey, value: Value) -> str:
            kind, *name = (key[1].decode() if key[0].is_chains else "").split("/")
            # Behind the name of a ClusterNetworkPolicy stands the number of a part.
            return value.comment or "/".join(name[:1] if kind.startswith("cluster-") else name[:2])

        return owner


class _TierChain(NamedTuple):
    direction: Direction
    tier: Tier
    policies: tuple[PolicyName, ...]

    @property
    def name(self) -> str:
        return names.tier_chain(*self)


class TableCompiler:
    """Keeps what one family's table holds, and is the texts of its chains (`nftables.tables.Generated`)."""

    required: Sequence[str] = ()

    def __init__(self, family: Family, settings: PolicySettings) -> None:
        self.family = family
        self._entries: SharedEntries[EntryKey, Value] = SharedEntries()
        self.base_chains: BaseChains | None = None
        self._spec = LAYOUTS[family]
        self._settings = settings
        self._pod_ranges: tuple[str, ...] = ()
        self._texts: dict[str, str] = {}
        self._rules: dict[PolicyRules, Rules] = {}
        self._pods: dict[Address, Isolation] = {}
        self._tiers: dict[PolicyName, set[_TierChain]] = {}

    # ---- the texts of chains and sets ----

    def chain(self, name: str) -> Chain:
        """A chain that there is, without the comment above it."""
        text = self._texts[name]
        return Chain(name, text[text.index("\tchain ") :])

    def chain_text(self, name: str) -> str:
        """A chain that there is."""
        return self._texts[name]

    def set_text(self, name: str) -> str:
        """The declaration of a set."""
        return self._spec.declaration(name)

    def model(self, _: str) -> str | None:
        """No chain is made of another."""
        return None

    # ---- facts ----

    def update(self, facts: Mapping[Id, Any], pod_ranges: tuple[str, ...] | None) -> Delta[EntryKey, Value]:
        """What facts that are others now change."""
        changed_rules = [id_ for id_ in facts if isinstance(id_, PolicyRules)]
        for rules in changed_rules:
            self._update_rules(rules, facts[rules])
        for id_, fact in facts.items():
            if not isinstance(id_, PolicyRules):
                self._update_fact(id_, fact)
        for policy in dict.fromkeys(id_.policy for id_ in changed_rules):
            for tier in self._tiers.get(policy, ()):
                self._write_chain(tier.name, self._tier_text(tier))
        self._update_base_chains(pod_ranges)
        return Delta.of(self._entries.take())

    @property
    def entries(self) -> Mapping[EntryKey, Value]:
        """All that is wanted."""
        return self._entries.now

    def addresses(self) -> Iterator[Address]:
        """Those of pods, as far as policies have to do with them."""
        yield from self._pods
        size = SIZES[self.family]
        yield from (key[:size] for set_spec, key in self._entries if set_spec.name.startswith(("pods-", "named")))

    def _update_fact(self, id_: Id, fact: Any) -> None:
        match id_:
            case Members():
                if fact is not None:
                    self._update_members(fact)
            case PeerSet(set_id):
                self._declare(set_id, is_there=fact is not None)
            case PortSet(name):
                self._declare(names.named_port_name(name), is_there=fact is not None)
            case LocalPod(address):
                if family_of(address) is self.family:
                    self._update_pod(address, fact)

    def _update_members(self, membership: Membership) -> None:
        size = SIZES[self.family]
        for set_id, addresses in membership.selected.items():
            set_spec = self._set(set_id)
            for address, is_there in addresses.items():
                if len(address) == size:
                    self._entries.set((set_spec, address), _MEMBER if is_there else None)
        for name, places in membership.ports.items():
            set_spec = self._set(names.named_port_name(name))
            for (address, protocol, port), is_there in places.items():
                if len(address) == size:
                    key = address + PROTOCOL_BYTES[protocol] + pack_port(port)
                    self._entries.set((set_spec, key), _MEMBER if is_there else None)

    def _declare(self, name: str, *, is_there: bool) -> None:
        self._entries.set((self._spec.declared, name.encode()), _MEMBER if is_there else None)

    def _update_pod(self, address: Address, after: Isolation | None) -> None:
        before = self._pods.pop(address, None)
        if after is not None:
            self._pods[address] = after
        for direction, pods in self._spec.pods.items():
            old = before.of(direction) if before else None
            new = after.of(direction) if after else None
            verdict = None
            if after is not None and new is not None:
                self._use_combination(new)
                verdict = Value(f"goto {names.combination_chain(new)}".encode(), safe_comment(after.pod))
            self._entries.set((pods, address), verdict)
            self._note_denials(direction, address, (before, after))
            if old is not None:
                self._drop_combination(old)
        is_isolated = _MEMBER if after is not None and (after.ingress or after.egress) else None
        self._entries.set((self._spec.self, address * 2), is_isolated)
        if self._settings.strict:
            self._entries.set((self._spec.isolated, address), is_isolated)
        if self._settings.fail_closed:
            self._entries.set((self._spec.known, address), _MEMBER if after is not None else None)

    def _note_denials(
        self, direction: Direction, address: Address, changed: tuple[Isolation | None, Isolation | None]
    ) -> None:
        group = self._settings.log_group
        if group is None:
            return
        before, after = changed
        verdict = None
        if after is not None and (new := after.of(direction)) is not None:
            pod, combination = after.pod, new
            name = names.note_chain(pod, combination)
            self._use_chain(name, lambda: chains.note_text(pod, combination, group))
            verdict = Value(f"jump {name}".encode(), safe_comment(pod))
        self._entries.set((self._spec.notes[direction], address), verdict)
        if before is not None and (old := before.of(direction)) is not None:
            self._drop_used_chain(names.note_chain(before.pod, old))

    # ---- policies ----

    def _update_rules(self, id_: PolicyRules, new: Rules | None) -> None:
        old = self._rules.pop(id_, None)
        if new is not None:
            self._rules[id_] = new
        written = self._chains_of(id_, new)
        for name in self._chains_of(id_, old).keys() - written.keys():
            self._drop_chain(name)
        for name, text in written.items():
            self._write_chain(name, text)
        self._entries.use(self._shared_entries(new))
        self._entries.drop(self._shared_entries(old))

    def _chains_of(self, id_: PolicyRules, rules: Rules | None) -> dict[str, str]:
        return {} if rules is None else chains.policy_chains(id_.policy, id_.direction, rules, self.family)

    def _shared_entries(self, rules: Rules | None) -> Entries:
        """The sets that rules look into and that others may need, too, with what is in them."""
        found: Entries = {}
        for blocks in block_lists(rules or (), self.family):
            set_spec = self._set(names.blocks_name(blocks))
            found[self._spec.declared, set_spec.name.encode()] = _MEMBER
            found |= {(set_spec, first + last): _MEMBER for first, last in blocks}
        for ranges in port_lists(rules or ()):
            set_spec = self._set(names.ports_name(ranges))
            found[self._spec.declared, set_spec.name.encode()] = _MEMBER
            found |= {(set_spec, _port(item, item.first) + _port(item, item.last)): _MEMBER for item in ranges}
        return found

    # ---- combinations ----

    def _use_combination(self, combination: Combination) -> None:
        self._use_chain(names.combination_chain(combination), lambda: chains.combination_text(combination))
        for tier in _tiers_of(combination):
            self._use_chain(tier.name, lambda tier=tier: self._tier_text(tier))  # type: ignore[misc]
            for policy in tier.policies:
                self._tiers.setdefault(policy, set()).add(tier)

    def _drop_combination(self, combination: Combination) -> None:
        self._drop_used_chain(names.combination_chain(combination))
        for tier in _tiers_of(combination):
            if self._drop_used_chain(tier.name):
                for policy in tier.policies:
                    self._tiers[policy].discard(tier)
                    if not self._tiers[policy]:
                        del self._tiers[policy]

    def _tier_text(self, tier: _TierChain) -> str:
        def rules_of(name: PolicyName) -> Rules:
            return self._rules.get(PolicyRules(name, tier.direction), ())

        return chains.tier_text(*tier, rules_of, self.family)

    # ---- the fixed part ----

    def _update_base_chains(self, pod_ranges: tuple[str, ...] | None) -> None:
        """It is there where there is a policy, or pods that nobody knows are closed."""
        has_changed = pod_ranges is not None and pod_ranges != self._pod_ranges
        if has_changed and pod_ranges is not None:
            self._pod_ranges = pod_ranges
        is_wanted = bool(self._rules) or (self._settings.fail_closed and bool(self._pod_ranges))
        if not has_changed and is_wanted is (self.base_chains is not None):
            return
        before = self.base_chains.chains if self.base_chains is not None else {}
        self.base_chains = base_chains(self.family, self._settings, self._pod_ranges, self) if is_wanted else None
        after = self.base_chains.chains if self.base_chains is not None else {}
        for name in (*before, *after):
            fixed = after.get(name)
            self._entries.set((self._spec.chains, name.encode()), Value(fixed.digest.encode()) if fixed else None)

    # ---- entries ----

    def _set(self, name: str) -> SetSpec:
        found = self._spec.set_named(name)
        if found is None:
            raise KeyError(name)
        return found

    def _write_chain(self, name: str, text: str) -> None:
        self._texts[name] = text
        self._entries.set((self._spec.chains, name.encode()), Value(digest(text).encode()))

    def _drop_chain(self, name: str) -> None:
        self._texts.pop(name, None)
        self._entries.set((self._spec.chains, name.encode()), None)

    def _use_chain(self, name: str, text: Callable[[], str]) -> None:
        key = self._spec.chains, name.encode()
        if not self._entries.is_used(key):
            self._write_chain(name, text())
        self._entries.use({key: self._entries.now[key]})

    def _drop_used_chain(self, name: str) -> bool:
        """Whether that was the last that needed it."""
        key = self._spec.chains, name.encode()
        self._entries.drop([key])
        if self._entries.is_used(key):
            return False
        del self._texts[name]
        return True


def _tiers_of(combination: Combination) -> Iterator[_TierChain]:
    for tier, policies in chains.tiers_of(combination):
        yield _TierChain(combination.direction, tier, policies)


def _port(ports: PortRange, number: int) -> bytes:
    return PROTOCOL_BYTES[ports.protocol] + pack_port(number)
