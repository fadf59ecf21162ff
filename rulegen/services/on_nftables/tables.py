"""Services on nftables, as the reconciler and the driver ask for them: see `nftables.tables.TableCompiler`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rulegen.config import Family, NodeConfiguration
from rulegen.errors import TargetError
from rulegen.nftables.elements import EntryKey, Value
from rulegen.nftables.tables import AllEntries, BaseChains, Entries, TableSpec
from rulegen.reconcile.delta import Delta
from rulegen.reference import ObjectReference
from rulegen.services.model import NodeSettings, ServicePort, ServicePortKey, owner_text
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.names import names_in, owner_among
from rulegen.services.on_nftables.preserve_unreadable import UnreadableServices

# Entries that several ServicePorts may need; whoever is held back, the others keep them.
_SHARED = frozenset({"chains", "balancers", "hairpin", "cluster-ips"})


class ServiceTables:
    """`configuration` is that of a host with its families."""

    def __init__(self, configuration: NodeConfiguration) -> None:
        self.specs: Sequence[TableSpec] = tuple(LAYOUTS.values())
        self._configuration = configuration
        self._compiler: Compiler | None = None
        self._live: AllEntries = {}
        self._unreadable = UnreadableServices()

    @property
    def base_chains(self) -> Mapping[TableSpec, BaseChains]:
        """The families' fixed parts."""
        return self.compiler.base_chains

    @property
    def compiler(self) -> Compiler:
        """What has compiled."""
        if self._compiler is None:
            raise AssertionError("nothing was compiled yet")
        return self._compiler

    def adopt(self, live: AllEntries, unreadable: Collection[ObjectReference]) -> None:
        """See `Compiler`; ids, slots and endpoint indexes are those of `live`."""
        self._live = {} if self._compiler else live
        self._unreadable = UnreadableServices(list(map(owner_text, unreadable)))
        self._unreadable.look_at(live)

    def update(
        self,
        items: Mapping[ServicePortKey, ServicePort | None],
        context: Mapping[Family, NodeSettings] | None,
    ) -> tuple[Delta[EntryKey, Value], dict[ServicePortKey, TargetError]]:
        """See `Compiler`; `context`: the node's settings that changed."""
        if self._compiler is None:
            configuration = self._configuration
            self._compiler = Compiler(
                configuration.families,
                configuration.masquerade_bit,
                self._live,
                configuration.seed,
                self._unreadable.ids,
            )
            self._live = {}
        return self._compiler.update(items, context or {})

    def entries(self) -> AllEntries:
        """See `Compiler`."""
        return self.compiler.entries()

    def entries_of(self, item_id: ServicePortKey) -> Entries:
        """See `Compiler`."""
        return self.compiler.service_port_entries(item_id)

    def entries_without(self, item_ids: Collection[ServicePortKey]) -> Entries:
        """See `Compiler`."""
        entries = dict(self.compiler.entries())
        for item_id in item_ids:
            for entry in self.compiler.service_port_entries(item_id):
                if entry[0].name not in _SHARED:
                    entries.pop(entry, None)
        return entries

    def spare(self, delta: Delta[EntryKey, Value]) -> Delta[EntryKey, Value]:
        """See `Compiler`."""
        return self._unreadable.spare(delta)

    def owners(self, live: AllEntries) -> Callable[[Any, Any], str]:
        """See `Compiler`; whose an entry is, is said by what was compiled, or by what is live."""
        return owner_among(names_in(live) | self.compiler.names())
