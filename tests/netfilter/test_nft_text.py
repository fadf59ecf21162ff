"""Chains as rulegen writes them, read as text and as the kernel has them: both do the same, for every packet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rulegen import golden
from rulegen.config import NodeConfiguration, Target
from rulegen.netfilter.model import Chain, Family, Rule, Ruleset, Table
from rulegen.netfilter.nft_text import ChainText, read_rule, read_table
from rulegen.verify import questions, rulesets
from rulegen.verify.questions import KnownAddresses
from rulegen.verify.report import lines
from rulegen.verify.rulesets import Source
from tests.verify.test_policies import cluster

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parent.parent.parent / "golden"
_CHAIN = re.compile(r"^\tchain (\S+) \{\n(.*?)^\t\}\n", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"^table (\S+ \S+) \{\n(.*?)^\}\n", re.MULTILINE | re.DOTALL)


def as_text(table: Table, family: Family, body: str) -> Table:
    """The same table, its sets as the kernel has them, with chains that are read from the text."""
    chains = {}
    for name, block in _CHAIN.findall(body):
        stripped = [line.strip() for line in block.splitlines()]
        rules = [line for line in stripped if line and not line.startswith("#")]
        declaration = rules.pop(0) if rules and " hook " in rules[0] else ""
        chains[name] = ChainText(declaration, lambda rules=rules: rules)  # type: ignore[misc]
    found = read_table(family, table.name.partition(" ")[2], chains, table.sets.get)
    assert found.chains.keys() == table.chains.keys()
    found.sets.update(table.sets)
    return found


def sides(text: str) -> Iterator[Source]:
    """The rules as the kernel has them, and as they are written."""
    kernel = rulesets.read_text(text, "the kernel's")
    yield kernel
    bodies = dict(_TABLE.findall(text))
    read = {
        family: Ruleset(family, tuple(as_text(table, family, bodies[table.name]) for table in ruleset.tables))
        for family, ruleset in kernel.rulesets.items()
    }
    assert read
    yield Source("the text", is_iptables=False, rulesets=read)


def compare(text: str, configuration: NodeConfiguration, known: KnownAddresses) -> None:
    mark = 1 << configuration.masquerade_bit
    left, right = sides(text)
    report = questions.against_rules(left, right, mark, known)
    assert not report.status, "\n".join(lines(report))


@pytest.mark.part(15)
@pytest.mark.parametrize("folder", golden.find_scenarios([str(ROOT)]), ids=lambda folder: folder.name)
def test_text_means_what_the_kernel_makes_of_it(folder: Path) -> None:
    scenario = golden.read_scenario(folder)
    text = golden.render(scenario, Target.NFTABLES)
    compare(text, scenario.configuration, KnownAddresses(scenario.addresses))


@pytest.mark.parametrize("options", ["all"])
def test_policies_with_every_option(options: str) -> None:
    found = cluster(options)
    known = questions.known_addresses(found.store, found.configuration, found.addresses, found.features)
    compare(found.text(Target.NFTABLES), found.configuration, known)


@pytest.mark.parametrize(
    "rule",
    [
        "ip saddr 10.0.0.0/33 accept",
        "ip6 daddr ::1 accept",
        "tcp option mss exists accept",
        "ip daddr @nothing accept",
        "limit rate 10/second accept",
        "ct state established,strange accept",
        "meta mark set",
        "ip daddr . th dport 80 accept",
        "jump",
    ],
)
def test_what_is_not_known_is_said(rule: str) -> None:
    chain = Chain("ip t", "c")
    (instruction,) = read_rule(Family.IPV4, rule, lambda _: None)
    assert str(Rule(chain, 1, (instruction,), str(instruction))) == f"ip t c: the rule {rule}"
