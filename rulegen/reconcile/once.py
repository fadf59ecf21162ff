"""Features and the rules in the kernel, compared or made equal once; with any driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from rulegen.errors import StaleError, TargetError
from rulegen.reconcile.driver import Difference, LiveRules
from rulegen.reconcile.feature import AnyDelta, Feature

_ATTEMPTS = 5

Show = Callable[[Difference], None]


class TakenItems(NamedTuple):
    """What features have handed on, by feature: all items, and what they depend on."""

    items: Mapping[str, Mapping[Any, Any]]
    contexts: Mapping[str, Any]


def take_all(features: Iterable[Feature]) -> TakenItems:
    """All that the features want, of which nothing was taken before."""
    taken = {feature.name: feature.take() for feature in features}
    return TakenItems(
        {name: one.items for name, one in taken.items()}, {name: one.context for name, one in taken.items()}
    )


def compare_once(rules: LiveRules, wanted: TakenItems) -> tuple[AnyDelta, Difference]:
    """What makes the kernel equal to it. Raises TargetError, a line for each item without a place there."""
    rules.read()
    # The Delta is as large as the ruleset, and not what is asked for.
    errors = rules.update(wanted.items, wanted.contexts)[1]
    if errors:
        raise TargetError("\n".join(map(str, errors.values())))
    delta = rules.difference()
    return delta, Difference.of(delta, lambda: rules.changes_in_full(delta), lambda: rules.counts(delta))


def apply_once(make: Callable[[], LiveRules], wanted: TakenItems, show: Show, *, dry_run: bool) -> Difference:
    """Reads, compares, shows the plan, applies; what differed. `dry_run`: the kernel only checks it.

    `make` gives rules of which nothing was read yet; it is called again when others changed the kernel in between.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _attempt(make(), wanted, show, dry_run=dry_run)
        except StaleError:
            continue
    return _attempt(make(), wanted, show, dry_run=dry_run)


def _attempt(rules: LiveRules, wanted: TakenItems, show: Show, *, dry_run: bool) -> Difference:
    delta, difference = compare_once(rules, wanted)
    show(difference)
    if delta and dry_run:
        rules.check(delta)
    elif delta:
        rules.apply(delta)
    return difference
