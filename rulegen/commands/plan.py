"""`rulegen plan`: what apply would change, as a file that `rulegen apply` carries out as it is, or not at all."""

from __future__ import annotations

from secrets import randbits
from typing import Any

import click

from rulegen.commands.applying import make_ready, opened_host
from rulegen.commands.bundled import refuse_bundle
from rulegen.commands.command import Command
from rulegen.commands.completing import complete_files
from rulegen.commands.options import PRUNE_UNREADABLE, input_options, pack, target_options
from rulegen.commands.output import echo, print_changes

_SEED_BITS = 48


@click.command(cls=Command)
@input_options
@target_options
@PRUNE_UNREADABLE
@click.option(
    "-o",
    "--out",
    "path",
    required=True,
    metavar="FILE",
    shell_complete=complete_files,
    help="Where the plan goes; only its owner can read it.",
)
def plan(path: str, **options: Any) -> None:
    """Print what apply would change, and write it down for `rulegen apply FILE`. Changes nothing in the kernel.

    \b
    Examples:
      rulegen plan -f cluster.yaml -o rules.plan
      rulegen apply rules.plan
    """
    from rulegen.commands.plan_file import write_plan
    from rulegen.commands.planned import make_plan

    source = pack(options)
    refuse_bundle(source.files)
    ready = make_ready(source, options["iptables_variant"], seed=randbits(_SEED_BITS))
    with opened_host(ready) as host:
        difference = host.compare()
        ready.check_removals(difference)
        made = make_plan(ready, host.variant, host.compared(difference))
        print_changes(difference.changes())
    write_plan(path, made)
    for place in made.leftovers:
        echo(f"- all of rulegen's in {place}")
    echo(f"{difference}: planned" if difference or made.leftovers else "nothing to change")
