"""ServicePorts become chains, one ServicePort at a time.

In: ServicePorts as the store changes them, and the nodes. Out: all desired chains, and Deltas between what they were
and what they are. The cost of a change is that of its ServicePorts and of their paths in the trees. Nothing is adopted
from the kernel: the same ServicePorts give the same chains, whatever came before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.iptables.chains import BaseChains, Entries, EntryKey, Rules
from rulegen.reconcile.delta import Delta, diff
from rulegen.services.model import NodeSettings, ServicePort, ServicePortKey, ServicePortName
from rulegen.services.on_iptables import base_chains
from rulegen.services.on_iptables.base_chains import Extras
from rulegen.services.on_iptables.dispatch_trees import DispatchTree, DispatchTrees, Leaf
from rulegen.services.on_iptables.service import Compiled, Masquerading, compile_service_port

_ROOTS = frozenset((tree.table, tree.root) for tree in DispatchTree)


@dataclass(slots=True)
class _Known:
    """A ServicePort and what became of it."""

    service_port: ServicePort
    compiled: Compiled


@dataclass(slots=True)
class _Changes:
    """What one update does, before the trees are asked."""

    before: Entries = field(default_factory=dict)
    after: Entries = field(default_factory=dict)
    added: dict[Family, list[Leaf]] = field(default_factory=dict)
    removed: dict[Family, list[Leaf]] = field(default_factory=dict)


class Compiler:
    """The desired chains of all families.

    `families`: those that get rules. `masquerade_bit`: 0 to 31. `base_chains`: each family's fixed part, once its node
    is known.
    """

    def __init__(self, families: tuple[Family, ...], masquerade_bit: int) -> None:
        self._masquerade_bit = masquerade_bit
        self._mark = f"MARK --set-xmark {base_chains.mark_text(masquerade_bit)}/{base_chains.mark_text(masquerade_bit)}"
        self._known: dict[ServicePortKey, _Known] = {}
        self._owners: dict[EntryKey, ServicePortName] = {}
        self._dispatch_trees = {family: DispatchTrees(family) for family in families}
        self._fixed: dict[Family, Entries] = {family: {} for family in families}
        self._masquerading = {family: Masquerading(self._mark, None, False) for family in families}
        # What is kept of Services that nothing is known of.
        self._unreadable: dict[Family, Compiled] = {}
        self._nodes: dict[Family, NodeSettings] = {}
        self._extras: dict[Family, Extras] = {}
        self.base_chains: dict[Family, BaseChains] = {}

    def update(
        self,
        service_ports: Mapping[ServicePortKey, ServicePort | None],
        nodes: Mapping[Family, NodeSettings] | None = None,
    ) -> tuple[Delta[EntryKey, Rules], dict[ServicePortKey, TargetError]]:
        """Takes changed ServicePorts (None: gone) and changed nodes; returns what changes in the chains.

        A ServicePort that cannot be expressed keeps the chains it had, and is among the errors; the others are
        compiled.
        """
        changes = _Changes()
        wanted: dict[ServicePortKey, ServicePort | None] = {}
        nodes = nodes or {}
        for family, node in nodes.items():
            if family in self._dispatch_trees and self._set_node(family, node):
                wanted |= {key: known.service_port for key, known in self._known.items() if key[1] is family}
        wanted |= {key: service_port for key, service_port in service_ports.items() if key[1] in self._dispatch_trees}
        errors: dict[ServicePortKey, TargetError] = {}
        for key, service_port in sorted(wanted.items(), key=lambda item: item[1] is not None):
            # Those that go come first: another may take over what they had.
            try:
                self._set_service_port(key, service_port, changes)
            except TargetError as error:
                errors[key] = error
        for family, dispatch_trees in self._dispatch_trees.items():
            moves = dispatch_trees.change(changes.added.get(family, ()), changes.removed.get(family, ()))
            changes.before |= moves.before
            changes.after |= moves.after
            if family in self._nodes:
                changes.after |= dispatch_trees.plant()
                if family in nodes or dispatch_trees.extras() != self._extras[family]:
                    self._set_base_chains(family, changes)
        return diff(changes.before, changes.after), errors

    def entries(self) -> Entries:
        entries: Entries = {}
        for fixed in self._fixed.values():
            entries |= fixed
        for dispatch_trees in self._dispatch_trees.values():
            entries |= dispatch_trees.entries()
        for compiled in (*self._unreadable.values(), *(known.compiled for known in self._known.values())):
            entries |= compiled.chains
        return entries

    def preserve_unreadable(self, unreadable: Mapping[Family, Compiled]) -> None:
        """Puts chains and leaves beside the compiled ones, in place of those that were kept before."""
        for family, dispatch_trees in self._dispatch_trees.items():
            before, after = (where.get(family, Compiled()) for where in (self._unreadable, unreadable))
            dispatch_trees.change(after.leaves, before.leaves)
        self._unreadable = {
            family: compiled for family, compiled in unreadable.items() if family in self._dispatch_trees
        }

    def service_port_entries(self, key: ServicePortKey) -> Entries:
        """The chains that a ServicePort needs: its own, and those that lead there. None for an unknown one."""
        known = self._known.get(key)
        if known is None:
            return {}
        entries: Entries = {}
        for leaf in known.compiled.leaves:
            entries |= self._dispatch_trees[key[1]].path(leaf)
        return entries | known.compiled.chains

    def _set_node(self, family: Family, node: NodeSettings) -> bool:
        """Returns whether ServicePorts have to be compiled again."""
        self._nodes[family] = node
        before = self._masquerading[family]
        self._masquerading[family] = Masquerading(self._mark, node.detector, node.masquerade_all)
        return before != self._masquerading[family]

    def _set_base_chains(self, family: Family, changes: _Changes) -> None:
        """The fixed part, as the node and the leaves that there are need it."""
        changes.before |= self._fixed[family]
        self._extras[family] = self._dispatch_trees[family].extras()
        self.base_chains[family] = base_chains.render_base_chains(
            self._nodes[family], self._masquerade_bit, self._extras[family]
        )
        self._fixed[family] = {
            key: rules
            for key, rules in self.base_chains[family].entries.items()
            if (key.table, key.chain) not in _ROOTS
        }
        changes.after |= self._fixed[family]

    def _set_service_port(self, key: ServicePortKey, service_port: ServicePort | None, changes: _Changes) -> None:
        family = key[1]
        compiled = (
            Compiled() if service_port is None else compile_service_port(service_port, self._masquerading[family])
        )
        self._claim(key[0], compiled)
        known = self._known.pop(key, None)
        if known is not None:
            for chain in known.compiled.chains.keys() - compiled.chains.keys():
                del self._owners[chain]
            changes.before |= known.compiled.chains
            changes.removed.setdefault(family, []).extend(known.compiled.leaves)
        changes.after |= compiled.chains
        changes.added.setdefault(family, []).extend(compiled.leaves)
        if service_port is not None:
            self._known[key] = _Known(service_port, compiled)

    def _claim(self, name: ServicePortName, compiled: Compiled) -> None:
        """Raises TargetError when another Service has a chain of the same name."""
        for chain in compiled.chains:
            owner = self._owners.get(chain, name)
            if owner != name:
                raise TargetError(f"{name.title}: its chain {chain.chain} is named as one of {owner}; rename either")
        self._owners.update(dict.fromkeys(compiled.chains, name))
