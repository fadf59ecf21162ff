"""Network policies as a part of the iptables rules; see `iptables.chains.ChainCompiler`. Reads no kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rulegen.config import Denial, Family, PolicySettings
from rulegen.errors import TargetError
from rulegen.iptables.chains import FILTER, BaseChains, Entries, EntryKey, Rules, base_chains
from rulegen.iptables.text import comment_of
from rulegen.policies.facts import PodRanges
from rulegen.policies.on_iptables import compiler
from rulegen.policies.on_iptables.compiler import CHAINS, DISCOVERY, NO_SYN, REJECT, ChainCompiler
from rulegen.policies.on_iptables.names import PREFIX
from rulegen.policies.store import Id, PolicyRules
from rulegen.reconcile.delta import Delta
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
        self._compilers = {family: ChainCompiler(family, settings, (), has_ipsets=False) for family in families}
        self._was_wanted = dict.fromkeys(families, False)

    @property
    def base_chains(self) -> Mapping[Family, BaseChains]:
        """Of the families in which there is something to do."""
        return {
            family: _base_chains(family, self._settings)
            for family, compiled in self._compilers.items()
            if compiled.is_wanted
        }

    def needs(self, family: Family) -> Mapping[str, tuple[str, str]]:
        """What rules of policies are made of."""
        found = {
            "match conntrack": (FILTER, "-m conntrack ! --ctstate RELATED,ESTABLISHED"),
            "match comment": (FILTER, '-m comment --comment "a policy"'),
        }
        found |= {f"match {name}": (FILTER, f"-p {name} -m {name} --dport 80") for name in ("tcp", "udp", "sctp")}
        if self._settings.denial is Denial.REJECT:
            found["target REJECT"] = (FILTER, REJECT[family])
        return found

    def sections(self, chains: Entries) -> Mapping[str, list[EntryKey]]:
        """What leads to pods, and what isolates them."""
        found: dict[str, list[EntryKey]] = {"Pods of this node, by address.": [], "Policies that isolate pods.": []}
        for key in sorted(chains, key=lambda key: key.chain):
            is_combination = key.chain.startswith((f"{PREFIX}E-", f"{PREFIX}I-"))
            found["Policies that isolate pods." if is_combination else "Pods of this node, by address."].append(key)
        return {heading: keys for heading, keys in found.items() if keys}

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        """Nothing is chosen freely, and what cannot be read isolates."""

    def update(
        self, items: Mapping[Id, Any], context: PodRanges | None
    ) -> tuple[Delta[EntryKey, Rules], dict[Id, TargetError]]:
        """Takes changed facts (None: no more), and the ranges of the node's pods."""
        delta: Delta[EntryKey, Rules] = Delta()
        errors: dict[Id, TargetError] = {}
        for family, compiled in self._compilers.items():
            if context is not None:
                compiled.set_pod_ranges(context[family])
            delta = delta.merged(self._changed(family, compiled.update(items)))
            errors |= {id_: _error(id_, what) for id_, what in compiled.missing.items()}
        return delta, errors

    def _changed(self, family: Family, changes: compiler.Changes) -> Delta[EntryKey, Rules]:
        compiled = self._compilers[family]
        was_wanted, self._was_wanted[family] = self._was_wanted[family], compiled.is_wanted
        if not was_wanted and not compiled.is_wanted:
            return Delta()
        if not was_wanted:
            return Delta(added=self._entries_of(family))
        of_chains = {_key(family, name): change for (group, name), change in changes.items() if group == CHAINS}
        delta: Delta[EntryKey, Rules] = Delta.of(of_chains)
        if not compiled.is_wanted:
            gone = {key: rules for key, rules in self._all_of(family).items() if key not in delta.added}
            gone |= delta.removed | {key: change.before for key, change in delta.changed.items()}
            return Delta(removed=gone)
        return delta

    def entries(self) -> Entries:
        """All that is wanted."""
        found: Entries = {}
        for family in self._compilers:
            found |= self._entries_of(family)
        return found

    def entries_of(self, item_id: Id) -> Entries:
        """Nothing: no fact stands alone."""
        del item_id
        return {}

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
        return {_key(family, name): rules for (group, name), rules in entries.items() if group == CHAINS}


def _key(family: Family, name: str) -> EntryKey:
    return EntryKey(family, FILTER, name, PREFIX)


def _error(id_: PolicyRules, what: str) -> TargetError:
    return TargetError(
        f"{id_.policy}: {what}, which takes an ipset, and there are none; its pods are isolated ({id_.direction.value})"
    )


@lru_cache(maxsize=8)
def _base_chains(family: Family, settings: PolicySettings) -> BaseChains:
    template = environment("iptables").get_template("policies.rules.j2")
    text = template.render(
        discovery=DISCOVERY if family is Family.IPV6 else (),
        denial="-j DROP" if settings.denial is Denial.DROP else REJECT[family],
        strict=NO_SYN if settings.strict else "",
        node_input=settings.node_input,
    )
    return base_chains(family, text, PREFIX)
