"""`rulegen env`: the environment variables by which pods of a namespace find Services."""

from __future__ import annotations

import re
from typing import Any

import click

from rulegen.alike import there_is
from rulegen.commands.command import Command
from rulegen.commands.completing import complete_namespaces
from rulegen.commands.options import CONFIG, FILES, KUBECONFIG, SKIP_INVALID, pack
from rulegen.commands.output import print_document, say_warning
from rulegen.commands.reading import load_manifests, read_written_settings
from rulegen.errors import printable

# Others can be set in a process, and no shell can name them.
_SHELL_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


@click.command(cls=Command)
@click.argument("namespace", shell_complete=complete_namespaces)
@FILES
@KUBECONFIG
@CONFIG
@SKIP_INVALID
@click.option("--no-service-links", is_flag=True, help="Of a pod with enableServiceLinks: false.")
@click.option("-o", "--output", type=click.Choice(["env", "shell", "json"]), default="env", show_default=True)
def env(namespace: str, no_service_links: bool, output: str, **options: Any) -> None:
    """Print the variables that a pod of NAMESPACE started now would get for the Services it can reach.

    \b
    Examples:
      rulegen env shop -f cluster.yaml                    NAME=VALUE, as `docker run --env-file` takes it
      eval "$(rulegen env shop -f cluster.yaml -o shell)"
    """
    from rulegen.kube.objects import Service
    from rulegen.services.environment import environment

    source = pack({"node": "", **options})
    manifests = load_manifests(source, read_written_settings(source, say_warning), kinds=[Service])
    services = [*manifests.services, *manifests.unselected]
    found = environment(services, namespace, links=not no_service_links)
    for note in found.notes:
        say_warning(note)
    if not any(service.metadata.namespace == namespace for service in services):
        near = there_is(namespace, {service.metadata.namespace for service in services})
        say_warning(f"there is no Service in namespace {printable(namespace)}{near}")
    _PRINT[output]({variable.name: variable.value for variable in found.variables})


def _print_file(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        click.echo(f"{name}={value}")


def _print_shell(variables: dict[str, str]) -> None:
    """Addresses, numbers and URLs of them, which no shell changes."""
    for name, value in variables.items():
        if _SHELL_NAME.fullmatch(name):
            click.echo(f"export {name}={value!r}")
        else:
            say_warning(f"{name}: no shell can name it")


def _print_json(variables: dict[str, str]) -> None:
    from rulegen.commands.documents import EnvDocument

    print_document(EnvDocument(variables))


_PRINT = {"env": _print_file, "shell": _print_shell, "json": _print_json}
