"""The nftables target, as the command line uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rulegen.config import NodeConfiguration
from rulegen.configuration_file import for_families
from rulegen.interfaces import host_families
from rulegen.nftables import text
from rulegen.nftables.diff_text import count
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.layout import TABLE, EntryKey, Value
from rulegen.nftables.rules import SCRATCH_TABLE
from rulegen.reconcile.delta import diff
from rulegen.services.on_nftables.compiler import Compiler, compile_ruleset
from rulegen.services.store import Store
from rulegen.targets.live_nftables import LiveNftables, shown_changes
from rulegen.targets.model import Applied, Difference, Show, read_file
from rulegen.targets.once import apply_once, compare_once


class NftablesTarget:
    """See `model.Target`."""

    def render(self, store: Store, configuration: NodeConfiguration) -> Iterator[str]:
        """As `nft -f` takes it."""
        compiler = compile_store(store, configuration)
        return text.render(compiler.base_chains, compiler.entries())

    def compare(self, store: Store, configuration: NodeConfiguration) -> Difference:
        """With the tables in the kernel."""
        with Kernel() as kernel:
            rules = LiveNftables(kernel, for_families(configuration, host_families()))
            return compare_once(rules, store)[1]

    def compare_file(self, store: Store, configuration: NodeConfiguration, path: str) -> Difference:
        """With a rendered file."""
        live = read_file(path, text.parse)
        compiler = compile_store(store, configuration, live)
        delta = diff(live, compiler.entries())
        return Difference.of(delta, lambda: shown_changes(delta, compiler, live), lambda: count(delta))

    def apply(self, store: Store, configuration: NodeConfiguration, show: Show, *, dry_run: bool) -> Applied:
        """In one transaction."""
        with Kernel() as kernel:
            configuration = for_families(configuration, host_families())
            difference = apply_once(lambda: LiveNftables(kernel, configuration), store, show, dry_run=dry_run)
            return Applied(difference, [])

    def remove(self) -> list[str]:
        """The tables of both families."""
        with Kernel() as kernel:
            return kernel.delete_tables([TABLE, SCRATCH_TABLE])


def compile_store(
    store: Store, configuration: NodeConfiguration, live: Mapping[EntryKey, Value] | None = None
) -> Compiler:
    """The compiled ServicePorts; `live`: entries whose ids, slots and endpoint indexes are kept."""
    nodes = {family: node for family in configuration.families if (node := store.node_settings(family)) is not None}
    return compile_ruleset(store.service_ports(), nodes, configuration.masquerade_bit, live)
