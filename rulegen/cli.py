"""The command line: arguments become calls, results become text and exit statuses. Nothing imports this module.

Rooms are imported inside the commands that need them, so that `--help` is there at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import click

from rulegen import gc_pause
from rulegen.errors import RulegenError, UnseenError, lines, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from rulegen.config import AgentConfiguration, Configuration, NodeConfiguration
    from rulegen.config import Target as Kind
    from rulegen.golden_reports import Checked
    from rulegen.iptables.binaries import Variant
    from rulegen.kube.manifests import Inspect, Manifests
    from rulegen.nftables.messages import Connection
    from rulegen.policies.explain import PolicyExplanation
    from rulegen.policies.feature import NetworkPolicies
    from rulegen.reconcile.driver import Difference, Driver, ShownChange
    from rulegen.reconcile.feature import Feature
    from rulegen.reconcile.once import TakenItems
    from rulegen.reference import Finding
    from rulegen.services.explain.model import PacketExplanation, Ruleset, View
    from rulegen.services.explain.text import TextLine
    from rulegen.services.feature import ServicesFeature
    from rulegen.services.simulate import Destination
    from rulegen.services.store import Store
    from rulegen.verify.report import Report
    from rulegen.verify.rulesets import Source

# As `kubectl diff`: 1 says that something differs, so every error is 2.
EXIT_DIFFERENT = 1
EXIT_ERROR = 2

_SHOWN_CHANGES = 40

Command = TypeVar("Command", bound=Callable[..., Any])
Explanation = TypeVar("Explanation")


class Input(NamedTuple):
    """What the options say about where objects come from and whose rules are wanted; "" where they say nothing.

    Without `files`: a cluster.
    """

    files: tuple[str, ...] = ()
    node: str = ""
    config: str = ""
    skip_invalid: bool = False
    prune_unreadable: bool = False
    kubeconfig: str = ""
    target: str = ""
    features: tuple[str, ...] = ()
    iptables_driver: str = ""


def _say(message: str) -> None:
    click.echo(f"rulegen: {one_line(message)}", err=True)


def _echo(text: str, **style: Any) -> None:
    """Prints text of several lines perhaps, in which others' names and comments may be: no terminal obeys them."""
    click.secho("\n".join(one_line(line, None) for line in text.split("\n")), **style)


def _fail(message: str) -> NoReturn:
    for line in lines(message.strip()):
        _say(line)
    sys.exit(EXIT_ERROR)


@contextmanager
def _errors_as_lines() -> Iterator[None]:
    """Every expected error is one line (or one for each fault) and exit status 2."""
    try:
        yield
    except UnseenError as error:
        _print_removed(error.removed)
        _fail(f"rules may be left: {error}")
    except RulegenError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; a transaction that was not committed changed nothing")
    except MemoryError:
        _fail("out of memory; nothing was changed")
    except OSError as error:
        if error.errno == errno.EPIPE:  # click's: a reader that has seen enough
            raise
        # What could not be written must not be tried again when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"cannot write the output: {error.strerror}")


