"""Rules that are not changed: in a dry run, each change is printed instead. Decides nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from rulegen.agent.log.lines import LineWriter
from rulegen.config import Family
from rulegen.errors import one_line
from rulegen.reconcile.compilers import Items
from rulegen.reconcile.delta import Change
from rulegen.reconcile.driver import LiveRules, RuleCount, RulesState, ShownChange
from rulegen.reconcile.feature import AnyDelta, AnyEntries, ItemErrors, ItemKey
from rulegen.reference import ObjectReference

_STANDARD_OUTPUT = 1
# A first sync prints a line for each entry of the cluster, all at once.
_MOST_LINES = 1_000_000
_LAST_LINES_SECONDS = 0.3


class Printout:
    """Standard output of a dry run, which nobody waits for; when it takes no more, the process is told to stop."""

    def __init__(self) -> None:
        self._error: OSError | None = None
        self._writer = LineWriter(_STANDARD_OUTPUT, _MOST_LINES, _dropped, self._fail)

    def print(self, text: str) -> None:
        """Prints text of one line or more; never waits, never raises."""
        for line in text.split("\n"):
            self._writer.write(one_line(line, None))

    def close(self) -> None:
        """Waits a little for what is not written yet. Raises OSError when not all could be."""
        self._writer.close(_LAST_LINES_SECONDS)
        if self._error is not None:
            raise self._error

    def _fail(self, error: OSError) -> None:
        self._error = error
        os.kill(os.getpid(), signal.SIGTERM)


def _dropped(lines: int) -> str:
    return f"# {lines} lines were not printed: nobody read them, or not fast enough"


class PrintedRules:
    """Prints what would change in `rules`, as if it came true; see `LiveRules`."""

    def __init__(self, rules: LiveRules, print_line: Callable[[str], None]) -> None:
        self._rules = rules
        self._print_line = print_line

    @property
    def live(self) -> AnyEntries:
        return self._rules.live

    def preserve_unreadable(self, unreadable: Mapping[str, Collection[ObjectReference]]) -> None:
        self._rules.preserve_unreadable(unreadable)

    def read(self) -> None:
        self._rules.read()

    def update(self, items: Items, contexts: Mapping[str, Any]) -> tuple[AnyDelta, ItemErrors]:
        return self._rules.update(items, contexts)

    def difference(self) -> AnyDelta:
        return self._rules.difference()

    def state(self) -> RulesState:
        return self._rules.state()

    def check(self, delta: AnyDelta) -> None:
        """Never raises."""

    def apply(self, delta: AnyDelta) -> None:
        for change in self._rules.changes(delta):
            self._print_line(change.text)

    def accepts(self, pending: Mapping[ItemKey, Change[Any]], suspects: Collection[ItemKey]) -> None:
        """Never raises."""

    def settle(self) -> None:
        self._rules.settle()

    def changes(self, delta: AnyDelta) -> Iterator[ShownChange]:
        return self._rules.changes(delta)

    def changes_in_full(self, delta: AnyDelta) -> Iterator[ShownChange]:
        return self._rules.changes_in_full(delta)

    def counts(self, delta: AnyDelta) -> Iterator[str]:
        return self._rules.counts(delta)

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        return self._rules.rule_counts()
