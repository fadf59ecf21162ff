"""Egress masquerading, proved together with Services; and damage to its rules is found."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest

from rulegen.config import Target
from rulegen.golden import Scenario, read_scenario, render
from rulegen.verify import questions, rulesets
from rulegen.verify.report import Report, lines

pytestmark = pytest.mark.kernel

_SCENARIO = Path(__file__).parent.parent.parent / "golden" / "egress-masquerade"


@lru_cache(maxsize=1)
def scenario() -> Scenario:
    return read_scenario(_SCENARIO)


@lru_cache(maxsize=2)
def rendered(target: Target) -> str:
    return render(scenario(), target)


def report(text: str) -> Report:
    of = scenario()
    source = rulesets.read_text(text, "the rules")
    return questions.against_objects(source, of.store, of.configuration, of.addresses, features=of.features)


@pytest.mark.parametrize("target", Target)
def test_its_rules_are_proved(target: Target) -> None:
    found = report(rendered(target))
    assert found.status == 0, "\n".join(lines(found))


_DAMAGE = {
    "pods of another node": (Target.NFTABLES, "\t100.64.1.0/24,\n", ""),
    "Services": (Target.NFTABLES, "\t10.96.0.0/16,\n\t10.128", "\t10.128"),
    "an exemption less": (Target.NFTABLES, "\t203.0.113.128/25,\n", ""),
    "half of one": (Target.NFTABLES, "\t172.16.0.0/12,\n", "\t172.16.0.0/13,\n"),
    "more sources": (Target.NFTABLES, "\t10.128.0.0/24,\n", "\t10.128.0.0/23,\n"),
    "no look at the node's addresses": (Target.NFTABLES, " fib daddr type != local", ""),
    "nobody": (
        Target.NFTABLES,
        "masquerade fully-random\n\t}\n}\nadd element ip6 rulegen-egress",
        "\n\t}\n}\nadd element ip6 rulegen-egress",
    ),
    "before the Services": (Target.NFTABLES, "priority 101", "priority 98"),
    "pods of another node, by a chain": (Target.IPTABLES, "-A RULEGEN-EG-CLUSTER -d 100.64.1.0/24 -j RETURN\n", ""),
    "exemptions are passed over": (Target.IPTABLES, "-A RULEGEN-EG-EXEMPT -d 172.16.0.0/12 -j RETURN\n", ""),
    "all sources": (Target.IPTABLES, "RULEGEN-EG-PODS -s 10.128.0.0/24 -g", "RULEGEN-EG-PODS -g"),
    "the node itself": (
        Target.IPTABLES,
        "-A RULEGEN-EG-EXEMPT -m addrtype ! --dst-type LOCAL -j",
        "-A RULEGEN-EG-EXEMPT -j",
    ),
    "no jump": (Target.IPTABLES, "-A POSTROUTING -j RULEGEN-EG-PODS\n", ""),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_damage_is_found(damage: str) -> None:
    target, before, after = _DAMAGE[damage]
    text = rendered(target)
    assert before in text
    found = report(text.replace(before, after, 1))
    assert found.status == 1, "\n".join(lines(found))
