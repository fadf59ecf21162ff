"""`rulegen trace`: real packets followed through the kernel, as lines or as documents. Leaves nothing behind."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands.command import Command
from rulegen.commands.options import SecondsRange, input_options_if_any, pack
from rulegen.commands.output import print_line, print_toned, say, say_warning
from rulegen.commands.reading import directory_of, read_objects

if TYPE_CHECKING:
    from rulegen.trace.follow import Follower
    from rulegen.trace.packet import Wanted


@click.command(cls=Command)
@click.option("--from", "source", metavar="SOURCE", help="Whose packets: an address, a pod, or node for its own.")
@click.option(
    "--to",
    "destination",
    metavar="DESTINATION",
    help="Where they go: ADDRESS, ADDRESS:PORT, ADDRESS:PORT/tcp, or a Service as NAMESPACE/NAME[:PORT].",
)
@input_options_if_any
@click.option(
    "--count", type=click.IntRange(1, 100_000), default=10, show_default=True, help="End after so many packets."
)
@click.option(
    "--seconds", type=SecondsRange(0.1, 86_400), default=60.0, show_default=True, help="End after so many seconds."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def trace(count: int, seconds: float, output: str, **options: Any) -> None:
    """Follow real packets through this node's rules, whoever has written them (needs root).

    Each packet is told step by step: the frontend, the endpoint that was chosen, masquerading, and which rule of which
    table let it go no further. With -o json each packet is a document on a line of its own. Services are known from the
    rules in the kernel; pods, and what else has a name, with -f or --kubeconfig.

    \b
    Examples:
      rulegen trace --to 10.96.0.10:80
      rulegen trace --to shop/web:http --count 1
      rulegen trace --from 10.128.0.9 --to 10.96.0.10:80/tcp --count 1
      rulegen trace --from shop/web-7d9 --to shop/checkout:https --kubeconfig admin.conf
    """
    from rulegen.trace.follow import Bounds, Follower

    with Follower(_alternatives(options), Bounds(count, seconds)) as follower:
        for note in follower.notes:
            say(note)
        if sys.stderr.isatty():
            say(f"following packets, at most {count} and for {seconds:g} s; ^C ends it")
        # ^C: enough was seen.
        with suppress(KeyboardInterrupt):
            _print_packets(follower, output)
        _print_summary(follower, output)


def _alternatives(options: Mapping[str, Any]) -> Sequence[Wanted]:
    """By the names of objects where there are some; else a Service stands for its frontends in the kernel's rules."""
    source, destination = options["source"] or "", options["destination"] or ""
    if options["files"] or options["kubeconfig"]:
        from rulegen.kube.objects import Pod
        from rulegen.trace.naming import wanted_between

        wanted = pack(options)
        manifests, configuration = read_objects(wanted, named=[Pod])
        return wanted_between(directory_of(wanted, configuration, manifests), source, destination)
    from rulegen.live.naming import frontends_named, is_name
    from rulegen.trace.packet import parse_wanted, wanted_at

    if not is_name(destination):
        return [parse_wanted(source, destination)]
    from rulegen.live.in_kernel import known_of_kernel

    return wanted_at(source, frontends_named(known_of_kernel(), destination))


def _print_packets(follower: Follower, output: str) -> None:
    from rulegen.trace.text import packet_lines

    for told in follower.packets():
        if output == "json":
            print_line(told)
        else:
            print_toned(packet_lines(told))
            sys.stdout.flush()


def _print_summary(follower: Follower, output: str) -> None:
    from rulegen.trace.text import summary_lines, warnings

    summary = follower.summary()
    if output == "json":
        print_line(summary)
    else:
        print_toned(summary_lines(summary))
    for warning in warnings(summary):
        say_warning(warning)
