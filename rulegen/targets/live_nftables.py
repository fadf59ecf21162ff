"""The tables of the nftables target in the kernel, kept equal to what is wanted; see `model.LiveRules`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from rulegen.config import Family, NodeConfiguration
from rulegen.errors import TargetError
from rulegen.nftables.diff_text import count, diff_text, names_in
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.layout import EntryKey, Value
from rulegen.nftables.live import Live
from rulegen.nftables.preserve_unreadable import UnreadableServices
from rulegen.nftables.transaction import Transaction, plan
from rulegen.reconcile.delta import Delta, diff
from rulegen.services.model import NodeSettings, ServiceKey, ServicePort, ServicePortKey
from rulegen.services.on_nftables.compiler import Compiler, Entries
from rulegen.targets.model import RuleCount, ServicePortChange, ShownChange, shown_change

# Entries that several ServicePorts may need; whoever is held back, the others keep them.
_SHARED = frozenset({"chains", "balancers", "hairpin", "cluster-ips"})


class LiveNftables:
    """`configuration` is that of a host with its families; `kernel` stays its maker's to close."""

    def __init__(self, kernel: Kernel, configuration: NodeConfiguration) -> None:
        self._kernel = kernel
        self._configuration = configuration
        self._compiler: Compiler | None = None
        self._live = Live()
        self._unreadable = UnreadableServices()
        # All that is wanted, while it is being compared with what was read.
        self._desired: Entries | None = None

    def read(self) -> None:
        self._live = self._kernel.read()
        self._unreadable.look_at(self._live.entries)

    def update(
        self, service_ports: Mapping[ServicePortKey, ServicePort | None], nodes: Mapping[Family, NodeSettings]
    ) -> tuple[Delta[EntryKey, Value], dict[ServicePortKey, TargetError]]:
        """See `LiveRules`; ids, slots and endpoint indexes are adopted from what was read before the first call."""
        self._desired = None
        if self._compiler is None:
            configuration = self._configuration
            self._compiler = Compiler(configuration.families, configuration.masquerade_bit, self._live.entries)
            delta, errors = self._compiler.update(service_ports, nodes)
            # The first time that is everything.
            self._desired = delta.added
        else:
            delta, errors = self._compiler.update(service_ports, nodes)
        return self._unreadable.spare(delta), errors

    def difference(self) -> Delta[EntryKey, Value]:
        if self._desired is None:
            self._desired = self._compiled.entries()
        self._kernel.prove(self._live, self._compiled.base_chains, self._desired)
        return self._unreadable.spare(diff(self._live.entries, self._desired))

    def preserve_unreadable(self, services: Collection[ServiceKey]) -> None:
        self._unreadable = UnreadableServices(services)

    def check(self, delta: Delta[EntryKey, Value]) -> None:
        """Asks the kernel whether it would take a Delta. Raises ApplyError."""
        self._kernel.check(self._plan(delta), self._live)

    def apply(self, delta: Delta[EntryKey, Value]) -> None:
        """See `LiveRules`; in one transaction."""
        self._kernel.commit(self._plan(delta), self._live)

    def accepts(
        self, pending: Mapping[ServicePortKey, ServicePortChange], suspects: Collection[ServicePortKey]
    ) -> None:
        """See `LiveRules`; changes nothing."""
        wanted: Entries = {}
        for key in suspects:
            wanted |= self._compiled.service_port_entries(key)
        there = {entry: value for entry in wanted if (value := self._live.entries.get(entry)) is not None}
        self._desired = self._without(pending) | wanted
        self.check(diff(there, wanted))

    def settle(self) -> None:
        """See `LiveRules`; plans need the chains, and the entries are the compiler's from now on."""
        self._live = Live(self._live.tables)
        self._desired = None

    def changes(self, delta: Delta[EntryKey, Value]) -> Iterator[ShownChange]:
        return shown_changes(delta, self._compiled, self._live.entries)

    def counts(self, delta: Delta[EntryKey, Value]) -> Iterator[str]:
        return count(delta)

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        """Nothing: the fixed part is constant."""
        return {}

    @property
    def _compiled(self) -> Compiler:
        if self._compiler is None:
            raise AssertionError("nothing was compiled yet")
        return self._compiler

    def _plan(self, delta: Delta[EntryKey, Value]) -> Transaction:
        clients = self._kernel.clients(delta)
        return plan(delta, self._live, self._compiled.base_chains, self._desired, clients)

    def _without(self, service_ports: Mapping[ServicePortKey, ServicePortChange]) -> Entries:
        entries = self._compiled.entries()
        for key in service_ports:
            for entry in self._compiled.service_port_entries(key):
                if entry[0].name not in _SHARED and not entry[0].is_chains:
                    entries.pop(entry, None)
        return entries


def shown_changes(
    delta: Delta[EntryKey, Value], compiler: Compiler, live: Mapping[EntryKey, Value]
) -> Iterator[ShownChange]:
    """A Delta in words; what is in it is named by what was compiled, or by what is `live`."""
    for line in diff_text(delta, names_in(live) | compiler.names()):
        place = {"family": line.family, "name": line.set_spec, "key": line.key}
        yield shown_change(line.sign, str(line), place, (line.before, line.after), line.service)
