"""`rulegen demo`: the playground of `rulegen/demo`, on this terminal."""

from __future__ import annotations

import click

from rulegen.commands.command import Command
from rulegen.commands.output import colour, page


@click.command(cls=Command)
def demo() -> None:
    """Show rulegen at work: a sample cluster, its rules and real connections, in network namespaces of its own.

    Needs root (or `unshare -rn`), takes some ten seconds, leaves nothing behind.
    """
    from rulegen.demo.playground import run

    run(page(colour()))
