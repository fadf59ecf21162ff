"""Rules that are not changed: in a dry run, each change is printed instead. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.routing.model import NodeRouting, Route, RouteKey, ServiceKey
from rulegen.targets.model import AnyDelta, LiveRules, RouteChange, RuleCount, ShownChange


class PrintedRules:
    """Prints what would change in `rules`, as if it came true; see `LiveRules`."""

    def __init__(self, rules: LiveRules, print_line: Callable[[str], None]) -> None:
        self._rules = rules
        self._print_line = print_line

    def keep(self, services: Collection[ServiceKey]) -> None:
        """As the rules do."""
        self._rules.keep(services)

    def read(self) -> None:
        """As the rules do."""
        self._rules.read()

    def update(
        self, routes: Mapping[RouteKey, Route | None], nodes: Mapping[Family, NodeRouting]
    ) -> tuple[AnyDelta, dict[RouteKey, TargetError]]:
        """As the rules do."""
        return self._rules.update(routes, nodes)

    def difference(self) -> AnyDelta:
        """As the rules do."""
        return self._rules.difference()

    def check(self, delta: AnyDelta) -> None:
        """Never raises."""

    def apply(self, delta: AnyDelta) -> None:
        """Prints."""
        for change in self._rules.changes(delta):
            self._print_line(change.text)

    def accepts(self, pending: Mapping[RouteKey, RouteChange], suspects: Collection[RouteKey]) -> None:
        """Never raises."""

    def settle(self) -> None:
        """As the rules do."""
        self._rules.settle()

    def changes(self, delta: AnyDelta) -> Iterator[ShownChange]:
        """As the rules do."""
        return self._rules.changes(delta)

    def counts(self, delta: AnyDelta) -> Iterator[str]:
        """As the rules do."""
        return self._rules.counts(delta)

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        """As the rules do."""
        return self._rules.rule_counts()