class _Command(click.Command):
    """A command whose expected errors are lines, not tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        with _errors_as_lines(), gc_pause.paused():
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()


class _Group(click.Group):
    command_class = _Command
    group_class = type  # a group in this group is made the same way


def _print_version(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    """`rulegen 0.1.0 (a6223bd0c1d2)`."""
    if is_wanted and not context.resilient_parsing:
        from rulegen import __version__
        from rulegen.resources import commit

        built_from = commit()
        click.echo(f"rulegen {__version__}{f' ({built_from})' if built_from else ''}")
        context.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


_KUBECONFIG = click.option(
    "--kubeconfig",
    metavar="FILE",
    help="Without -f: the cluster to read [default: that of --config, $KUBECONFIG, ~/.kube/config, or this pod's own].",
)
_CONFIG = click.option(
    "--config", metavar="FILE", help="The node's settings: a KubeProxyConfiguration, a RulegenConfiguration, or both."
)
_FEATURE = click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="NAME",
    help="A feature that is off without this, besides those of --config. Repeatable.",
)
_SKIP_INVALID = click.option("--skip-invalid", is_flag=True, help="Go on without objects that cannot be decoded.")


def _input_options(command: Command) -> Command:
    for option in reversed(
        (
            click.option(
                "-f",
                "--filename",
                "files",
                multiple=True,
                metavar="PATH",
                help="Manifests: a file, a folder (recursively), or - for standard input. Repeatable.",
            ),
            _KUBECONFIG,
            click.option("--node", metavar="NAME", help="Whose rules to compile [default: the host name]."),
            _CONFIG,
            _FEATURE,
            _SKIP_INVALID,
        )
    ):
        command = option(command)
    return command


def _target_options(command: Command) -> Command:
    for option in (
        click.option(
            "--iptables-variant",
            type=click.Choice(["nft", "legacy", "auto"]),
            default="auto",
            show_default=True,
            help="Which iptables: auto is the one that the host uses.",
        ),
        click.option(
            "--iptables-driver",
            type=click.Choice(["iptables-restore", "python-iptables"]),
            help="What loads rules into legacy iptables. [default: what --config says, or iptables-restore]",
        ),
        click.option(
            "--target", type=click.Choice(["nftables", "iptables"]), help="[default: what --config says, or nftables]"
        ),
    ):
        command = option(command)
    return command


def _pack(options: Mapping[str, Any]) -> Input:
    return Input(
        options["files"],
        options["node"] or "",
        options["config"] or "",
        options.get("skip_invalid", False) or options.get("prune_unreadable", False),
        options.get("prune_unreadable", False),
        options["kubeconfig"] or "",
        options.get("target") or "",
        options.get("features", ()),
        options.get("iptables_driver") or "",
    )


# ---- render, diff, apply, cleanup ----


@main.command()
@_input_options
@_target_options
@click.option("--family", type=click.Choice(["ipv4", "ipv6"]), help="Only the rules of one IP family.")
def render(family: str | None, **options: Any) -> None:
    """Print the whole ruleset of a node (a dry run that needs no privileges).

    \b
    Examples:
      rulegen render -f cluster.yaml --node worker-1 > rules.nft
      rulegen render -f cluster.yaml --target iptables --family ipv4 | iptables-restore --noflush
    """
    wanted, configuration = _read_input(_pack(options))
    node = configuration.node
    if family is not None:
        from rulegen.config import Family
        from rulegen.configuration_file import for_families

        node = for_families(node, [one for one in Family if one.value.lower() == family])
    sys.stdout.writelines(_rendered(wanted, node, _driver(configuration, options)))


def _rendered(wanted: Wanted, node: NodeConfiguration, driver: Driver) -> Iterator[str]:
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.driver import compile_all

    compilers = CompilerSet.of(wanted.features, driver.name, node)
    compile_all(compilers, *wanted.taken)
    return iter(driver.render(compilers))


@main.command()
@_input_options
@_target_options
@click.option("--against", metavar="FILE", help="Compare with a file that `rulegen render` wrote, not with the kernel.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def diff(against: str | None, output: str, **options: Any) -> None:
    """Print what apply would change. Exit status 0: nothing, 1: something, 2: error.

    \b
    Examples:
      rulegen diff -f cluster.yaml
      rulegen diff -f cluster.yaml --node worker-1 --against rules.nft
    """
    wanted, configuration = _read_input(_pack(options))
    driver = _driver(configuration, options)
    if against is not None:
        from rulegen.reconcile.compilers import CompilerSet

        compilers = CompilerSet.of(wanted.features, driver.name, configuration.node)
        difference = driver.compare_file(compilers, *wanted.taken, against)
    else:
        difference = _compare(driver, wanted, configuration.node)
    if output == "json":
        summary = {"added": difference.added, "changed": difference.changed, "removed": difference.removed}
        _print_document({"summary": summary, "changes": [change.document for change in difference.changes()]})
    else:
        _print_changes(difference.changes())
        _echo(str(difference))
    sys.exit(EXIT_DIFFERENT if difference else 0)


@main.command()
@_input_options
@_target_options
@click.option("--dry-run", is_flag=True, help="Let the kernel check the change, and change nothing.")
@click.option("--force", is_flag=True, help="Even while an agent runs on this node.")
@click.option(
    "--prune-unreadable",
    is_flag=True,
    help="As --skip-invalid, and also remove live rules that documents which cannot be read at all may ask for.",
)
def apply(dry_run: bool, force: bool, **options: Any) -> None:
    """Make the kernel's rules equal to the compiled ones, changing only what differs.

    In one transaction on nftables, in one for each table and family on iptables. Rules that rulegen left in the other
    target go when the new ones are in force.

    \b
    Examples:
      rulegen apply -f cluster.yaml --dry-run
      rulegen apply -f cluster.yaml --target iptables
    """
    if not (force or dry_run):
        _refuse_beside_agent()
    source = _pack(options)
    configuration = _settings(source, _say_warning)
    manifests = _load(source, configuration)
    wanted = _compile(manifests, configuration)

    may_prune = source.prune_unreadable or not manifests.unreadable

    def show(difference: Difference) -> None:
        _print_plan(difference)
        if difference.removed and not may_prune:
            _refuse_to_prune(manifests.unreadable)

    difference, removed = _apply(_driver(configuration, options), wanted, configuration.node, show, dry_run=dry_run)
    if difference:
        _echo(f"{difference}: {'checked by the kernel, not applied' if dry_run else 'applied'}")
    if not dry_run:
        if not may_prune:
            _say_warning("rules that are left in the other target stay, as a document cannot be read")
        _print_removed(removed)
        if may_prune:
            _print_removed(_remove(_removals(configuration.target)))


def _compare(driver: Driver, wanted: Wanted, node: NodeConfiguration) -> Difference:
    """With the kernel's rules."""
    from rulegen.configuration_file import for_families
    from rulegen.interfaces import host_families
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.once import compare_once

    with driver.open() as opened:
        node = for_families(node, host_families())
        rules = opened.rules(CompilerSet.of(wanted.features, driver.name, node))
        return compare_once(rules, wanted.taken)[1]


def _apply(
    driver: Driver, wanted: Wanted, node: NodeConfiguration, show: Callable[[Difference], None], *, dry_run: bool
) -> tuple[Difference, list[str]]:
    """The plan that was shown and carried out, and what was removed elsewhere."""
    from rulegen.configuration_file import for_families
    from rulegen.interfaces import host_families
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.driver import LiveRules
    from rulegen.reconcile.once import apply_once

    with driver.open() as opened:
        node = for_families(node, host_families())

        def make_rules() -> LiveRules:
            return opened.rules(CompilerSet.of(wanted.features, driver.name, node))

        difference = apply_once(make_rules, wanted.taken, show, dry_run=dry_run)
        return difference, [] if dry_run else [place for remove in opened.leftovers for place in remove()]


def _print_plan(difference: Difference) -> None:
    if not difference:
        _echo("nothing to change")
    elif len(difference) <= _SHOWN_CHANGES:
        _print_changes(difference.changes())
    else:
        for line in difference.counts():
            _echo(line)


