"""`rulegen render`: the whole ruleset of a node on standard output. Looks at no kernel."""

from __future__ import annotations

import sys
from typing import Any

import click

from rulegen.commands.command import Command
from rulegen.commands.options import input_options, pack, target_options
from rulegen.commands.reading import read_input
from rulegen.commands.targets import driver_of, rendered_rules


@click.command(cls=Command)
@input_options
@target_options
@click.option("--family", type=click.Choice(["ipv4", "ipv6"]), help="Only the rules of one IP family.")
def render(family: str | None, **options: Any) -> None:
    """Print the whole ruleset of a node (a dry run that needs no privileges).

    \b
    Examples:
      rulegen render -f cluster.yaml --node worker-1 > rules.nft
      rulegen render -f cluster.yaml --target iptables --family ipv4 | iptables-restore --noflush
    """
    wanted, configuration = read_input(pack(options))
    node = configuration.node
    if family is not None:
        from rulegen.config import Family
        from rulegen.configuration_file import for_families

        node = for_families(node, [one for one in Family if one.value.lower() == family])
    sys.stdout.writelines(rendered_rules(wanted, node, driver_of(configuration, options)))
