"""Blocked addresses on iptables: one chain in filter for each family, in front of the Services'."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.iptables.chains import FILTER, BaseChains, Entries, EntryKey, Rules, base_chains
from rulegen.iptables.names import safe_comment
from rulegen.iptables.text import comment_of
from rulegen.reconcile.delta import Delta, diff
from rulegen.reference import ObjectReference

PREFIX = "RULEGEN-BLK-"
CHAIN = f"{PREFIX}FORWARD"
_TEXT = f"""\
*filter
# Addresses that nothing is forwarded to.
:{CHAIN} - [0:0]
-I FORWARD -j {CHAIN}
COMMIT
"""
FIXED: Mapping[Family, BaseChains] = {family: base_chains(family, _TEXT, PREFIX) for family in Family}


class BlockingChains:
    """See `iptables.chains.ChainCompiler`; a family in which nothing is blocked has no chain."""

    prefix = PREFIX
    rank = 10
    guards = False
    yields = False

    def __init__(self, families: Collection[Family]) -> None:
        self._families = families
        self._rules: dict[ObjectReference, dict[Family, list[str]]] = {}
        self._kept: Entries = {}

    @property
    def base_chains(self) -> Mapping[Family, BaseChains]:
        wanted = {key.family for key in self.entries()}
        return {family: fixed for family, fixed in FIXED.items() if family in wanted}

    def needs(self, family: Family) -> Mapping[str, tuple[str, str]]:
        del family
        return {"match conntrack": (FILTER, "-m conntrack --ctstate NEW")}

    def sections(self, chains: Entries) -> Mapping[str, list[EntryKey]]:
        return {"Blocked.": list(chains)}

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        names = {safe_comment(f"{one.namespace}/{one.name}") for one in unreadable}
        mine = {key: rules for key, rules in live.items() if key.chain == CHAIN}
        self._kept = {key: tuple(rule for rule in rules if comment_of([rule]) in names) for key, rules in mine.items()}

    def update(
        self, items: Mapping[ObjectReference, tuple[str, ...] | None], context: None
    ) -> tuple[Delta[EntryKey, Rules], dict[ObjectReference, TargetError]]:
        del context
        before = self.entries()
        for reference, addresses in items.items():
            self._rules.pop(reference, None)
            if addresses:
                self._rules[reference] = self._compiled(reference, addresses)
        return diff(before, self.entries()), {}

    def entries(self) -> Entries:
        return self.entries_without(())

    def entries_of(self, item_id: ObjectReference) -> Entries:
        return self.entries_without(self._rules.keys() - {item_id})

    def entries_without(self, item_ids: Collection[ObjectReference]) -> Entries:
        rules = {family: list(self._kept.get(EntryKey(family, FILTER, CHAIN, PREFIX), ())) for family in Family}
        for reference in sorted(self._rules.keys() - set(item_ids)):
            for family, compiled in self._rules[reference].items():
                rules[family] += compiled
        entries: Entries = {}
        for family, wanted in rules.items():
            if wanted:
                entries |= FIXED[family].entries
                entries[EntryKey(family, FILTER, CHAIN, PREFIX)] = tuple(wanted)
        return entries

    def spare(self, delta: Delta[EntryKey, Rules]) -> Delta[EntryKey, Rules]:
        return delta

    def owners(self, live: Entries) -> Callable[[Any, Any], str]:
        del live
        return lambda key, rules: comment_of(rules) if key.prefix == PREFIX else ""

    def _compiled(self, reference: ObjectReference, addresses: tuple[str, ...]) -> dict[Family, list[str]]:
        name = safe_comment(f"{reference.namespace}/{reference.name}")
        found: dict[Family, list[str]] = {}
        for address in addresses:
            family = Family.IPV6 if ":" in address else Family.IPV4
            if family in self._families:
                rule = f'-m conntrack --ctorigdst {address} -m comment --comment "{name}" -j DROP'
                found.setdefault(family, []).append(rule)
        return found
