"""`rulegen sysctls`: the conntrack sysctls, as kube-proxy sets them at its start."""

from __future__ import annotations

import sys

import click

from rulegen.commands.command import Command
from rulegen.commands.output import EXIT_DIFFERENT, say, say_warning


@click.command(cls=Command)
@click.option("--config", metavar="FILE", help="A KubeProxyConfiguration [default: what kube-proxy sets without one].")
@click.option("--tolerate-refusal", is_flag=True, help="Exit status 0 also when the host refuses something.")
def sysctls(config: str | None, tolerate_refusal: bool) -> None:
    """Set the conntrack sysctls of the configuration, as kube-proxy does at its start. Exit status 1 if one is refused.

    For hosts, and for a short privileged container before the agent's, whose own /proc/sys is read-only.

    \b
    Examples:
      rulegen sysctls
      rulegen sysctls --config /etc/rulegen/config.conf
    """
    from rulegen.config import KUBE_PROXY_CONNTRACK
    from rulegen.config import Target as Kind
    from rulegen.configuration_file import load_configuration
    from rulegen.conntrack.sysctls import set_sysctls

    settings = KUBE_PROXY_CONNTRACK
    if config:
        # Whatever the file's mode is.
        configuration, warnings = load_configuration(config, Kind.NFTABLES)
        settings = configuration.agent.conntrack
        for warning in warnings:
            say_warning(warning)
    done = set_sysctls(settings)
    for change in done.changes:
        click.echo(str(change))
    for problem in done.problems():
        say(problem)
    if done.refusals and not tolerate_refusal:
        sys.exit(EXIT_DIFFERENT)
