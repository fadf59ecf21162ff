"""The tables of all features in the kernel, kept equal to what their compilers want; see `LiveRules`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rulegen.config import Family
from rulegen.nftables.chain_rules import (
    Written,
    WrittenOf,
    as_compiled,
    as_live,
    as_text,
    chain_texts,
    chains_of,
    listed_chains,
    rules_of,
    spec_of,
)
from rulegen.nftables.diff_text import UNKNOWN_TABLE, count, shown_changes
from rulegen.nftables.elements import EntryKey, Value
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.live import Live
from rulegen.nftables.plain_elements import difference
from rulegen.nftables.rules import Names
from rulegen.nftables.tables import AllEntries, BaseChains, Entries, KeepsInNewTables, TableCompiler, TableSpec
from rulegen.nftables.transaction import Transaction, plan
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.delta import Change, Delta, diff
from rulegen.reconcile.driver import RuleCount, RulesState, ShownChange, digest_of
from rulegen.reconcile.feature import ItemErrors, ItemKey
from rulegen.reconcile.parts import together
from rulegen.reference import ObjectReference


class LiveTables:
    """`compilers`: `TableCompiler`s. `others`: tables of features that are off; these go."""

    def __init__(self, kernel: Kernel, compilers: CompilerSet, others: Sequence[TableSpec] = ()) -> None:
        self._kernel = kernel
        self._compilers = compilers
        self._tables: list[TableCompiler] = list(compilers.by_feature.values())  # type: ignore[arg-type]
        self._specs = [*(spec for tables in self._tables for spec in tables.specs), *others]
        self._live = Live()
        self._unreadable: Mapping[str, Collection[ObjectReference]] = {}
        # Ids, slots and the like are adopted from what was read before the first update.
        self._has_compiled = False
        # All that is wanted, while it is being compared with what was read.
        self._desired: AllEntries | None = None

    @property
    def live(self) -> AllEntries:
        """See `LiveRules`."""
        return self._live.entries

    def preserve_unreadable(self, unreadable: Mapping[str, Collection[ObjectReference]]) -> None:
        """See `LiveRules`."""
        self._unreadable = unreadable

    def read(self) -> None:
        """See `LiveRules`."""
        self._live = self._kernel.read(self._specs)
        self._compilers.adopt(self._live.entries, self._unreadable)

    def update(self, items: Items, contexts: Mapping[str, Any]) -> tuple[Delta[EntryKey, Value], ItemErrors]:
        """See `LiveRules`."""
        delta, errors = self._compilers.update(items, contexts)
        # The first time that is everything.
        self._desired = None if self._has_compiled else delta.added
        self._has_compiled = True
        return self._compilers.spare(delta), errors

    def difference(self) -> Delta[EntryKey, Value]:
        """See `LiveRules`."""
        if self._desired is None:
            self._desired = self._compilers.entries()
        base_chains = self._base_chains()
        self._kernel.prove(self._live, base_chains, self._desired)
        everything = difference(self._live.entries, self._desired)
        delta = self._compilers.spare(everything)
        if delta is not everything:
            self._desired = together(self._desired, self._kept_anew(everything, delta, base_chains))
        unknown: Entries = {
            (spec.foreign, UNKNOWN_TABLE): Value()
            for spec, table in self._live.tables.items()
            if spec not in base_chains and not table.schema
        }
        return Delta(delta.added, delta.changed, {**delta.removed, **unknown}) if unknown else delta

    def _kept_anew(
        self,
        everything: Delta[EntryKey, Value],
        delta: Delta[EntryKey, Value],
        base_chains: Mapping[TableSpec, BaseChains],
    ) -> Entries:
        """What the tables that are made anew hold of what is spared, though nobody wants it."""
        tables = self._live.tables
        anew = {spec for spec, fixed in base_chains.items() if spec in tables and tables[spec].schema != fixed.schema}
        spared = {
            key: value for key, value in everything.removed.items() if key[0].spec in anew and key not in delta.removed
        }
        kept: Entries = {}
        for compiler in self._tables if spared else ():
            if isinstance(compiler, KeepsInNewTables):
                kept |= compiler.in_new_table(spared)
        return kept

    def state(self) -> RulesState:
        """See `LiveRules`."""
        desired = self._compilers.entries() if self._desired is None else self._desired
        tables = [
            (str(spec), table.schema, table.declared_as, sorted(table.listed_as.items()), sorted(table.foreign.items()))
            for spec, table in self._live.tables.items()
        ]
        live = digest_of([*sorted(tables), *sorted(map(_parts, self._live.entries.items()))])
        return RulesState(live, digest_of(sorted(map(_parts, desired.items()))))

    def check(self, delta: Delta[EntryKey, Value]) -> None:
        """See `LiveRules`."""
        self._kernel.check(self._plan(delta), self._live)

    def apply(self, delta: Delta[EntryKey, Value]) -> None:
        """See `LiveRules`; in one transaction."""
        self._kernel.commit(self._plan(delta), self._live)

    def accepts(self, pending: Mapping[ItemKey, Change[Any]], suspects: Collection[ItemKey]) -> None:
        """See `LiveRules`; changes nothing."""
        wanted: AllEntries = self._compilers.entries_of(suspects)
        there = {entry: value for entry in wanted if (value := self._live.entries.get(entry)) is not None}
        self._desired = {**self._compilers.entries_without(pending.keys()), **wanted}
        self.check(diff(there, wanted))

    def settle(self) -> None:
        """See `LiveRules`; plans need the chains, and the entries are the compilers' from now on."""
        self._live = Live(self._live.tables)
        self._desired = None

    def changes(self, delta: Delta[EntryKey, Value]) -> Iterator[ShownChange]:
        """See `LiveRules`."""
        return shown_changes(delta, self._compilers.owners(self._live.entries))

    def changes_in_full(self, delta: Delta[EntryKey, Value]) -> Iterator[ShownChange]:
        """See `LiveRules`."""
        owner = self._compilers.owners(self._live.entries)
        return shown_changes(delta, owner, rules_of(delta, *self._chains_before_and_after(delta)))

    def counts(self, delta: Delta[EntryKey, Value]) -> Iterator[str]:
        """See `LiveRules`."""
        return count(delta)

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        """Nothing: the fixed part is constant."""
        return {}

    def _chains_before_and_after(self, delta: Delta[EntryKey, Value]) -> tuple[WrittenOf, WrittenOf]:
        """Nft is asked only about tables in which chains differ that are there."""
        base_chains, tables = self._base_chains(), self._live.tables
        differ: dict[TableSpec, list[str]] = {}
        for set_spec, name in chains_of(Delta(changed=delta.changed)):
            differ.setdefault(spec_of(set_spec), []).append(name.decode())
        gone = {spec_of(set_spec) for set_spec, _ in chains_of(Delta(removed=delta.removed))}
        listed = {spec: listed_chains(spec) for spec in {*differ, *gone} if spec in tables}
        compiled = self._kernel.compiled({spec: (base_chains[spec], Names(names)) for spec, names in differ.items()})
        text_of = chain_texts(base_chains)

        def before(key: EntryKey) -> Written | None:
            spec = spec_of(key[0])
            chain = listed.get(spec, {}).get(key[1].decode())
            return as_live(tables[spec], chain) if chain is not None else None

        def after(key: EntryKey) -> Written | None:
            chain, known = text_of(key), compiled.get((spec_of(key[0]), key[1].decode()))
            return as_compiled(chain, known) if chain is not None and known is not None else as_text(chain)

        return before, after

    def _base_chains(self) -> dict[TableSpec, BaseChains]:
        return base_chains_of_all(self._tables)

    def _plan(self, delta: Delta[EntryKey, Value]) -> Transaction:
        retimed = self._kernel.retimed(delta, self._live.tables)
        return plan(delta, self._live, self._base_chains(), self._desired, retimed)


def _parts(entry: tuple[EntryKey, Value]) -> tuple[str, str, bytes, bytes, str]:
    """Of an entry what tells it from all others."""
    (set_spec, key), value = entry
    return set_spec.label, set_spec.name, key, value.data, value.comment


def base_chains_of_all(compilers: Collection[TableCompiler]) -> dict[TableSpec, BaseChains]:
    """The texts of all tables that are wanted, in the features' order."""
    return {spec: fixed for compiler in compilers for spec, fixed in compiler.base_chains.items()}
