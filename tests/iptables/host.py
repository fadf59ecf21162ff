"""A network namespace in which rulegen's chains are loaded, damaged and read back.

Objects come in as in a manifest; what was sent to the kernel and what it then holds come out. Never touches the
namespace of the tests.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping

from rulegen.config import Family, NodeConfiguration
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.iptables.base_chains import Entries, EntryKey, Rules
from rulegen.iptables.binaries import Variant
from rulegen.iptables.kernel import Driver, Kernel
from rulegen.iptables.text import adopt_wording
from rulegen.iptables.transaction import Step, plan
from rulegen.reconcile.delta import Delta, diff
from rulegen.services.on_iptables.compiler import Compiler, compile_ruleset
from tests.builders import CONFIGURATION, Item, store

COMMANDS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


def compiled(items: Iterable[Item], configuration: NodeConfiguration = CONFIGURATION) -> Compiler:
    """The compiled objects."""
    made = store(*items, configuration=configuration)
    nodes = {family: node for family in configuration.families if (node := made.node_settings(family)) is not None}
    return compile_ruleset(made.service_ports(), nodes, configuration.masquerade_bit)


class Host:
    """A node's kernel, seen through one variant of iptables. A context manager."""

    def __init__(self, variant: Variant, drivers: Mapping[Family, Driver] | None = None) -> None:
        self.variant = variant
        self.namespace = NetworkNamespace()
        with self.namespace.entered():
            self.kernel = Kernel(variant, wait=5, drivers=drivers)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.namespace.close()

    def run(self, command: str, text: str = "", family: Family = Family.IPV4) -> str:
        """`run("-t nat -S")`, or `run("restore --noflush", text)`; what it prints."""
        name, _, rest = command.partition(" ")
        base_chains = f"{COMMANDS[family]}-{self.variant.value}"
        words = (
            [f"{base_chains}-{name}", *rest.split()] if name in {"restore", "save"} else [base_chains, *command.split()]
        )
        with self.namespace.entered():
            run = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
        assert not run.returncode, f"{words}: {run.stderr}"
        return run.stdout

    def read(self) -> Entries:
        """What the kernel holds of rulegen's."""
        with self.namespace.entered():
            return self.kernel.read()

    def delta(self, *items: Item) -> Delta[EntryKey, Rules]:
        """What `rulegen diff` would print."""
        live, desired = self.read(), compiled(items).entries()
        return diff(adopt_wording(live, desired), desired)

    def apply(self, *items: Item) -> list[Step]:
        """What `rulegen apply` does; the steps that were taken."""
        live = self.read()
        delta = self.delta(*items)
        steps = plan(delta, live)
        self.commit(steps, live)
        return steps

    def commit(self, steps: list[Step], live: Entries) -> None:
        """Takes steps that were planned on `live`."""
        with self.namespace.entered():
            self.kernel.commit(steps, live)

    def clear(self) -> None:
        """Forgets all rules, everybody's."""
        for family in Family:
            tables = [line[1:] for line in self.run("save", family=family).splitlines() if line.startswith("*")]
            for table in tables:
                for command in ("-F", "-X"):
                    self.run(f"-t {table} {command}", family=family)

    def foreign(self) -> list[tuple[str, str]]:
        """The rules and chains of others, in their order, with their tables."""
        found = []
        for family in Family:
            table = ""
            for line in self.run("save", family=family).splitlines():
                if line.startswith("*"):
                    table = f"{family.value} {line[1:]}"
                elif line.startswith(("-A", ":")) and not _is_nobodys(line):
                    found.append((table, line))
        return sorted(found, key=lambda item: item[0])


def _is_nobodys(line: str) -> bool:
    """A rule or chain of rulegen's, or a built-in chain, of which the kernel may make more."""
    return "RULEGEN" in line or (line.startswith(":") and " - [" not in line)
