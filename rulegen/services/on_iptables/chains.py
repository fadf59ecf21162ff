"""Services on iptables, as the reconciler and the driver ask for them: see `iptables.chains.ChainCompiler`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from rulegen.config import Family, NodeConfiguration
from rulegen.errors import TargetError
from rulegen.iptables.base_chains import BaseChains, Entries, EntryKey, Rules
from rulegen.iptables.names import is_of_service
from rulegen.iptables.preserve_unreadable import find_services
from rulegen.iptables.text import comment_of
from rulegen.reconcile.delta import Delta
from rulegen.reference import ObjectReference
from rulegen.services.model import NodeSettings, ServicePort, ServicePortKey
from rulegen.services.on_iptables.compiler import Compiler


class ServiceChains:
    """`configuration` is that of a host with its families."""

    def __init__(self, configuration: NodeConfiguration) -> None:
        self.compiler = Compiler(configuration.families, configuration.masquerade_bit)

    @property
    def base_chains(self) -> Mapping[Family, BaseChains]:
        """The families' fixed parts."""
        return self.compiler.base_chains

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        """See `Compiler`; chains of unreadable Services are put beside the compiled ones."""
        services = [(one.namespace, one.name) for one in unreadable]
        self.compiler.preserve_unreadable(find_services(live, services) if services else {})

    def update(
        self,
        items: Mapping[ServicePortKey, ServicePort | None],
        context: Mapping[Family, NodeSettings] | None,
    ) -> tuple[Delta[EntryKey, Rules], dict[ServicePortKey, TargetError]]:
        """See `Compiler`; `context`: the node's settings that changed."""
        return self.compiler.update(items, context or {})

    def entries(self) -> Entries:
        """See `Compiler`."""
        return self.compiler.entries()

    def entries_of(self, item_id: ServicePortKey) -> Entries:
        """See `Compiler`."""
        return self.compiler.service_port_entries(item_id)

    def entries_without(self, item_ids: Collection[ServicePortKey]) -> Entries:
        """See `Compiler`; the trees' chains are shared."""
        own = {key for one in item_ids for key in self.entries_of(one) if is_of_service(key.chain)}
        return {key: rules for key, rules in self.entries().items() if key not in own}

    def spare(self, delta: Delta[EntryKey, Rules]) -> Delta[EntryKey, Rules]:
        """See `Compiler`; what is spared is among the entries."""
        return delta

    def owners(self, live: Entries) -> Callable[[Any, Any], str]:
        """See `Compiler`; the comments say it."""
        del live
        return lambda _, rules: comment_of(rules)