def _refuse_to_prune(unreadable: int) -> NoReturn:
    documents = "a document" if unreadable == 1 else f"{unreadable} documents"
    _fail(
        f"nothing was changed: {documents} that cannot be read may ask for what would be removed;"
        " mend it, or use --prune-unreadable"
    )


def _refuse_beside_agent() -> None:
    from rulegen.agent.run.lock import holder

    agent = holder()
    if agent is not None:
        _fail(f"an agent runs on this node ({agent}) and would undo it: stop it first, or use --force")


@main.command()
@click.option("--kube-proxy", is_flag=True, help="Remove what kube-proxy left behind, and leave rulegen's rules.")
@click.option("--portmap", is_flag=True, help="Remove what the CNI plugin portmap left behind, and leave all else.")
@click.option(
    "--cni-config",
    metavar="DIR",
    help="With --portmap: where the CNI configuration is, which must not name it [default: /etc/cni/net.d].",
)
@click.option(
    "--force",
    is_flag=True,
    help="Even while an agent, or kube-proxy, runs on this node. With --kube-proxy also while rulegen's rules are not "
    "in force here: then nothing on this node serves Services until one of the two writes its rules anew. With "
    "--portmap also while host ports are not, or portmap is still configured.",
)
def cleanup(kube_proxy: bool, portmap: bool, cni_config: str | None, force: bool) -> None:
    """Remove all that rulegen put into the kernel, on either target, and nothing else.

    \b
    Examples:
      rulegen cleanup
      rulegen cleanup --kube-proxy
      rulegen cleanup --portmap
    """
    if portmap and kube_proxy:
        _fail("--kube-proxy and --portmap: one at a time")
    if cni_config is not None and not portmap:
        _fail("--cni-config means nothing without --portmap")
    if portmap:
        _clean_up_after_portmap(cni_config, force=force)
        return
    if kube_proxy:
        _clean_up_after_kube_proxy(force=force)
        return
    if not force:
        _refuse_beside_agent()
    from rulegen.errors import HostError
    from rulegen.kube_proxy.witness import forget
    from rulegen.nftables.acceleration import remove_acceleration

    removed = _remove([*_removals(None), remove_acceleration])
    _print_removed(removed)
    if not removed:
        _echo("nothing to remove")
    with suppress(HostError):  # a host without nf_tables has no note either
        forget()


def _print_removed(places: Iterable[str]) -> None:
    for place in places:
        _echo(f"removed {place}")


def _clean_up_after_portmap(cni_config: str | None, *, force: bool) -> None:
    from rulegen.nftables.messages import open_connection
    from rulegen.portmap.configuration import FOLDER, files_with_portmap
    from rulegen.portmap.removal import families_with_rules, remove
    from rulegen.services.in_force import in_force

    with closing(open_connection()) as connection:
        if not force:
            found = families_with_rules(connection)
            named = files_with_portmap(FOLDER if cni_config is None else cni_config)
            if named:
                _fail(f"{', '.join(named)}: the CNI configuration names portmap: take it out first, or use --force")
            ours = in_force()
            lacking = [family.value for family in found if family not in ours.families & ours.host_ports]
            if lacking:
                why = "".join(f" ({line})" for line in ours.unread)
                _fail(
                    f"rulegen's host ports are not in force here for {' and '.join(lacking)}{why}, and without "
                    "portmap's nothing would serve any: start the agent, or use `rulegen apply`, with "
                    "--feature host-ports first, or use --force"
                )
        removed = remove(connection)
    _print_removed(removed)
    if not removed:
        _echo("nothing to remove")


def _clean_up_after_kube_proxy(*, force: bool) -> None:
    """What cannot be removed is named, and the exit status is then 2."""
    from rulegen.kube_proxy import ipvs
    from rulegen.kube_proxy.removal import remove_iptables_rules, remove_nftables_tables
    from rulegen.nftables.messages import open_connection

    with closing(open_connection()) as connection:
        if not force:
            _refuse_beside_kube_proxy()
            _refuse_without_rules(connection)
        removed = remove_nftables_tables(connection)
    _print_removed(removed)
    left = []
    try:
        chains = remove_iptables_rules()
    except UnseenError as error:
        chains = list(error.removed)
        left.append(f"rules may be left: {error}")
    _print_removed(chains)
    others = ipvs.clean_up()
    _print_removed(others.removed)
    for place in others.others if others.removed else ():
        _echo(f"stays, not known to be kube-proxy's: {place}")
    left += [f"left: {line}" for line in others.left]
    if left:
        _fail("\n".join(left))
    if not (removed or chains or others.removed):
        _echo("nothing to remove")


def _refuse_without_rules(connection: Connection) -> None:
    from rulegen.kube_proxy.rules import serving
    from rulegen.services.in_force import in_force

    found = serving(connection)
    if not found:
        return
    ours = in_force()
    lacking = [family for family, serves in found.items() if family not in (ours.serving if serves else ours.families)]
    if lacking or not ours.serving:
        names = " and ".join(family.value for family in lacking or found)
        why = "".join(f" ({line})" for line in ours.unread)
        _fail(
            f"rulegen's rules are not in force here for {names}{why}, and without kube-proxy's nothing would serve "
            "Services: start the agent or use `rulegen apply` first, or use --force"
        )


