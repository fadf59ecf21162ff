"""Routes become chains, one Route at a time.

In: Routes as routing changes them, and the nodes. Out: all desired chains, and Deltas between what they were and what
they are. The cost of a change is that of its Routes and of their paths in the trees. Nothing is adopted from the
kernel: the same Routes give the same chains, whatever came before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.iptables import base_chains as program
from rulegen.iptables.base_chains import Entries, EntryKey, Extras, Program, Rules
from rulegen.reconcile.delta import Delta, diff
from rulegen.services.model import NodeRouting, Route, RouteKey, ServicePortName
from rulegen.services.on_iptables.dispatch_trees import Forest, Leaf, Place
from rulegen.services.on_iptables.service import Compiled, Masquerading, compile_route

_ROOTS = frozenset((place.table, place.root) for place in Place)


@dataclass(slots=True)
class _Known:
    """A Route and what became of it."""

    route: Route
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

    `families`: those that get rules. `masquerade_bit`: 0 to 31. `programs`: each family's fixed part, once its node is
    known.
    """

    def __init__(self, families: tuple[Family, ...], masquerade_bit: int) -> None:
        """Compiles nothing yet."""
        self._masquerade_bit = masquerade_bit
        self._mark = f"MARK --set-xmark {program.mark_text(masquerade_bit)}/{program.mark_text(masquerade_bit)}"
        self._known: dict[RouteKey, _Known] = {}
        self._owners: dict[EntryKey, ServicePortName] = {}
        self._forests = {family: Forest(family) for family in families}
        self._fixed: dict[Family, Entries] = {family: {} for family in families}
        self._masquerading = {family: Masquerading(self._mark, None, False) for family in families}
        # What is kept of Services that nothing is known of.
        self._kept: dict[Family, Compiled] = {}
        self._nodes: dict[Family, NodeRouting] = {}
        self._extras: dict[Family, Extras] = {}
        self.programs: dict[Family, Program] = {}

    def update(
        self, routes: Mapping[RouteKey, Route | None], nodes: Mapping[Family, NodeRouting] | None = None
    ) -> tuple[Delta[EntryKey, Rules], dict[RouteKey, TargetError]]:
        """Takes changed Routes (None: gone) and changed nodes; returns what changes in the chains.

        A Route that cannot be expressed keeps the chains it had, and is among the errors; the others are compiled.
        """
        changes = _Changes()
        wanted: dict[RouteKey, Route | None] = {}
        nodes = nodes or {}
        for family, node in nodes.items():
            if family in self._forests and self._set_node(family, node):
                wanted |= {key: known.route for key, known in self._known.items() if key[1] is family}
        wanted |= {key: route for key, route in routes.items() if key[1] in self._forests}
        errors: dict[RouteKey, TargetError] = {}
        for key, route in sorted(wanted.items(), key=lambda item: item[1] is not None):
            # Those that go come first: another may take over what they had.
            try:
                self._set_route(key, route, changes)
            except TargetError as error:
                errors[key] = error
        for family, forest in self._forests.items():
            moves = forest.change(changes.added.get(family, ()), changes.removed.get(family, ()))
            changes.before |= moves.before
            changes.after |= moves.after
            if family in self._nodes:
                changes.after |= forest.plant()
                if family in nodes or forest.extras() != self._extras[family]:
                    self._set_program(family, changes)
        return diff(changes.before, changes.after), errors

    def entries(self) -> Entries:
        """All desired chains."""
        entries: Entries = {}
        for fixed in self._fixed.values():
            entries |= fixed
        for forest in self._forests.values():
            entries |= forest.entries()
        for compiled in (*self._kept.values(), *(known.compiled for known in self._known.values())):
            entries |= compiled.chains
        return entries

    def keep(self, kept: Mapping[Family, Compiled]) -> None:
        """Puts chains and leaves beside the compiled ones, in place of those that were kept before."""
        for family, forest in self._forests.items():
            before, after = (where.get(family, Compiled()) for where in (self._kept, kept))
            forest.change(after.leaves, before.leaves)
        self._kept = {family: compiled for family, compiled in kept.items() if family in self._forests}

    def route_entries(self, key: RouteKey) -> Entries:
        """The chains that a Route needs: its own, and those that lead there. None for an unknown one."""
        known = self._known.get(key)
        if known is None:
            return {}
        entries: Entries = {}
        for leaf in known.compiled.leaves:
            entries |= self._forests[key[1]].path(leaf)
        return entries | known.compiled.chains

    def _set_node(self, family: Family, node: NodeRouting) -> bool:
        """Returns whether Routes have to be compiled again."""
        self._nodes[family] = node
        before = self._masquerading[family]
        self._masquerading[family] = Masquerading(self._mark, node.detector, node.masquerade_all)
        return before != self._masquerading[family]

    def _set_program(self, family: Family, changes: _Changes) -> None:
        """The fixed part, as the node and the leaves that there are need it."""
        changes.before |= self._fixed[family]
        self._extras[family] = self._forests[family].extras()
        self.programs[family] = program.render_program(self._nodes[family], self._masquerade_bit, self._extras[family])
        self._fixed[family] = {
            key: rules for key, rules in self.programs[family].entries.items() if (key.table, key.chain) not in _ROOTS
        }
        changes.after |= self._fixed[family]

    def _set_route(self, key: RouteKey, route: Route | None, changes: _Changes) -> None:
        family = key[1]
        compiled = Compiled() if route is None else compile_route(route, self._masquerading[family])
        self._claim(key[0], compiled)
        known = self._known.pop(key, None)
        if known is not None:
            for chain in known.compiled.chains.keys() - compiled.chains.keys():
                del self._owners[chain]
            changes.before |= known.compiled.chains
            changes.removed.setdefault(family, []).extend(known.compiled.leaves)
        changes.after |= compiled.chains
        changes.added.setdefault(family, []).extend(compiled.leaves)
        if route is not None:
            self._known[key] = _Known(route, compiled)

    def _claim(self, name: ServicePortName, compiled: Compiled) -> None:
        """Raises TargetError when another Service has a chain of the same name."""
        for chain in compiled.chains:
            owner = self._owners.get(chain, name)
            if owner != name:
                raise TargetError(f"Service {name}: its chain {chain.chain} is named as one of {owner}; rename either")
        self._owners.update(dict.fromkeys(compiled.chains, name))


def compile_ruleset(routes: Iterable[Route], nodes: Mapping[Family, NodeRouting], masquerade_bit: int) -> Compiler:
    """A Compiler that has compiled `routes` for the families of `nodes`. Raises TargetError, a line for each Route."""
    compiler = Compiler(tuple(nodes), masquerade_bit)
    _, errors = compiler.update({(route.name, route.family): route for route in routes}, nodes)
    if errors:
        raise TargetError("\n".join(map(str, errors.values())))
    return compiler
