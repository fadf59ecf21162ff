"""Network policies, proved together with Services: each option, both targets; and damage to their rules is found."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from rulegen.config import Denial, NodeConfiguration, PolicySettings, Target
from rulegen.drivers import make_driver
from rulegen.features import feed, kinds_of, make
from rulegen.golden import read_scenario
from rulegen.kube.manifests import load
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.driver import compile_all
from rulegen.reconcile.feature import Feature
from rulegen.reconcile.once import take_all
from rulegen.services.feature import ServicesFeature
from rulegen.verify import questions, rulesets
from rulegen.verify.report import Report, lines

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
    "without ipset": PolicySettings(ipsets=False),
    "without ipset, all": PolicySettings(
        denial=Denial.REJECT, strict=True, fail_closed=True, node_input=True, ipsets=False
    ),
}
# The same, in other words.
_PLAIN = "without ipset"
_SAME_BEHAVIOUR = {"as they come", _PLAIN, "without ipset, all"}


class Cluster:
    """Objects under some options: the features that have read them, and the rules that come of them."""

    def __init__(
        self,
        objects: Iterable[Any],
        configuration: NodeConfiguration,
        addresses: Iterable[str],
        features: Iterable[str] = _FEATURES,
    ) -> None:
        self.configuration = configuration
        self.addresses = tuple(addresses)
        self.features: list[Feature] = make(tuple(features), configuration)
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
        return questions.against_objects(source, self.store, self.configuration, self.addresses, features=self.features)


@lru_cache(maxsize=16)
def cluster(options: str) -> Cluster:
    scenario = read_scenario(_SCENARIO)
    configuration = replace(scenario.configuration, policies=_OPTIONS[options])
    manifests = load([str(_SCENARIO / "cluster.yaml")], None, kinds=kinds_of(_FEATURES))
    return Cluster(manifests.release(), configuration, scenario.addresses)


@pytest.mark.part(8)
@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("options", _OPTIONS)
def test_rules_do_what_policies_mean(options: str, target: Target) -> None:
    found = cluster(options)
    report = found.report(found.text(target))
    assert not report.status, "\n".join(lines(report))


@pytest.mark.part(8)
@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize(
    ("options", "other"),
    [("as they come", name) for name in _OPTIONS if name not in _SAME_BEHAVIOUR]
    + [(name, "as they come") for name in _OPTIONS if name not in _SAME_BEHAVIOUR],
)
def test_rules_for_other_options_differ(options: str, other: str, target: Target) -> None:
    assert cluster(options).report(cluster(other).text(target)).status == 1


# What a line of the rules is (all that match, but a lookup that stands twice), and what it becomes.
_DAMAGE = {
    "a pod of no chain": ("nftables", r"\t10\.128\.0\.6 .*: goto ingress-.*\n", ""),
    "a pod of another chain": ("nftables", r"(10\.128\.0\.5 .*: goto) ingress-\w+", r"\1 denied-ingress"),
    "a selector without a member": ("nftables", r"\t10\.128\.0\.5,\n", ""),
    "a named port that is gone": ("nftables", r"\t10\.128\.0\.5 \. tcp \. 8080,\n", ""),
    "a port that is another": ("nftables", r"tcp \. 5432", "tcp . 5433"),
    "a range that is longer": ("nftables", r"9000-9010", "9000-9011"),
    "denials that are none": ("nftables", r"(chain denied-ingress \{\n\t\t)drop", r"\1accept"),
    "a chain that accepts": ("nftables", r"(chain ingress-\w+ \{\n)", r"\1\t\taccept\n"),
    "replies that are asked about": ("nftables", r"\t\tct state established,related accept\n", ""),
    "a chain at another hook": ("nftables", r"(chain egress \{\n.*hook) forward", r"\1 output"),
    "pods that reach not themselves": ("nftables", r"\t\tip6? saddr \. ip6? daddr @self accept\n", ""),
    "discovery that is denied": ("nftables", r"\t\ticmpv6 type 133-137 accept\n", ""),
    "no jump": ("iptables", r"-A RULEGEN-NP-FORWARD .*-j RULEGEN-NP-INGRESS\n", ""),
    "no hook": ("iptables", r"-I FORWARD .*RULEGEN-NP-FORWARD\n", ""),
    "replies that are asked": ("iptables", r"-m conntrack ! --ctstate RELATED,ESTABLISHED (-j RULEGEN-NP-)", r"\1"),
    "a set that leads nowhere": ("iptables", r"-A RULEGEN-NP-INGRESS -m set --match-set rulegen-i-\w+ dst -g .*\n", ""),
    "a pod that is led nowhere": ("iptables", r"add rulegen-i-\w+ 10\.128\.0\.6\n", ""),
    "a member that is gone": ("iptables", r"add rulegen-pods-\w+ 10\.128\.0\.5\n", ""),
    "a member more": ("iptables", r"(add rulegen-pods-\w+ )10\.128\.0\.5\n", r"\g<0>\g<1>10.128.0.77\n"),
    "a place that is gone": ("iptables", r"add rulegen-named-\w+ 10\.128\.0\.5,tcp:8080\n", ""),
    "a place of another port": ("iptables", r"(add rulegen-named-\w+ 10\.128\.0\.5,tcp:)8080", r"\g<1>8081"),
    "a set for the other end": ("iptables", r"(--match-set rulegen-pods-\w+) src", r"\1 dst"),
    "a leaf that is gone": (_PLAIN, r"-A RULEGEN-NP-INGRESS -d 10\.128\.0\.6/32 -g .*\n", ""),
    "a leaf of another pod": (_PLAIN, r"(-A RULEGEN-NP-INGRESS -d 10\.128\.0\.)6(/32 -g)", r"\g<1>7\2"),
    "a port that is one more": ("iptables", r"--dport 9000:9010", "--dport 9000:9011"),
    "an end that is gone": ("iptables", r"-A RULEGEN-NP-I-\w+ -j RULEGEN-NP-DENIED\n", ""),
    "denied and accepted": ("iptables", r"-A RULEGEN-NP-DENIED -j DROP", "-A RULEGEN-NP-DENIED -j ACCEPT"),
    "discovery denied": ("iptables", r"-A RULEGEN-NP-FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN\n", ""),
    "accepted for all": (_PLAIN, r"(-s 10\.128\.0\.5/32 -p tcp -m tcp) --dport 5432", r"\1"),
}


@pytest.mark.part(5)
@pytest.mark.parametrize("damage", _DAMAGE)
def test_damage_is_found(damage: str) -> None:
    kind, pattern, replacement = _DAMAGE[damage]
    found = cluster(_PLAIN if kind == _PLAIN else "as they come")
    text, count = re.subn(pattern, replacement, found.text(Target.IPTABLES if kind == _PLAIN else Target(kind)))
    assert count
    assert found.report(text).status == 1


def test_a_feature_that_nobody_knows() -> None:
    found = cluster("as they come")
    strange = SimpleNamespace(name="strange")
    source = rulesets.read_text(found.text(Target.IPTABLES), "the rules")
    features: list[Any] = [*found.features, strange]
    report = questions.against_objects(source, found.store, found.configuration, (), features=features)
    assert report.status == 2
    assert list(lines(report))[1:] == ["nothing is proved about strange"]