def _remove(removals: Sequence[Callable[[], list[str]]]) -> list[str]:
    """Has rules removed of the targets that this host has; says what there was. Raises UnseenError at the end.

    Raises HostError when nothing can be done at all.
    """
    from rulegen.errors import AbsentError, HostError

    removed: list[str] = []
    missing: list[HostError] = []
    unseen: list[str] = []
    for remove in removals:
        try:
            removed += remove()
        except UnseenError as error:
            removed += error.removed
            unseen.append(str(error))
        except HostError as error:
            missing.append(error)
    if len(missing) == len(removals) > 1:
        raise missing[0]
    unseen += [str(error) for error in missing if not isinstance(error, AbsentError)]
    if unseen:
        raise UnseenError("; ".join(dict.fromkeys(unseen)), removed)
    return removed


def _refuse_beside_kube_proxy() -> None:
    from rulegen.kube_proxy.presence import look

    if running := look().running:
        _fail(f"kube-proxy runs on this node ({running}): stop it first, or use --force")


# ---- agent ----


@main.command()
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="PATH",
    help="Manifests to follow: a file or a folder. Repeatable.",
)
@click.option("--node", metavar="NAME", help="Whose rules to keep [default: the host name].")
@_CONFIG
@click.option("--kubeconfig", metavar="FILE", help="Without -f: the cluster to follow.")
@_FEATURE
@_target_options
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

    source = _pack(options)
    if "-" in source.files:
        _fail("the agent cannot follow standard input: name files or folders with -f")
    log = Log()

    def configure_log(settings: AgentConfiguration) -> None:
        log.configure(
            settings.log_format, LEVELS[log_level] if log_level else level_of_verbosity(settings.log_verbosity)
        )

    printout = Printout() if dry_run else None
    agent_options = Options(
        load=partial(_agent_configuration, source, _warn_once()),
        config_path=source.config,
        variant=_variant(options["iptables_variant"]),
        files=source.files,
        server=apiserver or "",
        print_line=printout.print if printout else None,
        configure_log=configure_log,
    )
    with EndsProcess(log.close), _errors_as_lines():
        run(agent_options, log.close)
        if printout is not None:
            printout.close()


def _agent_configuration(source: Input, warn: Callable[[str], None]) -> Configuration:
    from msgspec.structs import replace

    configuration = _settings(source, warn)
    if not source.kubeconfig:
        return configuration
    return replace(configuration, agent=replace(configuration.agent, kubeconfig=source.kubeconfig))


def _warn_once() -> Callable[[str], None]:
    """The file is read again and again, and says the same."""
    told: set[str] = set()

    def warn(warning: str) -> None:
        if warning not in told:
            told.add(warning)
            _say_warning(warning)

    return warn


# ---- sysctls ----


@main.command()
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
            _say_warning(warning)
    done = set_sysctls(settings)
    for change in done.changes:
        click.echo(str(change))
    for problem in done.problems():
        _say(problem)
    if done.refusals and not tolerate_refusal:
        sys.exit(EXIT_DIFFERENT)


# ---- explain, lint ----


@main.command()
@click.argument("service", required=False, metavar="[NAMESPACE/NAME[:PORT]]")
@_input_options
@_target_options
@click.option(
    "--from", "source", metavar="SOURCE", help="Where a packet comes from: an address, a pod, or node [default]."
)
@click.option(
    "--to", "destination", metavar="DESTINATION", help="Where it goes: ADDRESS:PORT/tcp, ADDRESS/icmp, POD:PORT, ..."
)
@click.option("--interface", metavar="NAME", help="The interface that it arrives by, where pods are told by that.")
@click.option("--live", is_flag=True, help="Also say whether the kernel's entries agree (needs root).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(
    service: str | None,
    source: str | None,
    destination: str | None,
    interface: str | None,
    live: bool,
    output: str,
    **options: Any,
) -> None:
    """Say what becomes of a Service, or of a packet, and why.

    \b
    Examples:
      rulegen explain default/web -f cluster.yaml --node worker-1
      rulegen explain -f cluster.yaml --from 10.128.0.5 --to 10.96.0.10:80/tcp
      rulegen explain default/web -f cluster.yaml --target iptables --live
      rulegen explain -f cluster.yaml --feature network-policies --from default/web-1 --to shop/db-0:5432
    """
    from rulegen.services.explain import service as services
    from rulegen.services.explain import text

    if (service is None) is (destination is None) or (destination is None and (source or interface)):
        _fail("name either a Service, as NAMESPACE/NAME, or a packet with --to (and --from, --interface)")
    if destination is not None:
        _explain_packet(_view(options, live), (source, destination, interface or ""), output)
    else:
        wanted = services.parse_service_name(service or "")
        _print_explanation(services.explain_service(_view(options, live).services, wanted), output, text.service_lines)


def _explain_packet(view: _View, asked: tuple[str | None, str, str], output: str) -> None:
    """`asked`: the options --from, --to and --interface."""
    from rulegen.services.explain import packet, text

    source, destination, interface = asked
    policies = view.policies
    if policies is not None:
        source, destination = _addresses_of_pods(policies, source, destination)
    question = packet.parse_question(source or packet.NODE, destination, interface)
    explanation = packet.explain_packet(view.services, question)
    said = [] if policies is None else list(_policy_explanations(policies, explanation, question.destination))
    if output == "json":
        import msgspec

        _print_document({**msgspec.to_builtins(explanation), **({"policies": said} if policies is not None else {})})
        return
    _print_explanation(explanation, output, text.packet_lines)
    from rulegen.policies.explain import lines

    for line, passes in (line for each in said for line in lines(each)):
        _echo(line, **({} if passes is None else {"fg": "green" if passes else "red"}))


