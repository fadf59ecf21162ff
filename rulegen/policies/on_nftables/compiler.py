"""Facts about policies and pods come in; the entries of one family's table go out, and which of them changed.

A fact is compiled alone: a pod that comes is an element for each selector that selects it, and no chain is touched.
What several facts need (the chain of a combination, a set of blocks) is counted, and goes with the last of them. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from rulegen.config import Family
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
from rulegen.policies.on_nftables.rules import block_lists, port_lists
from rulegen.policies.on_nftables.table import set_declaration
from rulegen.policies.settings import Settings
from rulegen.policies.store import Id, LocalPod, Members, Membership, PeerSet, PolicyRules, PortSet

CHAINS, DECLARATIONS = "(chains)", "(sets)"
EGRESS_PODS, INGRESS_PODS, SELF, ISOLATED, KNOWN = "egress-pods", "ingress-pods", "self", "isolated", "known"

_PODS = {Direction.INGRESS: INGRESS_PODS, Direction.EGRESS: EGRESS_PODS}
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}


class EntryKey(NamedTuple):
    """`group`: a set's or map's name, or `CHAINS` or `DECLARATIONS`, whose keys are names."""

    group: str
    key: bytes


Entries: TypeAlias = dict[EntryKey, str]


class _TierChain(NamedTuple):
    direction: Direction
    tier: Tier
    policies: tuple[PolicyName, ...]

    @property
    def name(self) -> str:
        return names.tier_chain(*self)


class TableCompiler:
    """Keeps what one family's table holds: of each entry the text of a chain or a declaration, a verdict, or ""."""

    def __init__(self, family: Family, settings: Settings) -> None:
        self.family = family
        self._settings = settings
        self.entries: Entries = {}
        self._before: dict[EntryKey, str | None] = {}
        self._rules: dict[PolicyRules, Rules] = {}
        self._pods: dict[Address, Isolation] = {}
        self._uses: Counter[EntryKey] = Counter()
        self._tiers: dict[PolicyName, set[_TierChain]] = {}

    def update(self, facts: Mapping[Id, Any]) -> dict[EntryKey, tuple[str | None, str | None]]:
        """What changes: of each entry the value before and after, None where there is none."""
        changed_rules = [id_ for id_ in facts if isinstance(id_, PolicyRules)]
        for rules in changed_rules:
            self._update_rules(rules, facts[rules])
        for id_, fact in facts.items():
            if not isinstance(id_, PolicyRules):
                self._update_fact(id_, fact)
        for policy in dict.fromkeys(id_.policy for id_ in changed_rules):
            for tier in self._tiers.get(policy, ()):
                self._write(EntryKey(CHAINS, tier.name.encode()), self._tier_text(tier))
        before, self._before = self._before, {}
        changed = {key: (value, self.entries.get(key)) for key, value in before.items()}
        return {key: values for key, values in changed.items() if values[0] != values[1]}

    # ---- facts ----

    def _update_fact(self, id_: Id, fact: Any) -> None:
        match id_:
            case Members():
                if fact is not None:
                    self._update_members(fact)
            case PeerSet(set_id):
                self._declare(set_id, is_there=fact is not None)
            case PortSet(name):
                self._declare(names.named_port_name(name), is_there=bool(fact))
            case LocalPod(address):
                if family_of(address) is self.family:
                    self._update_pod(address, fact)

    def _update_members(self, membership: Membership) -> None:
        size = SIZES[self.family]
        for set_id, addresses in membership.selected.items():
            for address, is_there in addresses.items():
                if len(address) == size:
                    self._write(EntryKey(set_id, address), "" if is_there else None)
        for name, places in membership.ports.items():
            group = names.named_port_name(name)
            for (address, protocol, port), is_there in places.items():
                if len(address) == size:
                    key = address + bytes((_PROTOCOLS[protocol], 0, 0, 0)) + port.to_bytes(2, "big") + b"\0\0"
                    self._write(EntryKey(group, key), "" if is_there else None)

    def _declare(self, name: str, *, is_there: bool) -> None:
        self._write(EntryKey(DECLARATIONS, name.encode()), set_declaration(name, self.family) if is_there else None)

    def _update_pod(self, address: Address, after: Isolation | None) -> None:
        before = self._pods.pop(address, None)
        if after is not None:
            self._pods[address] = after
        for direction in Direction:
            old = before.of(direction) if before else None
            new = after.of(direction) if after else None
            if new is not None:
                self._use_combination(new)
            goto = f"goto {names.combination_chain(new)}" if new is not None else None
            self._write(EntryKey(_PODS[direction], address), goto)
            if old is not None:
                self._drop_combination(old)
        is_isolated = "" if after is not None and (after.ingress or after.egress) else None
        self._write(EntryKey(SELF, address * 2), is_isolated)
        if self._settings.strict:
            self._write(EntryKey(ISOLATED, address), is_isolated)
        if self._settings.fail_closed:
            self._write(EntryKey(KNOWN, address), "" if after is not None else None)

    # ---- policies ----

    def _update_rules(self, id_: PolicyRules, new: Rules | None) -> None:
        old = self._rules.pop(id_, None)
        if new is not None:
            self._rules[id_] = new
        written = self._chains_of(id_, new)
        for name in self._chains_of(id_, old).keys() - written.keys():
            self._write(EntryKey(CHAINS, name.encode()), None)
        for name, text in written.items():
            self._write(EntryKey(CHAINS, name.encode()), text)
        self._use(self._shared_entries(new))
        self._drop(self._shared_entries(old))

    def _chains_of(self, id_: PolicyRules, rules: Rules | None) -> dict[str, str]:
        return {} if rules is None else chains.policy_chains(id_.policy, id_.direction, rules, self.family)

    def _shared_entries(self, rules: Rules | None) -> Entries:
        """The sets that rules look into and that others may need, too, with what is in them."""
        found: Entries = {}
        for blocks in block_lists(rules or (), self.family):
            name = names.blocks_name(blocks)
            found[EntryKey(DECLARATIONS, name.encode())] = set_declaration(name, self.family)
            found |= {EntryKey(name, first + last): "" for first, last in blocks}
        for ranges in port_lists(rules or ()):
            name = names.ports_name(ranges)
            found[EntryKey(DECLARATIONS, name.encode())] = set_declaration(name, self.family)
            found |= {EntryKey(name, _port(item, item.first) + _port(item, item.last)): "" for item in ranges}
        return found

    # ---- combinations ----

    def _use_combination(self, combination: Combination) -> None:
        self._use({_chain_key(names.combination_chain(combination)): chains.combination_text(combination)})
        for tier in _tiers_of(combination):
            self._use({_chain_key(tier.name): self._tier_text(tier)})
            for policy in tier.policies:
                self._tiers.setdefault(policy, set()).add(tier)

    def _drop_combination(self, combination: Combination) -> None:
        self._drop([_chain_key(names.combination_chain(combination))])
        for tier in _tiers_of(combination):
            self._drop([_chain_key(tier.name)])
            if not self._uses[_chain_key(tier.name)]:
                for policy in tier.policies:
                    self._tiers[policy].discard(tier)
                    if not self._tiers[policy]:
                        del self._tiers[policy]

    def _tier_text(self, tier: _TierChain) -> str:
        def rules_of(name: PolicyName) -> Rules:
            return self._rules.get(PolicyRules(name, tier.direction), ())

        return chains.tier_text(*tier, rules_of, self.family)

    # ---- entries ----

    def _use(self, entries: Entries) -> None:
        for key, value in entries.items():
            self._uses[key] += 1
            self._write(key, value)

    def _drop(self, keys: Iterable[EntryKey]) -> None:
        for key in keys:
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key]
                self._write(key, None)

    def _write(self, key: EntryKey, value: str | None) -> None:
        before = self.entries.get(key)
        if before == value:
            return
        self._before.setdefault(key, before)
        if value is None:
            del self.entries[key]
        else:
            self.entries[key] = value


def _chain_key(name: str) -> EntryKey:
    return EntryKey(CHAINS, name.encode())


def _tiers_of(combination: Combination) -> Iterator[_TierChain]:
    for tier, policies in chains.tiers_of(combination):
        yield _TierChain(combination.direction, tier, policies)


def _port(ports: PortRange, number: int) -> bytes:
    return bytes((_PROTOCOLS[ports.protocol], 0, 0, 0)) + number.to_bytes(2, "big") + b"\0\0"
