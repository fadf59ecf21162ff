"""Services on iptables, as the reconciler and the driver ask for them: see `iptables.chains.ChainCompiler`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from rulegen.config import Family, NodeConfiguration
from rulegen.errors import TargetError
from rulegen.iptables.chains import BaseChains, Entries, EntryKey, Rules
from rulegen.iptables.names import PREFIX
from rulegen.iptables.text import comment_of
from rulegen.reconcile.delta import Delta
from rulegen.reference import ObjectReference
from rulegen.services.model import NodeSettings, ServicePort, ServicePortKey, owner_text
from rulegen.services.on_iptables.compiler import Compiler
from rulegen.services.on_iptables.names import is_of_service
from rulegen.services.on_iptables.needs import needs
from rulegen.services.on_iptables.preserve_unreadable import find_services

_TREES = "By address and by port."


class ServiceChains:
    """`configuration` is that of a host with its families."""

    # What no other feature claims: the Services' chains were there first.
    prefix = PREFIX
    rank = 50
    guards = False
    yields = False

    def __init__(self, configuration: NodeConfiguration) -> None:
        self.compiler = Compiler(configuration.families, configuration.masquerade_bit)

    @property
    def base_chains(self) -> Mapping[Family, BaseChains]:
        """The families' fixed parts."""
        return self.compiler.base_chains

    def needs(self, family: Family) -> Mapping[str, tuple[str, str]]:
        """See `ChainCompiler`."""
        return needs(family)

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        """See `Compiler`; chains of unreadable Services are put beside the compiled ones."""
        owners = list(map(owner_text, unreadable))
        ours = {key: rules for key, rules in live.items() if key.prefix == PREFIX} if owners else {}
        self.compiler.preserve_unreadable(find_services(ours, owners) if owners else {})

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
        return lambda key, rules: comment_of(rules) if key.prefix == PREFIX else ""

    def sections(self, chains: Entries) -> Mapping[str, list[EntryKey]]:
        """See `ChainCompiler`: the trees, then the Services one by one."""
        groups: dict[str, list[EntryKey]] = {}
        for key, rules in chains.items():
            groups.setdefault(comment_of(rules[:1]) if is_of_service(key.chain) else "", []).append(key)
        return {service or _TREES: sorted(groups[service], key=lambda key: key.chain) for service in sorted(groups)}
