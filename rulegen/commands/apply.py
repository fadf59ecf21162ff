"""`rulegen apply`: the kernel's rules made equal to the compiled ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rulegen.commands.command import Command
from rulegen.commands.options import input_options, pack, target_options
from rulegen.commands.output import echo, fail, print_changes, print_removed, say_warning
from rulegen.commands.reading import compile_objects, read_objects
from rulegen.commands.targets import driver_of, refuse_beside_agent, removals, remove_each

if TYPE_CHECKING:
    from rulegen.commands.reading import Wanted
    from rulegen.config import NodeConfiguration
    from rulegen.reconcile.driver import Difference, Driver


_SHOWN_CHANGES = 40


@click.command(cls=Command)
@input_options
@target_options
@click.option("--dry-run", is_flag=True, help="Let the kernel check the change, and change nothing.")
@click.option("--force", is_flag=True, help="Even while an agent runs on this node.")
@click.option(
    "--prune-unreadable",
    is_flag=True,
    help="As --skip-invalid, and also remove live rules that documents which cannot be read at all may ask for.",
)
def apply(dry_run: bool, force: bool, **options: Any) -> None:
    """Make the kernel's rules equal to the compiled ones, changing only what differs.

    In one transaction on nftables, in one for each table and family on iptables. Rules that rulegen left in the other
    target go when the new ones are in force.

    \b
    Examples:
      rulegen apply -f cluster.yaml --dry-run
      rulegen apply -f cluster.yaml --target iptables
    """
    if not (force or dry_run):
        refuse_beside_agent()
    source = pack(options)
    manifests, configuration = read_objects(source)
    wanted = compile_objects(manifests, configuration)

    may_prune = source.prune_unreadable or not manifests.unreadable

    def show(difference: Difference) -> None:
        _print_plan(difference)
        if difference.removed and not may_prune:
            _refuse_to_prune(manifests.unreadable)

    difference, removed = _apply(driver_of(configuration, options), wanted, configuration.node, show, dry_run=dry_run)
    if difference:
        echo(f"{difference}: {'checked by the kernel, not applied' if dry_run else 'applied'}")
    if not dry_run:
        if not may_prune:
            say_warning("rules that are left in the other target stay, as a document cannot be read")
        print_removed(removed)
        if may_prune:
            print_removed(remove_each(removals(configuration.target)))


def _apply(
    driver: Driver, wanted: Wanted, node: NodeConfiguration, show: Callable[[Difference], None], *, dry_run: bool
) -> tuple[Difference, list[str]]:
    """The plan that was shown and carried out, and what was removed elsewhere."""
    from rulegen.configuration_file import for_families
    from rulegen.interfaces import host_families
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.driver import LiveRules
    from rulegen.reconcile.once import apply_once

    with driver.open() as opened:
        node = for_families(node, host_families())

        def make_rules() -> LiveRules:
            return opened.rules(CompilerSet.of(wanted.features, driver.name, node))

        difference = apply_once(make_rules, wanted.taken, show, dry_run=dry_run)
        return difference, [] if dry_run else [place for remove in opened.leftovers for place in remove()]


def _print_plan(difference: Difference) -> None:
    if not difference:
        echo("nothing to change")
    elif len(difference) <= _SHOWN_CHANGES:
        print_changes(difference.changes())
    else:
        for line in difference.counts():
            echo(line)


def _refuse_to_prune(unreadable: int) -> NoReturn:
    documents = "a document" if unreadable == 1 else f"{unreadable} documents"
    fail(
        f"nothing was changed: {documents} that cannot be read may ask for what would be removed;"
        " mend it, or use --prune-unreadable"
    )
