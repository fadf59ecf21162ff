"""The nftables target, as the command line uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rulegen import ruleset
from rulegen.config import NodeConfiguration
from rulegen.configuration_file import for_families
from rulegen.nftables import text
from rulegen.nftables.compiler import Compiler, compile_ruleset
from rulegen.nftables.describe import count, describe, names_in
from rulegen.nftables.kernel import Kernel, StaleError
from rulegen.nftables.layout import TABLE, EntryKey, Value
from rulegen.nftables.rules import WORKBENCH
from rulegen.nftables.transaction import plan
from rulegen.routing.cluster import Cluster
from rulegen.ruleset import Delta
from rulegen.targets.model import Applied, Difference, Show, ShownChange, read_file

_ATTEMPTS = 5
_WORDS = {"+": "added", "~": "changed", "-": "removed"}


class NftablesTarget:
    """See `model.Target`."""

    def render(self, cluster: Cluster, configuration: NodeConfiguration) -> Iterator[str]:
        """As `nft -f` takes it."""
        compiler = compile_cluster(cluster, configuration)
        return text.render(compiler.programs, compiler.entries())

    def compare(self, cluster: Cluster, configuration: NodeConfiguration) -> Difference:
        """With the tables in the kernel."""
        with Kernel() as kernel:
            live = kernel.read().entries
            return _compare(cluster, for_families(configuration, kernel.families()), live)

    def compare_file(self, cluster: Cluster, configuration: NodeConfiguration, path: str) -> Difference:
        """With a rendered file."""
        return _compare(cluster, configuration, read_file(path, text.parse))

    def apply(self, cluster: Cluster, configuration: NodeConfiguration, show: Show, *, dry_run: bool) -> Applied:
        """In one transaction."""
        with Kernel() as kernel:
            configuration = for_families(configuration, kernel.families())
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return Applied(_apply_once(kernel, cluster, configuration, show, dry_run=dry_run), [])
                except StaleError:
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def remove(self) -> list[str]:
        """The tables of both families."""
        with Kernel() as kernel:
            return kernel.delete_tables([TABLE, WORKBENCH])


def compile_cluster(
    cluster: Cluster, configuration: NodeConfiguration, live: Mapping[EntryKey, Value] | None = None
) -> Compiler:
    """The compiled Routes; `live`: entries whose ids, slots and handles are kept."""
    nodes = {family: node for family in configuration.families if (node := cluster.node_routing(family)) is not None}
    return compile_ruleset(cluster.routes(), nodes, configuration.masquerade_bit, live)


def _apply_once(
    kernel: Kernel, cluster: Cluster, configuration: NodeConfiguration, show: Show, *, dry_run: bool
) -> Difference:
    """Reads, compares, shows the plan, applies; what differed. Raises StaleError when the rules changed in between."""
    live = kernel.read()
    compiler = compile_cluster(cluster, configuration, live.entries)
    desired = compiler.entries()
    delta = ruleset.diff(live.entries, desired)
    difference = _difference(delta, compiler, live.entries)
    show(difference)
    if delta:
        transaction = plan(delta, live, compiler.programs, desired, kernel.clients(delta))
        if dry_run:
            kernel.check(transaction, live)
        else:
            kernel.commit(transaction, live)
    return difference


def _compare(cluster: Cluster, configuration: NodeConfiguration, live: Mapping[EntryKey, Value]) -> Difference:
    compiler = compile_cluster(cluster, configuration, live)
    return _difference(ruleset.diff(live, compiler.entries()), compiler, live)


def _difference(delta: Delta[EntryKey, Value], compiler: Compiler, live: Mapping[EntryKey, Value]) -> Difference:
    def changes() -> Iterator[ShownChange]:
        for line in describe(delta, names_in(live) | compiler.names()):
            document = {
                "change": _WORDS[line.sign],
                "family": line.family,
                "name": line.container,
                "key": line.key,
                **({"before": line.before} if line.sign != "+" else {}),
                **({"after": line.after} if line.sign != "-" else {}),
                "service": line.service,
            }
            yield ShownChange(line.sign, str(line), document)

    return Difference(len(delta.added), len(delta.changed), len(delta.removed), changes, lambda: count(delta))
