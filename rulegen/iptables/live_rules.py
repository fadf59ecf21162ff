"""The chains of all features in the kernel, kept equal to what their compilers want; see `LiveRules`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from rulegen.config import Family
from rulegen.errors import ApplyError
from rulegen.iptables.chains import (
    IPSET,
    ChainCompiler,
    Entries,
    EntryKey,
    Rules,
    UsesIpsets,
    by_rank,
    features_by_prefix,
    guards_of,
    prefixes_of,
    yielding_of,
)
from rulegen.iptables.diff_text import count, shown_changes
from rulegen.iptables.ipset_transaction import AnyStep, SetUsers, plan_with_sets
from rulegen.iptables.ipsets import element_of
from rulegen.iptables.kernel import Kernel
from rulegen.iptables.text import adopt_wording
from rulegen.iptables.transaction import is_remark, without_remarks
from rulegen.reconcile.compilers import CompilerSet, Items, by_feature
from rulegen.reconcile.delta import Change, Delta, diff
from rulegen.reconcile.driver import RuleCount, RulesState, ShownChange, digest_of
from rulegen.reconcile.feature import ItemErrors, ItemKey
from rulegen.reference import ObjectReference


class LiveChains:
    """`compilers`: `ChainCompiler`s.

    `patience`: a jump of ours that another program's rule shadows is moved to the front at most once in so many
    seconds, so that two programs that both want to be first do not fight.
    """

    def __init__(
        self,
        kernel: Kernel,
        compilers: CompilerSet,
        patience: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kernel = kernel
        self._compilers = compilers
        self._prefixes = prefixes_of(by_rank(compilers))
        self._guards = guards_of(by_rank(compilers))
        self._yielding = yielding_of(by_rank(compilers))
        # Those of which the kernel holds nothing, so that it may lack what their rules need.
        self._new: list[ChainCompiler] = []
        self._patience = patience
        self._clock = clock
        # Elements of sets are in it from a read until the kernel is equal: no plan needs them.
        self._live: Entries = {}
        self._has_elements = False
        self._set_users = SetUsers()
        self._use_ipsets = [compiler for compiler in by_rank(compilers) if isinstance(compiler, UsesIpsets)]
        # By family and table: the rules that there are, and those that the last change wrote.
        self._total: Counter[tuple[Family, str]] = Counter()
        self._written: Counter[tuple[Family, str]] = Counter()
        self._unreadable: Mapping[str, Collection[ObjectReference]] = {}
        # When each jump was moved to the front for the last time.
        self._moved: dict[EntryKey, float] = {}

    @property
    def live(self) -> Entries:
        """See `LiveRules`."""
        return self._live

    def preserve_unreadable(self, unreadable: Mapping[str, Collection[ObjectReference]]) -> None:
        """See `LiveRules`."""
        self._unreadable = unreadable

    def read(self) -> None:
        """See `LiveRules`."""
        live = self._kernel.read(self._prefixes, self._guards, self._yielding, with_ipsets=bool(self._use_ipsets))
        self._live = {key: self._spared(key, rules) for key, rules in live.items()}
        for compiler in self._use_ipsets:
            compiler.use_ipsets(are_there=self._kernel.has_ipsets is True)
        self._set_users = SetUsers()
        for key, rules in self._live.items():
            self._set_users.note(key, rules)
        self._has_elements = True
        present = {key.prefix for key in self._live}
        self._new = [compiler for compiler in by_rank(self._compilers) if compiler.prefix not in present]
        self._compilers.adopt(self._live, self._unreadable)
        self._total = Counter()
        for key, rules in self._live.items():
            if key.table != IPSET:
                self._total[key.family, key.table] += len(rules)

    def update(self, items: Items, contexts: Mapping[str, Any]) -> tuple[Delta[EntryKey, Rules], ItemErrors]:
        """See `LiveRules`."""
        return self._compilers.update(items, contexts)

    def difference(self) -> Delta[EntryKey, Rules]:
        """See `LiveRules`."""
        desired = self._compilers.entries()
        self._live = dict(adopt_wording(self._live, desired))
        return self._compilers.spare(diff(self._live, desired))

    def state(self) -> RulesState:
        """See `LiveRules`."""
        return RulesState(*(digest_of(sorted(_texts(entries))) for entries in (self._live, self._compilers.entries())))

    def check(self, delta: Delta[EntryKey, Rules]) -> None:
        """Has each restore tested. Raises ApplyError."""
        self._kernel.check(self._plan(delta))

    def apply(self, delta: Delta[EntryKey, Rules]) -> None:
        """See `LiveRules`; one restore for each table and family, of which those before a failed one stay in force."""
        steps = self._plan(delta)
        try:
            self._kernel.commit(steps, self._live)
        except ApplyError:
            self.read()
            raise
        self._new = []
        self._note(delta)

    def accepts(self, pending: Mapping[ItemKey, Change[Any]], suspects: Collection[ItemKey]) -> None:
        """See `LiveRules`; commits them: legacy iptables asks the kernel only about rules that stay."""
        others = {key: change for key, change in pending.items() if key not in suspects}
        self._compilers.update(by_feature({key: change.before for key, change in others.items()}), {})
        try:
            delta = self.difference()
            if delta:
                self.apply(delta)
        finally:
            self._compilers.update(by_feature({key: change.after for key, change in others.items()}), {})

    def settle(self) -> None:
        """See `LiveRules`; a plan needs to know which chains and sets there are, so they are remembered."""
        if self._has_elements:
            self._live = {
                key: rules for key, rules in self._live.items() if key.table != IPSET or element_of(key) is None
            }
            self._has_elements = False

    def changes(self, delta: Delta[EntryKey, Rules]) -> Iterator[ShownChange]:
        """See `LiveRules`."""
        return shown_changes(delta, self._compilers.owners(self._live), features_by_prefix(self._compilers))

    def changes_in_full(self, delta: Delta[EntryKey, Rules]) -> Iterator[ShownChange]:
        """See `LiveRules`; they are always in full."""
        return self.changes(delta)

    def counts(self, delta: Delta[EntryKey, Rules]) -> Iterator[str]:
        return count(delta)

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        return {table: RuleCount(total, self._written[table]) for table, total in self._total.items()}

    def _plan(self, delta: Delta[EntryKey, Rules]) -> list[AnyStep]:
        wanted = {key.prefix for key in delta.added} if self._new else set()
        for compiler in self._new:
            if compiler.prefix in wanted:
                self._kernel.probe(compiler.needs)
                if compiler in self._use_ipsets:
                    self._kernel.probe_ipsets()
        return plan_with_sets(delta, self._live, self._prefixes, self._set_users, self._yielding)

    def _note(self, delta: Delta[EntryKey, Rules]) -> None:
        """Follows in memory what a Delta did."""
        self._written = Counter()
        for key, rules in (*delta.added.items(), *((key, change.after) for key, change in delta.changed.items())):
            if not self._has_elements and key.table == IPSET and element_of(key) is not None:
                continue
            if key.table != IPSET:
                self._written[key.family, key.table] += len(rules)
                self._total[key.family, key.table] += len(rules) - len(self._live.get(key, ()))
            self._live[key] = rules
            self._set_users.note(key, rules)
        for key in delta.removed:
            gone = self._live.pop(key, ())
            if key.table != IPSET:
                self._total[key.family, key.table] -= len(gone)
                self._set_users.note(key, ())
        moved = (key for key, change in delta.changed.items() if any(map(is_remark, change.before)))
        self._moved |= dict.fromkeys(moved, self._clock())

    def _spared(self, key: EntryKey, rules: Rules) -> Rules:
        """The rules of a chain without the remark that they are shadowed, where a jump was moved not long ago."""
        moved = self._moved.get(key)
        if moved is None or self._clock() - moved >= self._patience:
            return rules
        return without_remarks(rules)


def _texts(entries: Mapping[EntryKey, Rules]) -> Iterator[tuple[str, str, str, str, Rules]]:
    return ((key.family.value, key.table, key.chain, key.prefix, rules) for key, rules in entries.items())
