"""Network policies, proved together with Services: each option, both targets; and damage to their rules is found."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from rulegen.config import Denial, NodeConfiguration, PolicySettings, Target
from rulegen.drivers import make_driver
from rulegen.features import feed, make
from rulegen.golden import read_scenario
from rulegen.kube.manifests import load
from rulegen.features import kinds_of
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.driver import compile_all
from rulegen.reconcile.feature import Feature
from rulegen.reconcile.once import take_all
from rulegen.services.feature import ServicesFeature
from rulegen.verify import questions, rulesets
from rulegen.verify.report import Report, lines
from tests.verify.test_mutations import altered

pytestmark = pytest.mark.kernel

_SCENARIO = Path(__file__).parent.parent.parent / "golden" / "network-policies"
_FEATURES = ("network-policies",)
_OPTIONS = {
    "as they come": PolicySettings(),
    "reject": PolicySettings(denial=Denial.REJECT),
    "strict": PolicySettings(strict=True),
    "fail closed": PolicySettings(fail_closed=True),
    "node input": PolicySettings(node_input=True),
    "strict, node input": PolicySettings(strict=True, node_input=True),
    "fail closed, node input": PolicySettings(fail_closed=True, node_input=True),
    "fail closed, reject": PolicySettings(fail_closed=True, denial=Denial.REJECT),
    "all": PolicySettings(denial=Denial.REJECT, strict=True, fail_closed=True, node_input=True),
}


class Cluster:
    """Objects under some options: the features that have read them, and the rules that come of them."""

    def __init__(self, objects: Iterable[Any], configuration: NodeConfiguration, addresses: Iterable[str]) -> None:
        self.configuration = configuration
        self.addresses = tuple(addresses)
        self.features: list[Feature] = make(_FEATURES, configuration)
        feed(self.features, objects)
        self._taken = take_all(self.features)
        (self.store,) = (feature.store for feature in self.features if isinstance(feature, ServicesFeature))

    def text(self, target: Target) -> str:
        """As `rulegen render` writes it."""
        driver = make_driver(target)
        compilers = CompilerSet.of(self.features, driver.name, self.configuration)
        compile_all(compilers, *self._taken)
        return "".join(driver.render(compilers))

    def report(self, text: str) -> Report:
        """What is proved of rules."""
        source = rulesets.read_text(text, "the rules")
        return questions.against_objects(
            source, self.store, self.configuration, self.addresses, features=self.features
        )


@lru_cache(maxsize=16)
def cluster(options: str) -> Cluster:
    scenario = read_scenario(_SCENARIO)
    configuration = replace(scenario.configuration, policies=_OPTIONS[options])
    manifests = load([str(_SCENARIO / "cluster.yaml")], None, kinds=kinds_of(_FEATURES))
    return Cluster(manifests.release(), configuration, scenario.addresses)


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("options", _OPTIONS)
def test_rules_do_what_policies_mean(options: str, target: Target) -> None:
    found = cluster(options)
    report = found.report(found.text(target))
    assert not report.status, "\n".join(lines(report))


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize(
    ("options", "other"),
    [("as they come", name) for name in _OPTIONS if name != "as they come"]
    + [(name, "as they come") for name in _OPTIONS if name != "as they come"],
)
def test_rules_for_other_options_differ(options: str, other: str, target: Target) -> None:
    assert cluster(options).report(cluster(other).text(target)).status == 1
