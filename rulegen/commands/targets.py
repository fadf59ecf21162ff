"""From what is wanted to a driver's rules: rendered, compared with the kernel's, removed from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rulegen.commands.output import fail, say_warning
from rulegen.commands.progress import progress
from rulegen.errors import UnseenError

if TYPE_CHECKING:
    from rulegen.commands.reading import Wanted
    from rulegen.config import Configuration, NodeConfiguration
    from rulegen.config import Target as Kind
    from rulegen.iptables.binaries import Variant
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.driver import Driver


def is_of_a_node(configuration: Configuration) -> bool:
    """Whether it is for a node, and its kernel; else for something that a cluster has once."""
    from rulegen.features import cluster_driver

    return not cluster_driver(configuration.features)


def removals(target: Kind | None) -> list[Callable[[], list[str]]]:
    """What removes all rules of all targets but one (None: of all)."""
    from functools import partial

    from rulegen.config import Target as Kind
    from rulegen.drivers import make_driver
    from rulegen.features import REGISTRY

    return [partial(make_driver(one).remove, tuple(REGISTRY)) for one in Kind if one is not target]


def variant_named(name: str) -> Variant | None:
    """None: the one that the host uses."""
    from rulegen.iptables.binaries import Variant

    return None if name == "auto" else Variant(name)


def driver_of(configuration: Configuration, options: Mapping[str, Any]) -> Driver:
    """That of the target that is asked for, as the option --iptables-variant says."""
    from rulegen.drivers import driver_for

    return driver_for(configuration, variant_named(options["iptables_variant"]), say_warning)


def rendered_rules(wanted: Wanted, node: NodeConfiguration, driver: Driver) -> Iterator[str]:
    """The text of the whole ruleset, in pieces."""
    return iter(driver.render(compiled(wanted, node, driver)))


def compiled(wanted: Wanted, node: NodeConfiguration, driver: Driver) -> CompilerSet:
    """Compilers that have seen all that is wanted. Raises TargetError."""
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.driver import compile_all

    compilers = CompilerSet.of(wanted.features, driver.name, node)
    with progress("compiling"):
        compile_all(compilers, *wanted.taken)
    return compilers


def remove_each(removals: Sequence[Callable[[], list[str]]]) -> list[str]:
    """Has rules removed of the targets that this host has; says what there was. Raises UnseenError at the end.

    Raises HostError when nothing can be done at all.
    """
    from rulegen.errors import AbsentError, HostError

    removed: list[str] = []
    missing: list[HostError] = []
    unseen: list[str] = []
    for remove in removals:
        try:
            removed += remove()
        except UnseenError as error:
            removed += error.removed
            unseen.append(str(error))
        except HostError as error:
            missing.append(error)
    if len(missing) == len(removals) > 1:
        raise missing[0]
    unseen += [str(error) for error in missing if not isinstance(error, AbsentError)]
    if unseen:
        raise UnseenError("; ".join(dict.fromkeys(unseen)), removed)
    return removed


def refuse_beside_agent() -> None:
    """Ends the program when an agent runs on this node."""
    from rulegen.agent.run.lock import holder

    agent = holder()
    if agent is not None:
        fail(f"an agent runs on this node ({agent}) and would undo it: stop it first, or use --force")
