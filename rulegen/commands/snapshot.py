"""`rulegen snapshot`: what a cluster holds, as one manifest file on standard output."""

from __future__ import annotations

import sys

import click

from rulegen.commands.command import Command
from rulegen.commands.completing import remember
from rulegen.commands.options import CLUSTER, CONFIG, FEATURE, SKIP_INVALID, Input
from rulegen.commands.output import say_warning
from rulegen.commands.reading import load_manifests, read_written_settings


@click.command(cls=Command)
@CLUSTER
@CONFIG
@FEATURE
@SKIP_INVALID
def snapshot(kubeconfig: str | None, config: str | None, features: tuple[str, ...], skip_invalid: bool) -> None:
    """Write what a cluster holds of all that rulegen reads as one manifest file, for later -f.

    \b
    Example:
      rulegen snapshot --kubeconfig ~/.kube/config > cluster.yaml
    """
    from rulegen.features import ALWAYS, kinds_of
    from rulegen.kube.snapshot import left_out, write_manifests

    source = Input(config=config or "", skip_invalid=skip_invalid, kubeconfig=kubeconfig or "", features=features)
    configuration = read_written_settings(source, say_warning)
    # Of a feature that runs once for a cluster, too, people ask what becomes of a packet.
    kinds = {*kinds_of(ALWAYS), *kinds_of(configuration.features)}
    manifests = load_manifests(source, configuration, kinds=kinds)
    write_manifests(manifests, sys.stdout)
    if what := left_out(manifests):
        say_warning(f"left out, as they hold private keys: {what}; hosts are without TLS where only this file is read")
    remember(manifests)
