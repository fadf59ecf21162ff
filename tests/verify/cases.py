"""A World as rulegen compiles it: its rules on either target, and what they are compared with."""

from __future__ import annotations

from ipaddress import ip_interface

from rulegen.services.store import Store
from rulegen.targets.on_iptables import IptablesTarget
from rulegen.targets.on_nftables import NftablesTarget
from rulegen.verify import questions, rulesets
from rulegen.verify.report import Report, lines
from rulegen.verify.rulesets import Source
from tests.flows.world import World

TARGETS = {"nftables": NftablesTarget, "iptables": IptablesTarget}


class Case:
    """`text`: what `rulegen render` would write."""

    def __init__(self, world: World, target: str) -> None:
        self.world = world
        self.configuration = world.configuration()
        self.store = Store(self.configuration)
        self.store.set_objects(world.objects())
        self.addresses = [str(ip_interface(address).ip) for address in world.addresses]
        self.text = "".join(TARGETS[target]().render(self.store, self.configuration))

    def source(self) -> Source:
        return rulesets.read_text(self.text, "the rules")

    def report(self, source: Source) -> Report:
        return questions.against_objects(source, self.store, self.configuration, self.addresses)


def check(report: Report) -> None:
    """Everything is equal."""
    assert not report.status, "\n".join(lines(report))
