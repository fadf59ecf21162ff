"""rulegen's iptables rules at work on a lab's node; stands in for the nftables ones in the tests of flows."""

from __future__ import annotations

from rulegen.config import NodeConfiguration
from rulegen.iptables.chains import EntryKey, Rules
from rulegen.iptables.kernel import remove_rules
from rulegen.iptables.text import adopt_wording
from rulegen.iptables.transaction import plan
from rulegen.reconcile.delta import Delta, diff
from rulegen.services.on_iptables.compiler import Compiler
from rulegen.services.store import Store
from tests.flows.node import ProxyNode, Way
from tests.iptables.host import ACCESSES, Access, kernel
from tests.lab import Lab


class IptablesNode(ProxyNode):
    """A lab with rulegen's rules in iptables, loaded in a way that a subclass names. A context manager."""

    access: Access

    def __init__(self, lab: Lab, configuration: NodeConfiguration, way: Way = Way.RUNNING) -> None:
        self.lab = lab
        self._configuration = configuration
        self._way = way
        self._known: set[tuple[str, str, str]] = set()
        with lab.entered():
            self._rules = kernel(self.access, wait=30)
        self.restart()

    def close(self) -> None:
        """The proxy ends; its rules stay."""
        self._rules.__exit__()

    def cleanup(self) -> None:
        """Removes the rules."""
        with self.lab.entered():
            remove_rules([self.access.variant])

    def restart(self) -> None:
        """Forgets all but what is in the kernel."""
        self._store = Store(self._configuration)
        self._known = set()
        self._desired = Compiler(self._configuration.families, self._configuration.masquerade_bit)
        self._started = False

    def _commit(self) -> int:
        changes = self._store.take_changes()
        with self.lab.entered():
            # What is live is another's work at the start, and what this node left there later.
            live = self._rules.read() if not self._started else self._desired.entries()
            delta, errors = self._desired.update(changes.service_ports, changes.node)
            assert not errors
            if not self._started:
                delta = self._whole(live)
                self._started = True
            if delta:
                self._rules.commit(plan(delta, live), live)
        return len(delta)

    def _whole(self, live: dict[EntryKey, Rules]) -> Delta[EntryKey, Rules]:
        desired = self._desired.entries()
        return diff(adopt_wording(live, desired), desired)


class NftNode(IptablesNode):
    """Rules of iptables-nft."""

    access = ACCESSES["nft"]


class LegacyNode(IptablesNode):
    """Rules of iptables-legacy."""

    access = ACCESSES["legacy"]


class PythonNode(IptablesNode):
    """The same, loaded by python-iptables."""

    access = ACCESSES["python-iptables"]


NODES: dict[str, type[IptablesNode]] = {"nft": NftNode, "legacy": LegacyNode, "python-iptables": PythonNode}
