"""A World as rulegen compiles it: its rules on either target, and what they are compared with."""

from __future__ import annotations

from ipaddress import ip_interface

from bench.verify import compiled
from rulegen.config import Target
from rulegen.verify import questions, rulesets
from rulegen.verify.report import Report, lines
from rulegen.verify.rulesets import Source
from tests.flows.world import World


class Case:
    """`text`: what `rulegen render` would write."""

    def __init__(self, world: World, target: str) -> None:
        self.world = world
        self.configuration = world.configuration()
        self.store, self.text = compiled(world.objects(), self.configuration, Target(target))
        self.addresses = [str(ip_interface(address).ip) for address in world.addresses]

    def source(self) -> Source:
        return rulesets.read_text(self.text, "the rules")

    def report(self, source: Source) -> Report:
        return questions.against_objects(source, self.store, self.configuration, self.addresses)


def check(report: Report) -> None:
    """Everything is equal."""
    assert not report.status, "\n".join(lines(report))
