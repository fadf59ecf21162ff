"""Network policies as a part of the iptables rules; see `iptables.chains.ChainCompiler`. Reads no kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any

from rulegen.config import Denial, Family, PolicySettings
from rulegen.errors import TargetError
from rulegen.iptables.chains import FILTER, BaseChains, Entries, EntryKey, Rules, base_chains
from rulegen.iptables.ipsets import declaration, declared_key, element_key
from rulegen.iptables.text import comment_of
from rulegen.policies.facts import PodRanges
from rulegen.policies.model import Address, Isolation
from rulegen.policies.on_iptables import compiler
from rulegen.policies.on_iptables.compiler import (
    CHAINS,
    DISCOVERY,
    IPSETS,
    LIMIT,
    NO_SYN,
    OWN,
    REJECT,
    ChainCompiler,
    self_rule,
)
from rulegen.policies.on_iptables.names import PREFIX
from rulegen.policies.on_iptables.preserve_unreadable import Leaves, isolated_addresses, isolation
from rulegen.policies.store import Id, LocalPod, PolicyRules
from rulegen.reconcile.delta import Change, Delta
from rulegen.reference import ObjectReference
from rulegen.resources import environment

# In front of those of the Services.
_RANK = 10


class PolicyChains:
    """The chains of all families. `families`: those that get rules."""

    prefix = PREFIX
    rank = _RANK
    guards = True
    yields = False

    def __init__(self, families: Sequence[Family], settings: PolicySettings) -> None:
        """Compiles nothing yet."""
        self._settings = settings
        self._has_ipsets = settings.ipsets
        self._compilers = {
            family: ChainCompiler(family, settings, (), has_ipsets=self._has_ipsets) for family in families
        }
        self._was_wanted = dict.fromkeys(families, False)
        # What was told of policies that take a set where there is none.
        self._missing: Set[PolicyRules] = set()
        # What was live of pods that nobody knows, and which of these are isolated by facts of their own. None: not
        # read yet.
        self._unread: dict[Family, Leaves | None] = dict.fromkeys(families)
        self._stand_ins: dict[Family, set[Address]] = {family: set() for family in families}

    @property
    def base_chains(self) -> Mapping[Family, BaseChains]:
        """Of the families in which there is something to do."""
        return {
            family: _base_chains(family, self._settings, compiled.around_pods, self._has_ipsets)
            for family, compiled in self._compilers.items()
            if compiled.is_wanted
        }

    def use_ipsets(self, *, are_there: bool) -> None:
        """See `iptables.chains.UsesIpsets`."""
        has_ipsets = are_there and self._settings.ipsets
        if has_ipsets is self._has_ipsets:
            return
        self._has_ipsets = has_ipsets
        for family, compiled in self._compilers.items():
            other = compiled.otherwise(has_ipsets=has_ipsets)
            # What differs is not asked for by anybody: the host is read anew.
            other.update({})
            self._compilers[family] = other

    def needs(self, family: Family) -> Mapping[str, tuple[str, str]]:
        """What rules of policies are made of."""
        found = {
            "match conntrack": (FILTER, "-m conntrack ! --ctstate RELATED,ESTABLISHED"),
            "match comment": (FILTER, '-m comment --comment "a policy"'),
        }
        found |= {f"match {name}": (FILTER, f"-p {name} -m {name} --dport 80") for name in ("tcp", "udp", "sctp")}
        if self._has_ipsets:
            found["match bpf"] = (FILTER, self_rule(family))
        if self._settings.log_group is not None:
            found["target NFLOG"] = (FILTER, f"{LIMIT} -j NFLOG --nflog-group 1")
        if self._settings.denial is Denial.REJECT:
            found["target REJECT"] = (FILTER, REJECT[family])
        return found

    def sections(self, chains: Entries) -> Mapping[str, list[EntryKey]]:
        """What leads to pods, and what isolates them."""
        found: dict[str, list[EntryKey]] = {"Pods of this node, by address.": [], "Policies that isolate pods.": []}
        for key in sorted(chains, key=lambda key: key.chain):
            is_combination = key.chain.startswith((f"{PREFIX}E-", f"{PREFIX}I-", f"{PREFIX}L-"))
            found["Policies that isolate pods." if is_combination else "Pods of this node, by address."].append(key)
        return {heading: keys for heading, keys in found.items() if keys}

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        """Nothing is chosen freely; a policy that cannot be read isolates, and a pod stays as isolated as it was."""
        found = isolated_addresses(live, unreadable)
        for family, compiled in self._compilers.items():
            # Those that are known by now, and those that this program has put there, are none of them.
            left = found[family] if self._unread[family] is None else _among(found[family], self._unread[family])
            compiled.update({LocalPod(address): None for address in self._stand_ins[family] - left.keys()})
            self._stand_ins[family] &= left.keys()
            self._unread[family] = left

    def update(
        self, items: Mapping[Id, Any], context: PodRanges | None
    ) -> tuple[Delta[EntryKey, Rules], Mapping[Id, TargetError | None]]:
        """Takes changed facts (None: no more), and the ranges of the node's pods."""
        delta: Delta[EntryKey, Rules] = Delta()
        missing: dict[PolicyRules, str] = {}
        for family, compiled in self._compilers.items():
            if context is not None:
                compiled.set_pod_ranges(context[family])
            changes = compiled.update(items)
            self._forget_known(family, items)
            if self._unread[family]:
                changes = _followed(changes, compiled.update(self._isolate_unread(family)))
            delta = delta.merged(self._changed(family, changes))
            missing |= compiled.missing
        return delta, self._differing(missing, items)

    def _differing(self, missing: dict[PolicyRules, str], items: Mapping[Id, Any]) -> dict[Id, TargetError | None]:
        """What was not told of policies that need a set and have none, and of those that were among them."""
        before, self._missing = self._missing, missing.keys()
        told: dict[Id, TargetError | None] = {
            id_: _error(id_, what) for id_, what in missing.items() if id_ in items or id_ not in before
        }
        return told | {id_: None for id_ in before - missing.keys() if id_ not in items}

    def _forget_known(self, family: Family, items: Mapping[Id, Any]) -> None:
        unread = self._unread[family]
        for id_ in items if unread else ():
            if isinstance(id_, LocalPod) and unread is not None and unread.pop(id_.address, None) is not None:
                self._stand_ins[family].discard(id_.address)

    def _isolate_unread(self, family: Family) -> dict[Id, Isolation]:
        """Facts in place of those about pods that cannot be read, each once."""
        compiled, unread = self._compilers[family], self._unread[family] or {}
        new = unread.keys() - self._stand_ins[family]
        self._stand_ins[family] |= new
        known = compiled.combinations
        return {LocalPod(address): isolation(unread[address], known) for address in sorted(new)}

    def _changed(self, family: Family, changes: compiler.Changes) -> Delta[EntryKey, Rules]:
        compiled = self._compilers[family]
        was_wanted, self._was_wanted[family] = self._was_wanted[family], compiled.is_wanted
        if not was_wanted and not compiled.is_wanted:
            return Delta()
        if not was_wanted:
            return Delta(added=self._entries_of(family))
        delta: Delta[EntryKey, Rules] = Delta.of(
            {_key(family, key): _changed_value(family, key, change) for key, change in changes.items()}
        )
        if not compiled.is_wanted:
            gone = {key: rules for key, rules in self._all_of(family).items() if key not in delta.added}
            gone |= {**delta.removed, **{key: change.before for key, change in delta.changed.items()}}
            return Delta(removed=gone)
        return delta

    def entries(self) -> Entries:
        """All that is wanted."""
        found: Entries = {}
        for family in self._compilers:
            found |= self._entries_of(family)
        return found

    def entries_of(self, item_id: Id) -> Entries:
        """All of it for a policy: the chains of pods lead to it, its rules look into sets of others."""
        return self.entries() if isinstance(item_id, PolicyRules) else {}

    def entries_without(self, item_ids: Collection[Id]) -> Entries:
        """All that is wanted."""
        del item_ids
        return self.entries()

    def spare(self, delta: Delta[EntryKey, Rules]) -> Delta[EntryKey, Rules]:
        """All of it."""
        return delta

    def owners(self, live: Entries) -> Callable[[Any, Any], str]:
        """The policy of which a chain has a rule."""
        del live
        return lambda key, rules: comment_of(rules) if key.prefix == PREFIX else ""

    def _entries_of(self, family: Family) -> Entries:
        return self._all_of(family) if self._compilers[family].is_wanted else {}

    def _all_of(self, family: Family) -> Entries:
        entries = self._compilers[family].entries
        return {_key(family, key): _value(family, key, value) for key, value in entries.items()}


