"""Options that several commands have, and what they say together: an `Input`. Reads nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isnan
from typing import Any, NamedTuple, TypeVar

import click

from rulegen.commands.completing import complete_features, complete_files, complete_nodes

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


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


class SecondsRange(click.FloatRange):
    """A number of seconds between two bounds; `nan` is in no range, though it is below none and above none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click's."""
        seconds: float = super().convert(value, param, ctx)
        if isnan(seconds):
            self.fail(f"{seconds} is not in the range {self.min}<=x<={self.max}.", param, ctx)
        return seconds


FILES = click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="PATH",
    shell_complete=complete_files,
    help="Manifests: a file, a folder (recursively), or - for standard input. Repeatable.",
)


def _kubeconfig(words: str) -> Callable[[Decorated], Decorated]:
    return click.option("--kubeconfig", metavar="FILE", shell_complete=complete_files, help=words)


_USUAL_CLUSTER = "[default: that of --config, $KUBECONFIG, ~/.kube/config, or this pod's own]"
KUBECONFIG = _kubeconfig(f"Without -f: the cluster to read {_USUAL_CLUSTER}.")
# Of a command that reads nothing but a cluster.
CLUSTER = _kubeconfig(f"The cluster to read {_USUAL_CLUSTER}.")
# Of one that needs no objects, and reads no cluster unless it is told to.
_CLUSTER_IF_ANY = _kubeconfig("Without -f: the cluster to read [default: none].")
CONFIG = click.option(
    "--config",
    metavar="FILE",
    shell_complete=complete_files,
    help="The node's settings: a KubeProxyConfiguration, a RulegenConfiguration, or both.",
)
FEATURE = click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_features,
    help="A feature that is off without this, besides those of --config. Repeatable.",
)
PRUNE_UNREADABLE = click.option(
    "--prune-unreadable",
    is_flag=True,
    help="As --skip-invalid, and also remove live rules that documents which cannot be read at all may ask for.",
)
OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
SKIP_INVALID = click.option("--skip-invalid", is_flag=True, help="Go on without objects that cannot be decoded.")


def input_options(command: Decorated) -> Decorated:
    """Where objects come from, whose rules are wanted, and the node's settings: what `pack` reads."""
    return _input_options(command, KUBECONFIG)


def input_options_if_any(command: Decorated) -> Decorated:
    """The same of a command that reads no objects unless it is told where they are."""
    return _input_options(command, _CLUSTER_IF_ANY)


def _input_options(command: Decorated, kubeconfig: Callable[[Decorated], Decorated]) -> Decorated:
    for option in reversed(
        (
            FILES,
            kubeconfig,
            click.option(
                "--node",
                metavar="NAME",
                shell_complete=complete_nodes,
                help="Whose rules to compile [default: this host, or the only node].",
            ),
            CONFIG,
            FEATURE,
            SKIP_INVALID,
        )
    ):
        command = option(command)
    return command


def target_options(command: Decorated) -> Decorated:
    """Which driver, and its variant."""
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


def packet_options(command: Decorated) -> Decorated:
    """A packet that is asked about."""
    for option in (
        click.option(
            "--interface", metavar="NAME", help="The interface that it arrives by, where pods are told by that."
        ),
        click.option(
            "--address",
            "addresses",
            multiple=True,
            metavar="ADDRESS",
            help="An address that the node has besides those of its Node object. Repeatable.",
        ),
        click.option(
            "--to",
            "destination",
            metavar="DESTINATION",
            help="Where it goes: ADDRESS:PORT/tcp, ADDRESS/icmp, NAMESPACE/SERVICE:PORT, NAMESPACE/POD:PORT, "
            "svc/NAME, or, to ask explain, a URL through an Ingress, ...",
        ),
        click.option(
            "--from",
            "source",
            metavar="SOURCE",
            help="Where a packet comes from: an address, a pod, or node [default].",
        ),
    ):
        command = option(command)
    return command


def pack(options: Mapping[str, Any]) -> Input:
    """What a command with these options was given; it need not have all of them."""
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
