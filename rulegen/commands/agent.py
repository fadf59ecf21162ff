"""`rulegen agent`: from the arguments to the agent's options; the agent itself is rulegen/agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands.bundled import refuse_bundle
from rulegen.commands.command import Command, errors_as_lines
from rulegen.commands.completing import complete_files
from rulegen.commands.options import CONFIG, FEATURE, Input, pack, target_options
from rulegen.commands.output import fail, say_warning
from rulegen.commands.reading import EGRESS_MASQUERADE, read_settings
from rulegen.commands.targets import variant_named

if TYPE_CHECKING:
    from rulegen.config import AgentConfiguration, Configuration


@click.command(cls=Command)
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="PATH",
    shell_complete=complete_files,
    help="Manifests to follow: a file or a folder. Repeatable.",
)
@click.option("--node", metavar="NAME", help="Whose rules to keep [default: the host name].")
@CONFIG
@click.option("--kubeconfig", metavar="FILE", shell_complete=complete_files, help="Without -f: the cluster to follow.")
@FEATURE
@target_options
@click.option("--apiserver", metavar="URL", help="Where its API server is, instead of what the kubeconfig says.")
@click.option("--dry-run", is_flag=True, help="Print each change, and apply none.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="How much to say on standard error; debug: every sync. [default: what --config says, or info]",
)
def agent(apiserver: str | None, dry_run: bool, log_level: str | None, **options: Any) -> None:
    """Follow the cluster, or files, and keep the kernel's rules equal. Exit status 0 on SIGTERM.

    A change of the file that --config names takes effect at once; on SIGHUP everything is read anew.

    \b
    Examples:
      rulegen agent -f /etc/rulegen/manifests
      rulegen agent --kubeconfig /etc/rulegen/kubeconfig --apiserver https://192.168.1.2:6443
    """
    from functools import partial

    from rulegen.agent.log.log import LEVELS, Log, level_of_verbosity
    from rulegen.agent.log.printed import Printout
    from rulegen.agent.run.assembly import Options
    from rulegen.agent.run.ending import EndsProcess
    from rulegen.agent.run.process import run

    source = pack(options)
    if "-" in source.files:
        fail("the agent cannot follow standard input: name files or folders with -f")
    refuse_bundle(source.files)
    log = Log()

    def configure_log(settings: AgentConfiguration) -> None:
        log.configure(
            settings.log_format, LEVELS[log_level] if log_level else level_of_verbosity(settings.log_verbosity)
        )

    printout = Printout() if dry_run else None
    warn = _warn_once()
    agent_options = Options(
        load=partial(_agent_configuration, source, warn),
        load_at_start=partial(_agent_configuration, source, warn, features_wait=True),
        config_paths=partial(_configuration_files, source),
        variant=variant_named(options["iptables_variant"]),
        files=source.files,
        server=apiserver or "",
        print_line=printout.print if printout else None,
        configure_log=configure_log,
        recent_log=log.recent,
    )
    with EndsProcess(log.close), errors_as_lines():
        run(agent_options, log.close)
        if printout is not None:
            printout.close()


def _configuration_files(source: Input, configuration: Configuration) -> list[str]:
    """All that the configuration is made from."""
    files = [source.config] if source.config else []
    if EGRESS_MASQUERADE in configuration.features:
        from rulegen.egress.configuration import file_of

        files.append(file_of(configuration.node.egress))
    return files


def _agent_configuration(source: Input, warn: Callable[[str], None], *, features_wait: bool = False) -> Configuration:
    """See `read_settings`."""
    from msgspec.structs import replace

    configuration = read_settings(source, warn, features_wait=features_wait)
    if not source.kubeconfig:
        return configuration
    return replace(configuration, agent=replace(configuration.agent, kubeconfig=source.kubeconfig))


def _warn_once() -> Callable[[str], None]:
    """The file is read again and again, and says the same."""
    told: set[str] = set()

    def warn(warning: str) -> None:
        if warning not in told:
            told.add(warning)
            say_warning(warning)

    return warn
