"""`rulegen support-bundle`: what is needed to find a fault elsewhere, as one file. Changes nothing else."""

from __future__ import annotations

from typing import Any

import click

from rulegen.bundle import pack_bundle
from rulegen.commands.bundled import refuse_bundle
from rulegen.commands.collected import Wanted, collect
from rulegen.commands.command import Command
from rulegen.commands.completing import complete_files
from rulegen.commands.options import input_options, pack, target_options
from rulegen.commands.output import echo, say, say_warning
from rulegen.commands.private_file import write_private
from rulegen.commands.reading import read_settings_of_any_node
from rulegen.commands.targets import driver_of
from rulegen.errors import InputError


@click.command(cls=Command, name="support-bundle")
@click.argument("path", metavar="FILE.tar.gz", shell_complete=complete_files)
@input_options
@target_options
def support_bundle(path: str, **options: Any) -> None:
    """Write objects, settings, rules, differences, status, metrics, log and versions into one file, and list them.

    Give it the options of the agent. Only its owner can read the file. It holds no credentials: of a kubeconfig only
    its path. What cannot be had is named, and left out. `rulegen explain` and `rulegen diff` read it with -f.

    \b
    Examples:
      rulegen support-bundle node-1.tar.gz --config /etc/rulegen/config.conf
      rulegen support-bundle node-1.tar.gz -f /etc/rulegen/manifests
      rulegen diff -f node-1.tar.gz
    """
    source = pack(options)
    refuse_bundle(source.files)
    problem = ""
    try:
        configuration = read_settings_of_any_node(source, say_warning, features_wait=True)
    except InputError as error:
        problem = str(error)
        say_warning(f"going on with default settings: {problem}")
        configuration = read_settings_of_any_node(source._replace(config=""), say_warning, features_wait=True)
    collected = collect(Wanted(source, configuration, driver_of(configuration, options), problem))
    for one in collected.missing:
        say(f"{one.name} is missing: {one.why}")
    write_private(path, pack_bundle(collected.parts))
    for line in collected.listing:
        echo(line)
