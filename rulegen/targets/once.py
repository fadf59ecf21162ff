"""A whole cluster and the rules in the kernel, compared or made equal once; for either target."""

from __future__ import annotations

from collections.abc import Callable

from rulegen.config import Family
from rulegen.errors import StaleError, TargetError
from rulegen.services.store import Cluster
from rulegen.targets.model import AnyDelta, Difference, LiveRules, Show

_ATTEMPTS = 5


def compare_once(rules: LiveRules, cluster: Cluster) -> tuple[AnyDelta, Difference]:
    """What makes the kernel equal to the cluster. Raises TargetError, a line for each Route that has no place there."""
    rules.read()
    routes = {(route.name, route.family): route for route in cluster.routes()}
    nodes = {family: node for family in Family if (node := cluster.node_routing(family)) is not None}
    # The Delta is as large as the ruleset, and not what is asked for.
    errors = rules.update(routes, nodes)[1]
    if errors:
        raise TargetError("\n".join(map(str, errors.values())))
    delta = rules.difference()
    return delta, Difference.of(delta, lambda: rules.changes(delta), lambda: rules.counts(delta))


def apply_once(make: Callable[[], LiveRules], cluster: Cluster, show: Show, *, dry_run: bool) -> Difference:
    """Reads, compares, shows the plan, applies; what differed. `dry_run`: the kernel only checks it.

    `make` gives rules of which nothing was read yet; it is called again when others changed the kernel in between.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _attempt(make(), cluster, show, dry_run=dry_run)
        except StaleError:
            continue
    return _attempt(make(), cluster, show, dry_run=dry_run)


def _attempt(rules: LiveRules, cluster: Cluster, show: Show, *, dry_run: bool) -> Difference:
    delta, difference = compare_once(rules, cluster)
    show(difference)
    if delta and dry_run:
        rules.check(delta)
    elif delta:
        rules.apply(delta)
    return difference
