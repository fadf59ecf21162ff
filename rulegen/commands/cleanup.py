"""`rulegen cleanup`: removes what rulegen or a predecessor left in the kernel, nginx or a name server, as asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from rulegen.commands.command import Command
from rulegen.commands.completing import complete_files
from rulegen.commands.output import echo, fail, print_removed
from rulegen.commands.targets import refuse_beside_agent, removals, remove_each
from rulegen.errors import UnseenError

if TYPE_CHECKING:
    from rulegen.nftables.messages import Connection

# The options that are about something else than all rules, as click names them.
_OTHERS = ("kube_proxy", "portmap", "ip_masq_agent", "records", "ingress")


@click.command(cls=Command)
@click.option("--kube-proxy", is_flag=True, help="Remove what kube-proxy left behind, and leave rulegen's rules.")
@click.option("--portmap", is_flag=True, help="Remove what the CNI plugin portmap left behind, and leave all else.")
@click.option("--ip-masq-agent", is_flag=True, help="Remove what ip-masq-agent left behind, and leave all else.")
@click.option("--ingress", is_flag=True, help="Remove what nginx serves Ingresses by, and leave all else.")
@click.option("--records", is_flag=True, help="Remove names of Services from the name server, and leave all else.")
@click.option(
    "--config",
    metavar="FILE",
    shell_complete=complete_files,
    help="With --records or --ingress: the RulegenConfiguration that says which name server, or which nginx.",
)
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
    "--portmap also while host ports are not, or portmap is still configured; with --ip-masq-agent also while egress "
    "masquerading is not in force.",
)
def cleanup(config: str | None, cni_config: str | None, force: bool, **asked: bool) -> None:
    """Remove all that rulegen put into the kernel, on either target, and nothing else.

    \b
    Examples:
      rulegen cleanup
      rulegen cleanup --kube-proxy
      rulegen cleanup --portmap
      rulegen cleanup --ip-masq-agent
      rulegen cleanup --ingress --config ingress.yaml
      rulegen cleanup --records --config records.yaml
    """
    chosen = [name for name in _OTHERS if asked[name]]
    if len(chosen) > 1:
        fail(f"{' and '.join(map(_option, chosen))}: one at a time")
    what = next(iter(chosen), "")
    for name, value, needed in (
        ("--cni-config", cni_config, ("portmap",)),
        ("--config", config, ("records", "ingress")),
    ):
        if value is not None and what not in needed:
            fail(f"{name} means nothing without {' or '.join(map(_option, needed))}")
    others: dict[str, Callable[[], None]] = {
        "kube_proxy": partial(_clean_up_after_kube_proxy, force=force),
        "portmap": partial(_clean_up_after_portmap, cni_config, force=force),
        "ip_masq_agent": partial(_clean_up_after_ip_masq_agent, force=force),
        "ingress": partial(_clean_up_after_ingress, config or ""),
        "records": partial(_clean_up_after_records, config or ""),
    }
    others.get(what, partial(_clean_up, force=force))()


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _clean_up(*, force: bool) -> None:
    if not force:
        refuse_beside_agent()
    from rulegen.errors import HostError
    from rulegen.kube_proxy.witness import forget
    from rulegen.nftables.acceleration import remove_acceleration

    removed = remove_each([*removals(None), remove_acceleration])
    print_removed(removed)
    if not removed:
        echo("nothing to remove")
    with suppress(HostError):  # a host without nf_tables has no note either
        forget()


def _clean_up_after_ingress(config: str) -> None:
    from rulegen.commands.options import Input
    from rulegen.commands.output import say_warning
    from rulegen.commands.reading import read_written_settings
    from rulegen.nginx.driver import NginxDriver

    settings = read_written_settings(Input(config=config), say_warning).node.ingress
    removed = NginxDriver(settings).remove(["ingress"])
    print_removed(removed)
    if not removed:
        echo("nothing to remove")


def _clean_up_after_records(config: str) -> None:
    """What no Service asks for goes: all that is ours."""
    from msgspec.structs import replace

    from rulegen.commands.options import Input
    from rulegen.commands.output import say_warning
    from rulegen.commands.reading import read_written_settings
    from rulegen.drivers import driver_for
    from rulegen.features import make
    from rulegen.reconcile.compilers import CompilerSet

    configuration = replace(read_written_settings(Input(config=config), say_warning), features=("records",))
    driver = driver_for(configuration, None, say_warning)
    features = make(configuration.features, configuration.node)
    with driver.open() as opened:
        rules = opened.rules(CompilerSet.of(features, driver.name, configuration.node))
        rules.read()
        delta = rules.difference()
        removed = list(rules.counts(delta))
        if delta:
            rules.apply(delta)
    print_removed(removed)
    if not removed:
        echo("nothing to remove")


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
                fail(f"{', '.join(named)}: the CNI configuration names portmap: take it out first, or use --force")
            ours = in_force()
            lacking = [family.value for family in found if family not in ours.families & ours.host_ports]
            if lacking:
                why = "".join(f" ({line})" for line in ours.unread)
                fail(
                    f"rulegen's host ports are not in force here for {' and '.join(lacking)}{why}, and without "
                    "portmap's nothing would serve any: start the agent, or use `rulegen apply`, with "
                    "--feature host-ports first, or use --force"
                )
        removed = remove(connection)
    print_removed(removed)
    if not removed:
        echo("nothing to remove")


def _clean_up_after_ip_masq_agent(*, force: bool) -> None:
    from rulegen.egress.predecessor import families_with_rules, in_force, remove

    if not force:
        found = families_with_rules()
        ours, unread = in_force() if found else (set(), [])
        lacking = [family.value for family in found if family not in ours]
        if lacking:
            why = "".join(f" ({line})" for line in unread)
            fail(
                f"egress masquerading is not in force here for {' and '.join(lacking)}{why}, and without "
                "ip-masq-agent's rules pods would reach nothing outside: start the agent, or use `rulegen apply`, with "
                "--feature egress-masquerade first, or use --force"
            )
    removed = remove()
    print_removed(removed)
    if not removed:
        echo("nothing to remove")


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
    print_removed(removed)
    left = []
    try:
        chains = remove_iptables_rules()
    except UnseenError as error:
        chains = list(error.removed)
        left.append(f"rules may be left: {error}")
    print_removed(chains)
    others = ipvs.clean_up()
    print_removed(others.removed)
    for place in others.others if others.removed else ():
        echo(f"stays, not known to be kube-proxy's: {place}")
    left += [f"left: {line}" for line in others.left]
    if left:
        fail("\n".join(left))
    if not (removed or chains or others.removed):
        echo("nothing to remove")


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
        fail(
            f"rulegen's rules are not in force here for {names}{why}, and without kube-proxy's nothing would serve "
            "Services: start the agent or use `rulegen apply` first, or use --force"
        )


def _refuse_beside_kube_proxy() -> None:
    from rulegen.kube_proxy.presence import look

    if running := look().running:
        fail(f"kube-proxy runs on this node ({running}): stop it first, or use --force")
