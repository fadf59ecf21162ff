"""The catalogue is what it is said to be: large, always the same, and its cases tell programs apart."""

from __future__ import annotations

import json
from collections import defaultdict

from tests.policies import catalogue, cluster
from tests.policies.checks import expected
from tests.selection import Extent

_POD_PROBES = tuple(
    probe
    for probe in cluster.PROBES
    if probe.family == 4 and probe.source in cluster.PODS and probe.destination in cluster.PODS
)


def test_it_is_large_enough() -> None:
    cases = catalogue.cases()
    assert len(cases) >= 250
    assert len({case.name for case in cases}) == len(cases)
    assert sum(case.is_of_tiers for case in cases) >= 100


def test_the_table_has_all_pairs() -> None:
    assert len(_POD_PROBES) == 9 * 9 * 2 * 3
    assert len({probe.source.node for probe in _POD_PROBES}) == 2
    assert len(set(cluster.PROBES)) == len(cluster.PROBES)


def test_it_is_always_the_same() -> None:
    def text() -> str:
        return json.dumps([(case.name, case.objects()) for case in catalogue.cases()])

    first = text()
    catalogue.cases.cache_clear()
    assert text() == first


def test_its_cases_differ(extent: Extent) -> None:
    """A program that is wrong has few places to hide: most cases have a table that no other has, and few are empty."""
    cases = catalogue.cases() if extent.exhaustive else catalogue.cases()[::6]
    probes = cluster.PROBES if extent.exhaustive else cluster.PROBES[: len(cluster.PROBES) // 2]
    tables = defaultdict(list)
    for case in cases:
        tables[tuple(expected(case.objects(), probes))].append(case.name)
    mixed = sum(len(names) for table, names in tables.items() if len(set(table)) == 2)
    assert len(tables) > 0.55 * len(cases)
    assert mixed > 0.85 * len(cases)
