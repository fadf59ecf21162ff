"""`rulegen diff`: what apply would change, or what differs between two sets of manifests. Changes nothing."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands import diffstat
from rulegen.commands.against import STDIN, compare_against
from rulegen.commands.applying import compare_with_bundle, make_ready, opened_host
from rulegen.commands.bundled import find_bundle
from rulegen.commands.command import Command
from rulegen.commands.completing import complete_files, complete_nodes
from rulegen.commands.options import OUTPUT, input_options, pack, target_options
from rulegen.commands.output import COLOURS, EXIT_DIFFERENT, echo, fail, print_changes, print_document, say_warning
from rulegen.commands.selecting import Labels, make_selection, select, selection_options

if TYPE_CHECKING:
    from rulegen.commands.selecting import Selection
    from rulegen.reconcile.driver import Difference


# The same input gives the same output.
_SEED = 0


@click.command(cls=Command)
@selection_options
@input_options
@target_options
@click.option(
    "--against",
    metavar="PATH",
    shell_complete=complete_files,
    help="Compare with a file that `rulegen render` wrote, or with other manifests or a snapshot, not with the kernel.",
)
@click.option(
    "--against-node",
    metavar="NAME",
    shell_complete=complete_nodes,
    help="The node among the manifests of --against [default: that of --node].",
)
@click.option("--stat", is_flag=True, help="Only how much, a line for each object and kind of change.")
@OUTPUT
def diff(against: str | None, against_node: str | None, stat: bool, output: str, **options: Any) -> None:
    """Print what apply would change. Exit status 0: nothing, 1: something, 2: error.

    With a support bundle as -f: what it would have changed on the host that the bundle is from.

    \b
    Examples:
      rulegen diff -f cluster.yaml
      rulegen diff default/web -f cluster.yaml
      rulegen diff --stat -n shop -f cluster.yaml
      rulegen diff -f cluster.yaml --node worker-1 --against rules.nft
      rulegen diff -f after.yaml --node worker-1 --against before.yaml
    """
    source = pack(options)
    selection = make_selection(options)
    if against == STDIN and STDIN in source.files:
        fail("standard input can be read once: name a file with -f or with --against")
    if against_node is not None and against is None:
        fail("--against-node means nothing without --against")
    labels: Labels = {}
    ready = make_ready(source, options["iptables_variant"], labels, _SEED)
    with ExitStack() as stack:
        bundle = find_bundle(source.files)
        if against is None and bundle is not None:
            difference = compare_with_bundle(bundle, ready)
        elif against is None:
            difference = stack.enter_context(opened_host(ready)).compare()
        else:
            difference = compare_against(against, ready, against_node, labels)
        shown = _selected(difference, selection, labels) if selection else difference
        _print(shown, output, stat=stat)
    sys.exit(EXIT_DIFFERENT if shown else 0)


def _print(shown: Difference, output: str, *, stat: bool) -> None:
    if stat:
        _print_stat(shown, output)
    elif output == "json":
        from rulegen.commands.documents import DiffDocument, ShownEntry, Summary

        print_document(DiffDocument(Summary.total(shown), ShownEntry.all_of(shown.changes())))
    else:
        print_changes(shown.changes())
        echo(str(shown))


def _selected(difference: Difference, selection: Selection, labels: Labels) -> Difference:
    """That part of it."""
    from rulegen.reconcile.driver import Difference

    selected = select(difference.changes(), selection, labels)
    if not selected.has_objects:
        say_warning("-l: no object of the input has these labels")
    if number := selected.unlabelled:
        entries = "1 entry is" if number == 1 else f"{number} entries are"
        say_warning(f"{entries} left out, of objects that are not in the input, so that their labels are not known")
    signs = [change.sign for change in selected.changes]
    added, changed, removed = (signs.count(sign) for sign in "+~-")
    return Difference(added, changed, removed, lambda: selected.changes, lambda: ())


def _print_stat(difference: Difference, output: str) -> None:
    rows = diffstat.rows(difference.changes())
    if output == "json":
        from rulegen.commands.documents import DiffStatDocument, StatRow, Summary

        print_document(DiffStatDocument(Summary.total(difference), [StatRow.of(row) for row in rows]))
        return
    for line in diffstat.lines(rows, shutil.get_terminal_size().columns):
        echo(line.text, nl=False)
        echo(line.graph, fg=COLOURS[line.sign])
    objects = len({(row.feature, row.object) for row in rows if row.object})
    echo(f" {objects} object{'' if objects == 1 else 's'}, {difference}")
