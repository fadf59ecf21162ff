"""`rulegen diff`: what apply would change. Changes nothing."""

from __future__ import annotations

import sys
from typing import Any

import click

from rulegen.commands.command import Command
from rulegen.commands.options import input_options, pack, target_options
from rulegen.commands.output import EXIT_DIFFERENT, echo, print_changes, print_document
from rulegen.commands.reading import read_input
from rulegen.commands.targets import compare_with_kernel, driver_of


@click.command(cls=Command)
@input_options
@target_options
@click.option("--against", metavar="FILE", help="Compare with a file that `rulegen render` wrote, not with the kernel.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def diff(against: str | None, output: str, **options: Any) -> None:
    """Print what apply would change. Exit status 0: nothing, 1: something, 2: error.

    \b
    Examples:
      rulegen diff -f cluster.yaml
      rulegen diff -f cluster.yaml --node worker-1 --against rules.nft
    """
    wanted, configuration = read_input(pack(options))
    driver = driver_of(configuration, options)
    if against is not None:
        from rulegen.reconcile.compilers import CompilerSet

        compilers = CompilerSet.of(wanted.features, driver.name, configuration.node)
        difference = driver.compare_file(compilers, *wanted.taken, against)
    else:
        difference = compare_with_kernel(driver, wanted, configuration.node)
    if output == "json":
        summary = {"added": difference.added, "changed": difference.changed, "removed": difference.removed}
        print_document({"summary": summary, "changes": [change.document for change in difference.changes()]})
    else:
        print_changes(difference.changes())
        echo(str(difference))
    sys.exit(EXIT_DIFFERENT if difference else 0)