def _addresses_of_pods(policies: NetworkPolicies, source: str | None, destination: str) -> tuple[str | None, str]:
    """The same with addresses where pods were named."""
    from rulegen.policies.explain import pod_address, pod_destination
    from rulegen.policies.pods import packed

    store = policies.store
    start = packed(source) if source else None
    end = pod_destination(store, destination, start) or destination
    if source and start is None:
        like = packed(end.rpartition("/")[0].rpartition(":")[0].strip("[]"))
        source = pod_address(store, source, like) or source
    return source, end


def _policy_explanations(
    policies: NetworkPolicies, explanation: PacketExplanation, destination: Destination
) -> Iterator[PolicyExplanation]:
    """What policies say of the packet, wherever it may be sent on to."""
    from rulegen.policies.explain import explain as explain_policies

    endpoints = [delivery.endpoint.rpartition(":") for delivery in explanation.deliveries if not delivery.decision]
    targets = [(address.strip("[]"), int(port)) for address, _, port in endpoints]
    if not targets and not explanation.frontend:
        targets = [(destination.address, destination.port)]
    for address, port in targets:
        said = explain_policies(policies.store, explanation.source, address, destination.protocol, port)
        if said is not None:
            yield said


@main.command()
@_input_options
@click.option("--live", is_flag=True, help="Also look for chains of others on this host that may drop (needs root).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def lint(live: bool, output: str, **options: Any) -> None:
    """Report what is legal but probably wrong. Exit status 0: nothing, 1: findings, 2: error.

    \b
    Examples:
      rulegen lint -f cluster.yaml --node worker-1
      rulegen lint -f cluster.yaml --live
    """
    from rulegen.kube.fields import unknown_fields
    from rulegen.reconcile.once import take_all
    from rulegen.services import lint as checks
    from rulegen.services.model import Reason

    source = _pack(options)
    configuration = _settings(source, _say_warning)
    manifests = _load(source, configuration, unknown_fields)
    features = _features(manifests.objects(), configuration, configuration.node)
    take_all(features)
    findings = checks.lint(
        checks.LintInput(
            _services(features).store,
            _findings(features),
            manifests.services,
            manifests.unselected,
            manifests.endpoint_slices,
            manifests.mistakes(),
        )
    )
    if live:
        findings += _foreign_drops(configuration)
    if not manifests.nodes:  # then the input says nothing about nodes, and that is no fault of it
        for finding in findings:
            if finding.reason is Reason.UNKNOWN_NODE:
                _say(f"warning: {finding.subject}: {finding.message}")
        findings = [finding for finding in findings if finding.reason is not Reason.UNKNOWN_NODE]
    if output == "json":
        words = [{"object": one.subject, "reason": one.reason, "message": one.message} for one in findings]
        _print_document({"findings": words})
    else:
        for finding in findings:
            reason = click.style(str(finding.reason), fg="yellow")
            subject = click.style(one_line(finding.subject), bold=True)
            click.echo(f"{subject}: {reason}: {one_line(finding.message)}")
        _echo(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}")
    sys.exit(EXIT_DIFFERENT if findings else 0)


def _foreign_drops(configuration: Configuration) -> list[Finding]:
    """Of this host, whatever node the objects are looked at from."""
    from rulegen.firewalls.find import obstacles_beside
    from rulegen.reference import Finding, ObjectReference
    from rulegen.services.model import Reason

    node = ObjectReference("Node", "", configuration.node.node_name)
    found = obstacles_beside(configuration.target)
    return [Finding(node, Reason.FOREIGN_DROP, str(obstacle)) for obstacle in found]


class _View(NamedTuple):
    """What is explained; `policies`: None where they are off."""

    services: View
    policies: NetworkPolicies | None


def _view(options: Mapping[str, Any], live: bool) -> _View:
    """What is explained; findings about the node itself are said here, those about Services where they belong."""
    from rulegen.services.explain.model import View

    source = _pack(options)
    configuration = _settings(source, _say_warning)
    manifests = _load(source, configuration)
    node = configuration.node
    if live:
        from rulegen.configuration_file import for_families
        from rulegen.interfaces import host_families

        node = for_families(node, host_families())
    features = _features(manifests.objects(), configuration, node)
    store = _services(features).store
    _say_mistakes(manifests)
    ruleset = _ruleset(_driver(configuration, options), features, node, live=live)
    for finding in _findings(features):
        if finding.reference.kind == "Node":
            _say(f"warning: {finding.subject}: {finding.message}")
    services = {(item.metadata.namespace, item.metadata.name): item for item in manifests.services}
    services |= {(item.metadata.namespace, item.metadata.name): item for item in manifests.unselected}
    return _View(View(store, node, ruleset, services), _policies(features))


def _ruleset(driver: Driver, features: list[Feature], node: NodeConfiguration, *, live: bool) -> Ruleset:
    """What the Services were compiled to; `live`: and what the kernel holds."""
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.driver import compile_all
    from rulegen.reconcile.once import compare_once, take_all
    from rulegen.services.explain.rulesets import ruleset_of

    compilers = CompilerSet.of(features, driver.name, node)
    wanted, entries = take_all(features), None
    if live:
        with driver.open() as opened:
            rules = opened.rules(compilers)
            compare_once(rules, wanted)
            entries = rules.live
    else:
        compile_all(compilers, *wanted)
    services = _services(features)
    return ruleset_of(driver.name, compilers.by_feature[services.name], services.store, node.families, entries)


def _print_explanation(
    explanation: Explanation, output: str, lines: Callable[[Explanation], Iterator[TextLine]]
) -> None:
    from rulegen.services.explain.text import Tone

    if output == "json":
        _print_document(explanation)
        return
    styles: Mapping[Tone, dict[str, Any]] = {
        Tone.TITLE: {"bold": True},
        Tone.HEADING: {"fg": "cyan"},
        Tone.GOOD: {"fg": "green"},
        Tone.BAD: {"fg": "red"},
    }
    for line in lines(explanation):
        _echo(line.text, **styles.get(line.tone, {}))


# ---- snapshot ----


@main.command()
@_KUBECONFIG
@_CONFIG
@_FEATURE
@_SKIP_INVALID
def snapshot(kubeconfig: str | None, config: str | None, features: tuple[str, ...], skip_invalid: bool) -> None:
    """Write what a cluster holds of all that rulegen reads as one manifest file, for later -f.

    \b
    Example:
      rulegen snapshot --kubeconfig ~/.kube/config > cluster.yaml
    """
    from rulegen.kube.snapshot import write_manifests

    source = Input(config=config or "", skip_invalid=skip_invalid, kubeconfig=kubeconfig or "", features=features)
    write_manifests(_load(source, _written_settings(source, _say_warning)), sys.stdout)


# ---- verify ----


@main.command()
@_input_options
@_target_options
@click.option("--rendered", metavar="FILE", help="Verify a file with rules, instead of what is in the kernel.")
@click.option("--against", metavar="FILE", help="Compare with another file with rules, and not with what objects mean.")
@click.option(
    "--replaces",
    type=click.Choice(["kube-proxy"]),
    help="Compare kube-proxy's rules, in the kernel or in --rendered, with those that rulegen would put there.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def verify(rendered: str | None, against: str | None, replaces: str | None, output: str, **options: Any) -> None:
    """Prove, for every packet, that rules do what the objects mean. Applies nothing.

    Exit status 0: equal, 1: different, 2: it cannot be told, or an error.

    \b
    Examples:
      rulegen verify -f cluster.yaml --node worker-1
      rulegen verify -f cluster.yaml --node worker-1 --rendered rules.nft
      rulegen verify -f cluster.yaml --config kube-proxy.conf --replaces kube-proxy
      rulegen verify --rendered old.nft --against new.nft
    """
    from rulegen.verify import report, rulesets

    if against and (replaces or not rendered):
        _fail("--against compares two files: name the other one with --rendered, and no --replaces")
    source = _pack(options)
    with _counting() as progress:
        if against is not None and rendered is not None:
            found = _verify_files(source, rendered, against, progress)
        elif replaces:
            theirs = rulesets.read_file(rendered) if rendered else rulesets.live_kube_proxy()
            found = _verify_replacement(options, theirs, progress)
        else:
            found = _verify_objects(source, rendered, options["iptables_variant"], progress)
    if output == "json":
        _print_document(report.document(found))
    else:
        for line in report.lines(found):
            _echo(line)
    sys.exit(found.status)


def _verify_objects(source: Input, rendered: str | None, variant: str, progress: Callable[[int], None]) -> Report:
    from rulegen.config import Target as Kind
    from rulegen.features import REGISTRY
    from rulegen.verify import questions, rulesets

    wanted, configuration = _read_input(source)
    store = _services(wanted.features).store
    if rendered is not None:
        rules, addresses = rulesets.read_file(rendered), _stated_addresses(store)
    else:
        own = rulesets.Program.RULEGEN
        is_nftables = configuration.target is Kind.NFTABLES
        rules = rulesets.live_nftables(own, REGISTRY) if is_nftables else rulesets.live_iptables(own, _variant(variant))
        addresses = _host_addresses()
    return questions.against_objects(rules, store, configuration.node, addresses, progress, wanted.features)


def _verify_replacement(options: Mapping[str, Any], theirs: Source, progress: Callable[[int], None]) -> Report:
    from rulegen.verify import questions, rulesets

    wanted, configuration = _read_input(_pack(options))
    store = _services(wanted.features).store
    text = "".join(_rendered(wanted, configuration.node, _driver(configuration, options)))
    ours = rulesets.read_text(text, f"rulegen's on {configuration.target.value}")
    addresses = _stated_addresses(store)
    return questions.replacing_kube_proxy(theirs, ours, store, configuration.node, addresses, progress)


def _verify_files(source: Input, one: str, two: str, progress: Callable[[int], None]) -> Report:
    from rulegen.verify import questions, rulesets

    configuration = _settings(source, _say_warning)
    left, right = (rulesets.read_file(path) for path in (one, two))
    return questions.against_rules(left, right, 1 << configuration.node.masquerade_bit, (), progress)


def _stated_addresses(store: Store) -> Sequence[str]:
    """The node's own, as its Node object states them; others are tried as well."""
    from rulegen.services.node import host_addresses

    return host_addresses(store.node)


def _host_addresses() -> Sequence[str]:
    from rulegen.interfaces import host_families, own_addresses

    return [address for family in host_families() for address in own_addresses(family)]


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, which counts the classes of packets."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("classes of packets", total=None)
        yield lambda classes: bar.update(task, completed=classes)


# ---- golden, demo ----


@main.group()
def golden() -> None:
    """Check a repository's scenarios against what rulegen renders, or rewrite them."""


_DEPTH = click.option(
    "--depth",
    type=click.Choice(["flows", "entries", "ruleset"]),
    help="What is compared: what becomes of packets, the entries of the rules too, or every byte of them. "
    "[default: what each scenario says, or flows]",
)


@golden.command("check", cls=_Command)
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@_DEPTH
@click.option("--verify", is_flag=True, help="Prove for every packet that the rulesets do what the objects mean.")
@click.option("--junit", metavar="FILE", help="Also write the result as JUnit XML.")
@click.option("--github", is_flag=True, help="Print the failures as annotations of a GitHub workflow.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def golden_check(
    folders: tuple[str, ...], depth: str | None, verify: bool, junit: str | None, github: bool, output: str
) -> None:
    """Compare each scenario below DIR with what is written down. Exit status 0: equal, 1: different, 2: error.

    With --verify the rulesets are loaded in a network namespace of their own, which needs root or user namespaces.

    \b
    Examples:
      rulegen golden check golden
      rulegen golden check scenarios --junit report.xml
    """
    from pathlib import Path

    from rulegen import golden as scenarios
    from rulegen import golden_reports as reports

    paths = scenarios.find_scenarios(folders)
    wanted = scenarios.Depth(depth) if depth else None
    read = [scenarios.read_scenario(folder) for folder in paths]
    checked = [reports.Checked(scenario.folder, scenarios.check(scenario, wanted)) for scenario in read]
    if verify:
        from rulegen.golden_proofs import prove

        checked = [
            reports.Checked(one.folder, one.difference.with_more(prove(scenario)))
            for one, scenario in zip(checked, read, strict=True)
        ]
    strays = scenarios.unused(folders, read, wanted)
    if junit:
        scenarios.write_text(Path(junit), reports.junit(checked))
    if output == "json":
        _print_document(reports.document(checked, strays))
    elif github:
        for line in reports.github_annotations(checked, strays):
            _echo(line)
    else:
        _print_golden(checked, strays)
    sys.exit(EXIT_DIFFERENT if strays or any(one.difference for one in checked) else 0)


def _print_golden(checked: Sequence[Checked], strays: Sequence[Path]) -> None:
    for one in checked:
        for failure in one.difference.failures:
            _echo(str(failure))
        for line in one.difference.ruleset:
            _echo(line.rstrip("\n"), fg={"+": "green", "-": "red"}.get(line[0]))
    for path in strays:
        _echo(f"{path}: no scenario has this configuration any more")
    _echo(f"{len(checked)} scenarios, {sum(bool(one.difference) for one in checked)} different")


@golden.command("update", cls=_Command)
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@_DEPTH
@click.option(
    "--flows", is_flag=True, help="Rewrite the expectations of flows that end otherwise now, not the rulesets."
)
def golden_update(folders: tuple[str, ...], depth: str | None, flows: bool) -> None:
    """Rewrite the rulesets of the scenarios below DIR that are checked as deep as that, or their flows' expectations.

    \b
    Examples:
      rulegen golden update golden && git diff golden
      rulegen golden update --flows scenarios && git diff scenarios
    """
    from rulegen import golden as scenarios
    from rulegen.golden_recording import accept_flows

    paths = scenarios.find_scenarios(folders)
    wanted = scenarios.Depth(depth) if depth else None
    read = [scenarios.read_scenario(folder) for folder in paths]
    rewritten = 0
    for scenario in read:
        if flows:
            changed = [scenario.flows_file] if accept_flows(scenario) else []
        else:
            changed = scenarios.update(scenario, wanted)
        rewritten += bool(changed)
        for path in changed:
            _echo(f"rewrote {path}")
    for path in () if flows else scenarios.unused(folders, read, wanted):
        path.unlink()
        _echo(f"removed {path}")
    _echo(f"{len(paths)} scenarios, {rewritten} rewritten")


@golden.command("record", cls=_Command)
@click.argument("folder", metavar="DIR")
@_input_options
@click.option("--packets", required=True, metavar="FILE", help="Lines FROM TO, such as `10.128.0.9 10.96.0.20:80/tcp`.")
def golden_record(folder: str, packets: str, **options: Any) -> None:
    """Make a scenario in DIR: the objects, the packets, and as expectations what becomes of them today.

    \b
    Example:
      rulegen snapshot > cluster.yaml
      rulegen golden record scenarios/web -f cluster.yaml --node worker-1 --packets packets.txt
    """
    from pathlib import Path

    from rulegen.configuration_file import kube_proxy_fields
    from rulegen.golden import read_text
    from rulegen.golden_recording import record

    source = _pack(options)
    configuration = _settings(source, _say_warning)
    manifests = _load(source, configuration)
    lines = read_text(Path(packets)).splitlines()
    settings = kube_proxy_fields(source.config) if source.config else {}
    scenario = record(
        Path(folder), manifests, configuration.node.node_name, settings, _optional_features(configuration), lines
    )
    _echo(f"recorded {len(scenario.flows)} flows in {folder}")


def _optional_features(configuration: Configuration) -> list[str]:
    """The features that somebody asked for."""
    from rulegen.features import ALWAYS

    return [name for name in configuration.features if name not in ALWAYS]


@main.command()
def demo() -> None:
    """Show rulegen at work: a sample cluster, its rules and real connections, in network namespaces of its own.

    Needs root (or `unshare -rn`), takes some ten seconds, leaves nothing behind.
    """
    from rich.console import Console

    from rulegen.demo.playground import run

    run(Console(highlight=False))


# ---- what the commands share ----


class Wanted(NamedTuple):
    """The features that are on, and all that they hand on."""

    features: list[Feature]
    taken: TakenItems


def _read_input(source: Input) -> tuple[Wanted, Configuration]:
    """What the input means for the node; faults end the program unless they may be skipped."""
    configuration = _settings(source, _say_warning)
    return _compile(_load(source, configuration), configuration), configuration


def _compile(manifests: Manifests, configuration: Configuration) -> Wanted:
    """What they mean for the node; says what is probably wrong with it. Afterwards `manifests` hold no objects."""
    from rulegen.reconcile.once import take_all

    _say_mistakes(manifests)
    features = _features(manifests.release(), configuration, configuration.node)
    wanted = Wanted(features, take_all(features))
    for finding in _findings(features):
        _say(f"warning: {finding.subject}: {finding.message}")
    return wanted


def _features(objects: Iterable[Any], configuration: Configuration, node: NodeConfiguration) -> list[Feature]:
    """The features that are on, which have read the objects."""
    from rulegen.features import feed, make

    features = make(configuration.features, node)
    feed(features, objects)
    return features


def _policies(features: Iterable[Feature]) -> NetworkPolicies | None:
    """The feature, where it is on; then it is imported already."""
    found: Any = next((feature for feature in features if feature.name == "network-policies"), None)
    return found  # type: ignore[no-any-return]


def _findings(features: Sequence[Feature]) -> list[Finding]:
    """What features find from which all was taken; of Services, also what is found in slices that none of them has."""
    found = _services(features).store.findings()
    for feature in features:
        if feature.name != _services(features).name:
            found += sorted(finding for _, findings in feature.findings.items() for finding in findings)
    return found


def _services(features: Iterable[Feature]) -> ServicesFeature:
    from rulegen.services.feature import ServicesFeature

    return next(feature for feature in features if isinstance(feature, ServicesFeature))


def _say_mistakes(manifests: Manifests) -> None:
    from rulegen.kube.mistakes import summary

    for line in summary(manifests.mistakes()):
        _say_warning(line)


def _load(source: Input, configuration: Configuration, inspect: Inspect | None = None) -> Manifests:
    """`inspect`: what else is looked at in each object of a file as it was written."""
    manifests = _read_manifests(source, configuration, inspect)
    for problem in manifests.problems:
        _say(str(problem))
    if manifests.problems and not source.skip_invalid:
        sys.exit(EXIT_ERROR)
    if manifests.skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(manifests.skipped.items()))
        _say(f"skipped objects of kinds that are not read: {kinds}")
        for warning in _features_that_are_off(manifests.skipped, configuration):
            _say_warning(warning)
    return manifests


def _features_that_are_off(skipped: Iterable[str], configuration: Configuration) -> Iterator[str]:
    """Of each feature that is off and would read what was skipped, that it is off."""
    from rulegen.features import REGISTRY, chosen, kinds_of

    read = kinds_of(configuration.features)
    on = chosen(configuration.features)
    for name in (name for name in REGISTRY if name not in on):
        kinds = sorted({kind.__name__ for kind in kinds_of([name]) if kind not in read} & set(skipped))
        if kinds:
            yield f"{', '.join(kinds)}: without --feature {name}, these mean nothing"


def _read_manifests(source: Input, configuration: Configuration, inspect: Inspect | None) -> Manifests:
    """What the features that are on read, and nothing else."""
    from rulegen.features import kinds_of

    kinds = kinds_of(configuration.features)
    if source.files:
        from rulegen.kube.manifests import load

        return load(source.files, sys.stdin.buffer, inspect, kinds)
    from rulegen.kube.api import connect
    from rulegen.kube.snapshot import read_cluster

    return read_cluster(connect(source.kubeconfig or configuration.agent.kubeconfig, warn=_say_warning), kinds)


def _settings(source: Input, warn: Callable[[str], None]) -> Configuration:
    """What the file says, or the defaults, where the options say nothing else; `warn` gets what has no effect."""
    from msgspec.structs import replace

    from rulegen.configuration_file import node_configuration

    configuration = _written_settings(source, warn)
    return replace(configuration, node=node_configuration(configuration, source.node, os.uname().nodename))


def _written_settings(source: Input, warn: Callable[[str], None]) -> Configuration:
    """The same, whichever node it is for."""
    from msgspec.structs import replace

    from rulegen.config import Conntrack, IptablesLoader
    from rulegen.config import Target as Kind
    from rulegen.configuration_file import load_configuration, read_configuration

    target = Kind(source.target) if source.target else None
    if source.config:
        configuration, warnings = load_configuration(source.config, target)
    else:
        configuration, warnings = read_configuration({}, "", target)
        # Only a file makes it kube-proxy's successor, which sets what the file does not say, too (D11).
        configuration = replace(configuration, agent=replace(configuration.agent, conntrack=Conntrack()))
    for warning in warnings:
        warn(warning)
    if source.iptables_driver:
        configuration = replace(configuration, iptables_driver=IptablesLoader(source.iptables_driver))
    return replace(configuration, features=(*configuration.features, *source.features))


def _say_warning(warning: str) -> None:
    _say(f"warning: {warning}")


def _removals(target: Kind | None) -> list[Callable[[], list[str]]]:
    """What removes all rules of all targets but one (None: of all)."""
    from functools import partial

    from rulegen.config import Target as Kind
    from rulegen.drivers import make_driver
    from rulegen.features import REGISTRY

    return [partial(make_driver(one).remove, tuple(REGISTRY)) for one in Kind if one is not target]


def _variant(name: str) -> Variant | None:
    """None: the one that the host uses."""
    from rulegen.iptables.binaries import Variant

    return None if name == "auto" else Variant(name)


def _driver(configuration: Configuration, options: Mapping[str, Any]) -> Driver:
    from rulegen.drivers import make_driver

    return make_driver(configuration.target, _variant(options["iptables_variant"]), configuration.iptables_driver)


def _print_changes(changes: Iterable[ShownChange]) -> None:
    colours = {"+": "green", "~": "yellow", "-": "red"}
    for change in changes:
        _echo(change.text, fg=colours[change.sign])


def _print_document(document: object) -> None:
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    # Marks that change the direction of writing are legal in JSON; a terminal would obey them.
    click.echo("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))
