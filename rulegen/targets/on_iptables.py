"""The iptables target, as the command line uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rulegen import ruleset
from rulegen.config import NodeConfiguration
from rulegen.configuration_file import for_families
from rulegen.iptables import text
from rulegen.iptables.compiler import Compiler, compile_ruleset
from rulegen.iptables.describe import count, describe
from rulegen.iptables.kernel import Kernel, StaleError, remove_rules
from rulegen.iptables.program import EntryKey, Rules
from rulegen.iptables.programs import Variant
from rulegen.iptables.transaction import plan
from rulegen.routing.cluster import Cluster
from rulegen.ruleset import Delta
from rulegen.targets.model import Applied, Difference, Show, ShownChange, read_file

_ATTEMPTS = 5
_WORDS = {"+": "added", "~": "changed", "-": "removed"}


class IptablesTarget:
    """See `model.Target`. `variant` None: the one that the host uses."""

    def __init__(self, variant: Variant | None = None) -> None:
        """Does nothing yet."""
        self._variant = variant

    def render(self, cluster: Cluster, configuration: NodeConfiguration) -> Iterator[str]:
        """As `iptables-restore --noflush` takes it, a part for each family."""
        compiler = compile_cluster(cluster, configuration)
        return text.render(compiler.programs, compiler.entries())

    def compare(self, cluster: Cluster, configuration: NodeConfiguration) -> Difference:
        """With the chains in the kernel."""
        kernel = Kernel(self._variant)
        return _difference(_delta(cluster, for_families(configuration, kernel.families()), kernel.read()))

    def compare_file(self, cluster: Cluster, configuration: NodeConfiguration, path: str) -> Difference:
        """With a rendered file."""
        return _difference(_delta(cluster, configuration, read_file(path, text.parse)))

    def apply(self, cluster: Cluster, configuration: NodeConfiguration, show: Show, *, dry_run: bool) -> Applied:
        """One restore for each table and family; then what an earlier run left in the other variant goes."""
        kernel = Kernel(self._variant)
        configuration = for_families(configuration, kernel.families())
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                difference = _apply_once(kernel, cluster, configuration, show, dry_run=dry_run)
                return Applied(difference, [] if dry_run else remove_rules(set(Variant) - {kernel.variant}))
            except StaleError:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def remove(self) -> list[str]:
        """The chains of both families, in both variants."""
        return remove_rules(Variant)


def compile_cluster(cluster: Cluster, configuration: NodeConfiguration) -> Compiler:
    """The compiled Routes."""
    nodes = {family: node for family in configuration.families if (node := cluster.node_routing(family)) is not None}
    return compile_ruleset(cluster.routes(), nodes, configuration.masquerade_bit)


def _delta(
    cluster: Cluster, configuration: NodeConfiguration, live: Mapping[EntryKey, Rules]
) -> Delta[EntryKey, Rules]:
    desired = compile_cluster(cluster, configuration).entries()
    return ruleset.diff(text.adopt_wording(live, desired), desired)


def _apply_once(
    kernel: Kernel, cluster: Cluster, configuration: NodeConfiguration, show: Show, *, dry_run: bool
) -> Difference:
    """Reads, compares, shows the plan, applies; what differed. Raises StaleError when the rules changed in between."""
    live = kernel.read()
    delta = _delta(cluster, configuration, live)
    difference = _difference(delta)
    show(difference)
    if delta:
        kernel.prepare(live)
        steps = plan(delta, live)
        if dry_run:
            kernel.check(steps)
        else:
            kernel.commit(steps, live)
    return difference


def _difference(delta: Delta[EntryKey, Rules]) -> Difference:
    def changes() -> Iterator[ShownChange]:
        for line in describe(delta):
            document = {
                "change": _WORDS[line.sign],
                "family": line.family,
                "name": line.table,
                "key": line.chain,
                **({"before": line.before} if line.sign != "+" else {}),
                **({"after": line.after} if line.sign != "-" else {}),
                "service": line.service,
            }
            yield ShownChange(line.sign, str(line), document)

    return Difference(len(delta.added), len(delta.changed), len(delta.removed), changes, lambda: count(delta))
