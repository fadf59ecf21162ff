"""A network namespace in which rulegen's chains are loaded, damaged and read back.

Objects come in as in a manifest; what was sent to the kernel and what it then holds come out. Never touches the
namespace of the tests.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from rulegen.config import Family, IptablesLoader, NodeConfiguration
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.errors import HostError
from rulegen.iptables.binaries import Variant
from rulegen.iptables.chains import Entries, EntryKey, Rules, by_rank, prefixes_of
from rulegen.iptables.driver import LOADERS
from rulegen.iptables.kernel import Kernel
from rulegen.iptables.text import adopt_wording
from rulegen.iptables.transaction import Step, plan
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Delta, diff
from rulegen.reconcile.driver import compile_all
from rulegen.services.on_iptables.chains import ServiceChains
from rulegen.services.store import Store
from tests.builders import CONFIGURATION, Item, store

COMMANDS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


def compiled(items: Iterable[Item], configuration: NodeConfiguration = CONFIGURATION) -> ServiceChains:
    """The compiled objects."""
    return compiled_store(store(*items, configuration=configuration), configuration)


def compiled_store(given: Store, configuration: NodeConfiguration) -> ServiceChains:
    """The compiled ServicePorts of a store. Raises TargetError, a line for each that has no place in the rules."""
    chains = ServiceChains(configuration)
    nodes = {family: node for family in configuration.families if (node := given.node_settings(family)) is not None}
    service_ports = {(service_port.name, service_port.family): service_port for service_port in given.service_ports()}
    compile_all(CompilerSet({"services": chains}), {"services": service_ports}, {"services": nodes})
    return chains


class Access(NamedTuple):
    """A variant of iptables, and what loads its rules."""

    variant: Variant
    loader: IptablesLoader = IptablesLoader.RESTORE


# All ways into the kernel that there are, by the names of parametrised tests.
ACCESSES = {
    "nft": Access(Variant.NFT),
    "legacy": Access(Variant.LEGACY),
    "python-iptables": Access(Variant.LEGACY, IptablesLoader.PYTHON),
}
each_access = pytest.mark.parametrize("access", ACCESSES.values(), ids=list(ACCESSES))


def kernel(access: Access, wait: int = 5) -> Kernel:
    """The kernel of the namespace that is entered; where python-iptables cannot work, the test is expected to fail."""
    try:
        return Kernel(access.variant, wait=wait, make_loader=LOADERS[access.loader])
    except HostError as error:
        if "does not understand" not in str(error):
            raise
        pytest.xfail(str(error))


class Host:
    """A node's kernel, seen through one variant of iptables. A context manager."""

    def __init__(self, variant: Variant, loader: IptablesLoader = IptablesLoader.RESTORE) -> None:
        self.variant = variant
        self.loader = loader
        self.namespace = NetworkNamespace()
        with self.namespace.entered():
            self.kernel = kernel(Access(variant, loader))

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.kernel.__exit__()
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

    @property
    def options(self) -> list[str]:
        """What tells rulegen to use the same."""
        return ["--iptables-variant", self.variant.value, "--iptables-driver", self.loader.value]

    def read(self) -> Entries:
        """What the kernel holds of rulegen's."""
        with self.namespace.entered():
            return self.kernel.read()

    def read_of(self, compilers: CompilerSet) -> Entries:
        """The same, each feature's its own."""
        with self.namespace.entered():
            return self.kernel.read(prefixes_of(by_rank(compilers)))

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
