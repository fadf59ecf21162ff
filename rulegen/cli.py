"""The command line's first word: which module of `commands/` it is for. Nothing imports this module.

A command is imported when it is asked for, so that `--help` is there at once.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from rulegen.commands.command import Group

# Each is in the module of `commands/` of its name, under its name.
COMMANDS = (
    "agent",
    "apply",
    "cleanup",
    "demo",
    "diff",
    "env",
    "explain",
    "golden",
    "graph",
    "lint",
    "plan",
    "render",
    "report",
    "snapshot",
    "status",
    "support-bundle",
    "sysctls",
    "top",
    "trace",
    "verify",
)


class _LazyGroup(Group):
    """A group that imports the command that it is asked for, and no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"rulegen.commands.{name}"), name)
        return command


def _print_version(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    """`rulegen 0.1.0 (a6223bd0c1d2)`."""
    if is_wanted and not context.resilient_parsing:
        from rulegen import __version__
        from rulegen.resources import commit

        built_from = commit()
        click.echo(f"rulegen {__version__}{f' ({built_from})' if built_from else ''}")
        context.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="The version, and the commit.",
)
def main() -> None:
    """Compile Kubernetes Services to nftables or iptables rules, and apply only what changed.

    \b
    rulegen render -f cluster.yaml            the whole ruleset, as `nft -f` takes it
    rulegen diff   -f cluster.yaml            what apply would change in the kernel
    rulegen apply  -f cluster.yaml            changes it, in one transaction
    rulegen demo                              see it work, in network namespaces of its own
    """


def kubectl_plugin() -> None:
    """The same as kubectl calls it: `kubectl rulegen ...` runs the program `kubectl-rulegen`."""
    main(prog_name="kubectl rulegen")


def kubectl_completion() -> None:
    """What kubectl asks for the words after `kubectl rulegen`: a line for each, then a number that says what they are.

    Names are all there are (4), where they are not files (0); see `kubectl plugin`, and Cobra's ShellCompDirective.
    """
    from click.shell_completion import ShellComplete

    *words, incomplete = sys.argv[1:] or [""]
    found = ShellComplete(main, {}, "kubectl rulegen", "").get_completions(words, incomplete)
    names = [item.value for item in found if item.type == "plain"]
    for name in names:
        click.echo(name)
    click.echo(":0" if len(names) < len(found) else ":4")
