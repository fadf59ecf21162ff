"""A whole cluster and the rules in the kernel, compared or made equal once; for either target."""

from __future__ import annotations

from collections.abc import Callable

from rulegen.config import Family
from rulegen.errors import StaleError, TargetError
from rulegen.services.store import Store
from rulegen.targets.model import AnyDelta, Difference, LiveRules, Show

_ATTEMPTS = 5


def compare_once(rules: LiveRules, store: Store) -> tuple[AnyDelta, Difference]:
    """What makes the kernel equal to it. Raises TargetError, a line for each ServicePort without a place there."""
    rules.read()
    service_ports = {(service_port.name, service_port.family): service_port for service_port in store.service_ports()}
    nodes = {family: node for family in Family if (node := store.node_settings(family)) is not None}
    # The Delta is as large as the ruleset, and not what is asked for.
    errors = rules.update(service_ports, nodes)[1]
    if errors:
        raise TargetError("\n".join(map(str, errors.values())))
    delta = rules.difference()
    return delta, Difference.of(delta, lambda: rules.changes(delta), lambda: rules.counts(delta))


def apply_once(make: Callable[[], LiveRules], store: Store, show: Show, *, dry_run: bool) -> Difference:
    """Reads, compares, shows the plan, applies; what differed. `dry_run`: the kernel only checks it.

    `make` gives rules of which nothing was read yet; it is called again when others changed the kernel in between.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _attempt(make(), store, show, dry_run=dry_run)
        except StaleError:
            continue
    return _attempt(make(), store, show, dry_run=dry_run)


def _attempt(rules: LiveRules, store: Store, show: Show, *, dry_run: bool) -> Difference:
    delta, difference = compare_once(rules, store)
    show(difference)
    if delta and dry_run:
        rules.check(delta)
    elif delta:
        rules.apply(delta)
    return difference
