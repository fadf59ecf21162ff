"""A kernel in memory: a dictionary with a driver's interface, which refuses and is meddled with on request.

For tests of what is between features and drivers, in milliseconds and without privileges. An entry is any key and
value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from rulegen.config import Family
from rulegen.errors import ApplyError, HostError, StaleError
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.delta import Change, Delta, diff
from rulegen.reconcile.driver import Owned, RuleCount, RulesState, ShownChange, digest_of, shown_change
from rulegen.reconcile.feature import AnyDelta, AnyEntries, ItemErrors, ItemKey
from rulegen.reference import ObjectReference


class MemoryKernel:
    """What a kernel holds. `commits`: what each transaction did.

    `refuses`: whether it refuses an entry that comes. `unreadable`: nothing can be read at present.
    """

    def __init__(self) -> None:
        self.entries: dict[Any, Any] = {}
        self.commits: list[AnyDelta] = []
        self.refuses: Callable[[Any, Any], bool] = lambda _key, _value: False
        self.unreadable = False
        self.generation = 0

    def meddle(self, changes: Mapping[Any, Any]) -> None:
        """Another program commits: values by key, None to delete."""
        self.generation += 1
        for key, value in changes.items():
            if value is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = value

    def check(self, delta: AnyDelta) -> None:
        """Raises ApplyError for what it would refuse."""
        come = {**delta.added, **{key: change.after for key, change in delta.changed.items()}}
        for key, value in come.items():
            if self.refuses(key, value):
                raise ApplyError(f"the kernel refused {key}")

    def commit(self, delta: AnyDelta, generation: int) -> None:
        """All or nothing; `generation`: of the reading that it was planned on."""
        if generation != self.generation:
            raise StaleError("the kernel was changed meanwhile")
        self.check(delta)
        self.commits.append(delta)
        self.generation += 1
        for key in delta.removed:
            del self.entries[key]
        self.entries.update(delta.added)
        self.entries |= {key: change.after for key, change in delta.changed.items()}


class MemoryRules:
    """See `LiveRules`. `reads`: how often the kernel was read."""

    def __init__(self, kernel: MemoryKernel, compilers: CompilerSet) -> None:
        self.kernel = kernel
        self.reads = 0
        self._compilers = compilers
        self._unreadable: Mapping[str, Collection[ObjectReference]] = {}
        self._live: AnyEntries = {}
        self._generation = 0

    @property
    def live(self) -> AnyEntries:
        return self._live

    def preserve_unreadable(self, unreadable: Mapping[str, Collection[ObjectReference]]) -> None:
        self._unreadable = unreadable

    def read(self) -> None:
        if self.kernel.unreadable:
            raise HostError("nothing can be read")
        self.reads += 1
        self._live = dict(self.kernel.entries)
        self._generation = self.kernel.generation
        self._compilers.adopt(self._live, self._unreadable)

    def update(self, items: Items, contexts: Mapping[str, Any]) -> tuple[AnyDelta, ItemErrors]:
        delta, errors = self._compilers.update(items, contexts)
        return self._compilers.spare(delta), errors

    def difference(self) -> AnyDelta:
        return self._compilers.spare(diff(self._live, self._compilers.entries()))

    def state(self) -> RulesState:
        return RulesState(digest_of(sorted(self._live.items())), digest_of(sorted(self._compilers.entries().items())))

    def check(self, delta: AnyDelta) -> None:
        self.kernel.check(delta)

    def apply(self, delta: AnyDelta) -> None:
        self.kernel.commit(delta, self._generation)
        self._generation = self.kernel.generation

    def accepts(self, pending: Mapping[ItemKey, Change[Any]], suspects: Collection[ItemKey]) -> None:
        del pending
        self.kernel.check(Delta(self._compilers.entries_of(suspects)))

    def settle(self) -> None:
        self._live = {}

    def changes(self, delta: AnyDelta) -> Iterator[ShownChange]:
        owner = self._compilers.owners(self._live)
        for key, value in sorted(delta.added.items()):
            yield shown_change("+", f"+ {key}", {"key": str(key)}, (None, value), Owned("", owner(key, value)))
        for key, change in sorted(delta.changed.items()):
            content = (change.before, change.after)
            yield shown_change("~", f"~ {key}", {"key": str(key)}, content, Owned("", owner(key, change.after)))
        for key, value in sorted(delta.removed.items()):
            yield shown_change("-", f"- {key}", {"key": str(key)}, (value, None), Owned("", owner(key, value)))

    def changes_in_full(self, delta: AnyDelta) -> Iterator[ShownChange]:
        return self.changes(delta)

    def counts(self, delta: AnyDelta) -> Iterator[str]:
        yield f"{len(delta)} entries"

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        return {}