def _among(found: Leaves, before: Leaves | None) -> Leaves:
    return {address: leaves for address, leaves in found.items() if address in (before or {})}


def _followed(first: compiler.Changes, second: compiler.Changes) -> compiler.Changes:
    """Both as one: of what is in both, what was before the first and is after the second."""
    found = dict(first)
    for key, change in second.items():
        found[key] = Change(first[key].before if key in first else change.before, change.after)
    return found


def _key(family: Family, key: compiler.EntryKey) -> EntryKey:
    """The driver's key of a chain, of a set, or of an element."""
    group, name = key
    if group == CHAINS:
        return EntryKey(family, FILTER, name, PREFIX)
    return declared_key(family, name) if group == IPSETS else element_key(family, group, name)


def _value(family: Family, key: compiler.EntryKey, value: Rules) -> Rules:
    return declaration(family, value[0]) if key.group == IPSETS else value


def _changed_value(family: Family, key: compiler.EntryKey, change: Change[Rules | None]) -> Change[Rules | None]:
    if key.group != IPSETS:
        return change
    return Change(*(None if value is None else _value(family, key, value) for value in change))


def _error(id_: PolicyRules, what: str) -> TargetError:
    return TargetError(
        f"{id_.policy}: {what}, which takes an ipset, and there are none; its pods are isolated ({id_.direction.value})"
    )


@lru_cache(maxsize=16)
def _base_chains(family: Family, settings: PolicySettings, around_pods: str, has_ipsets: bool) -> BaseChains:
    template = environment("iptables").get_template("policies.rules.j2")
    text = template.render(
        discovery=DISCOVERY if family is Family.IPV6 else (),
        denial="-j DROP" if settings.denial is Denial.DROP else REJECT[family],
        strict=NO_SYN if settings.strict else "",
        around_pods=around_pods,
        to_itself=self_rule(family) if has_ipsets else "",
        node_input=settings.node_input,
        own=OWN,
    )
    return base_chains(family, text, PREFIX)
