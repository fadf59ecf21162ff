"""`rulegen top`: Services and endpoints with their connections, on a terminal, as lines or as documents."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from rulegen.alike import there_is
from rulegen.commands.command import Command
from rulegen.commands.options import SecondsRange, input_options_if_any, pack
from rulegen.commands.output import echo, print_document, print_line, say_warning
from rulegen.commands.reading import make_features, read_objects, services_of
from rulegen.errors import InputError, one_line, shown

if TYPE_CHECKING:
    from rich.table import Table

    from rulegen.live.known import Known, ServiceId
    from rulegen.top.model import Snapshot
    from rulegen.top.snapshots import Choice
    from rulegen.top.watch import Watch


@click.command(cls=Command)
@click.argument("services", nargs=-1, metavar="[NAMESPACE/NAME[:PORT]]...")
@click.option("-n", "--namespace", "namespaces", multiple=True, metavar="NAME", help="Only its Services. Repeatable.")
@input_options_if_any
@click.option(
    "--sort",
    "order",
    type=click.Choice(["connections", "new", "name"]),
    default="connections",
    show_default=True,
    help="By connections now, by new ones in a second, or by name.",
)
@click.option("--all", "idle", is_flag=True, help="Also Services without a connection.")
@click.option("--endpoints/--no-endpoints", default=True, help="A line for each endpoint, too [default].")
@click.option(
    "--interval", type=SecondsRange(0.1, 3600), default=2.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="Count new connections for one interval, print that, and end.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def top(services: tuple[str, ...], namespaces: tuple[str, ...], **options: Any) -> None:
    """Show Services and endpoints by their connections through this node, now and new in a second (needs root).

    Names are those of the rules in the kernel, rulegen's or kube-proxy's; with -f or --kubeconfig those of the objects.
    A name may hold * for any text. On a terminal the table is kept up to date, else one follows the other.

    \b
    Examples:
      rulegen top
      rulegen top -n shop --sort new --once
      rulegen top 'shop/*:https' -f cluster.yaml -o json --once
    """
    from rulegen.top.snapshots import Choice
    from rulegen.top.watch import Watch

    choice = Choice(_filter(services, namespaces), options["order"], options["idle"])
    names, names_change = _names(options)
    with Watch(names, names_change=names_change) as watch, suppress(KeyboardInterrupt):
        _check_names(services, namespaces, watch.known)
        if options["once"]:
            _print(watch.snapshot(choice, options["interval"]), options, print_document)
        elif options["output"] == "text" and sys.stdout.isatty():
            _keep_up_to_date(watch, choice, options)
        else:
            while True:
                _print(watch.snapshot(choice, options["interval"]), options, print_line)


def _check_names(services: Sequence[str], namespaces: Sequence[str], known: Known) -> None:
    """Whoever is asked about is there when it begins. Raises InputError."""
    names = {service.name for service in known.shares}
    there = {name.partition("/")[0] for name in names}
    for namespace in namespaces:
        if namespace not in there:
            raise InputError(f"-n: no Service is in namespace {shown(namespace)}{there_is(namespace, there)}")
    without_port = {name.rpartition(":")[0] if ":" in name else name for name in names}
    for pattern in services:
        if not any(fnmatchcase(name, pattern) for name in (*names, *without_port)):
            raise InputError(f"no Service is called {shown(pattern)}{there_is(pattern, without_port)}")


def _filter(services: Sequence[str], namespaces: Sequence[str]) -> Callable[[ServiceId], bool]:
    """What the arguments let through; a Service without a port stands for all of its ports."""

    def is_wanted(service: ServiceId) -> bool:
        name = service.name
        if namespaces and name.partition("/")[0] not in namespaces:
            return False
        names = (name, name.rpartition(":")[0] if ":" in name else name)
        return not services or any(fnmatchcase(each, pattern) for pattern in services for each in names)

    return is_wanted


def _names(options: Mapping[str, Any]) -> tuple[Callable[[], Known], bool]:
    """What gives the Services, and whether that may be others later."""
    if not options["files"] and not options["kubeconfig"]:
        from rulegen.live.in_kernel import known_of_kernel

        return known_of_kernel, True
    from rulegen.live.known import known_of_objects

    manifests, configuration = read_objects(pack(options))
    features = make_features(manifests.objects(), configuration, configuration.node)
    known = known_of_objects(services_of(features).store.service_ports())
    return lambda: known, False


def _print(snapshot: Snapshot, options: Mapping[str, Any], document: Callable[[object], None]) -> None:
    from rulegen.top.text import plain_lines, rows

    if options["output"] == "json":
        document(snapshot)
        return
    for note in snapshot.notes:
        say_warning(note)
    for line in plain_lines(list(rows(snapshot, endpoints=options["endpoints"]))):
        echo(line)
    if not options["once"]:
        echo("")
    sys.stdout.flush()


def _keep_up_to_date(watch: Watch, choice: Choice, options: Mapping[str, Any]) -> None:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    # The terminal is given back however this ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    interval = options["interval"]
    # The first look is there at once.
    with Live(Text("counting"), console=console, screen=True, auto_refresh=False) as live:
        seconds = min(interval, 0.5)
        while True:
            snapshot = watch.snapshot(choice, seconds)
            seconds = interval
            notes = (Text(one_line(note), style="yellow") for note in snapshot.notes)
            table = _table(snapshot, console.height - 2 - len(snapshot.notes), endpoints=options["endpoints"])
            live.update(Group(*notes, table), refresh=True)


def _table(snapshot: Snapshot, height: int, *, endpoints: bool) -> Table:
    """As many rows as the terminal has; the last one says how many are not shown."""
    from rich.table import Table
    from rich.text import Text

    from rulegen.top.text import HEADINGS, rows

    table = Table(box=None, pad_edge=False, expand=True, header_style="reverse")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True, ratio=None if number else 1)
    found = list(rows(snapshot, endpoints=endpoints))
    shown = found if len(found) <= height else found[: max(height - 1, 1)]
    for row in shown:
        style = "bold" if row.is_service else "yellow" if row.is_astray else ""
        table.add_row(*(Text(one_line(cell), style=style) for cell in row.cells))
    if len(shown) < len(found):
        table.add_row(Text(f"{len(found) - len(shown)} more rows", style="dim"), "", "", "", "")
    return table
