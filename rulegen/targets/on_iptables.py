"""The iptables target, as the command line uses it."""

from __future__ import annotations

from collections.abc import Iterator

from rulegen.config import NodeConfiguration
from rulegen.configuration_file import for_families
from rulegen.interfaces import host_families
from rulegen.iptables import text
from rulegen.iptables.binaries import Variant
from rulegen.iptables.diff_text import count
from rulegen.iptables.kernel import Kernel, remove_rules
from rulegen.reconcile.delta import diff
from rulegen.services.on_iptables.compiler import Compiler, compile_ruleset
from rulegen.services.store import Store
from rulegen.targets.live_iptables import LiveIptables, shown_changes
from rulegen.targets.model import Applied, Difference, Show, read_file
from rulegen.targets.once import apply_once, compare_once


class IptablesTarget:
    """See `model.Target`. `variant` None: the one that the host uses."""

    def __init__(self, variant: Variant | None = None) -> None:
        self._variant = variant

    def render(self, store: Store, configuration: NodeConfiguration) -> Iterator[str]:
        """As `iptables-restore --noflush` takes it, a part for each family."""
        compiler = compile_store(store, configuration)
        return text.render(compiler.base_chains, compiler.entries())

    def compare(self, store: Store, configuration: NodeConfiguration) -> Difference:
        """With the chains in the kernel."""
        kernel = Kernel(self._variant)
        return compare_once(LiveIptables(kernel, for_families(configuration, host_families())), store)[1]

    def compare_file(self, store: Store, configuration: NodeConfiguration, path: str) -> Difference:
        """With a rendered file."""
        live = read_file(path, text.parse)
        desired = compile_store(store, configuration).entries()
        delta = diff(text.adopt_wording(live, desired), desired)
        return Difference.of(delta, lambda: shown_changes(delta), lambda: count(delta))

    def apply(self, store: Store, configuration: NodeConfiguration, show: Show, *, dry_run: bool) -> Applied:
        """One restore for each table and family; then what an earlier run left in the other variant goes."""
        kernel = Kernel(self._variant)
        configuration = for_families(configuration, host_families())
        difference = apply_once(lambda: LiveIptables(kernel, configuration), store, show, dry_run=dry_run)
        return Applied(difference, [] if dry_run else remove_rules(set(Variant) - {kernel.variant}))

    def remove(self) -> list[str]:
        """The chains of both families, in both variants."""
        return remove_rules(Variant)


def compile_store(store: Store, configuration: NodeConfiguration) -> Compiler:
    """The compiled ServicePorts."""
    nodes = {family: node for family in configuration.families if (node := store.node_settings(family)) is not None}
    return compile_ruleset(store.service_ports(), nodes, configuration.masquerade_bit)
