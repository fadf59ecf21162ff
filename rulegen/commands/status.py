"""`rulegen status`: what the agent on this node says about itself. Changes nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from rulegen.commands.asking import read_status
from rulegen.commands.command import Command
from rulegen.commands.options import CONFIG, OUTPUT, Input
from rulegen.commands.output import EXIT_DIFFERENT, print_document, print_toned
from rulegen.commands.reading import read_written_settings
from rulegen.errors import InputError, shown

if TYPE_CHECKING:
    from rulegen.config import SocketAddress

_DEFAULT_PORT = 10256


@click.command(cls=Command)
@CONFIG
@click.option(
    "--address",
    metavar="ADDRESS[:PORT]",
    help="Where the agent answers [default: healthzBindAddress of --config, or 127.0.0.1:10256].",
)
@OUTPUT
def status(config: str | None, address: str | None, output: str) -> None:
    """Say how the agent on this node is: its last sync, what is pending, refused, broken, found, and by whom changed.

    Exit status 0: all is in force as it should be, 1: not all, 2: no agent answers, or an error.

    \b
    Examples:
      rulegen status
      rulegen status --config /etc/rulegen/config.conf -o json
    """
    found = read_status(_address(config, address))
    if output == "json":
        print_document(found)
    else:
        from rulegen.agent.status.words import status_lines

        print_toned(status_lines(found))
    sys.exit(0 if found.state == "ok" else EXIT_DIFFERENT)


def _address(config: str | None, address: str | None) -> SocketAddress:
    if address is None:
        source = Input(config=config or "")
        return read_written_settings(source, lambda _: None).agent.healthz_bind_address
    from rulegen.configuration_fields import Unexpected, socket_address

    try:
        return socket_address(address, _DEFAULT_PORT)
    except Unexpected as error:
        raise InputError(f"--address: expected {error}, got {shown(address)}") from error
