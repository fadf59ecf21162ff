"""`rulegen lint`: what is legal but probably wrong, found by the features and by `services/lint.py`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands.command import Command
from rulegen.commands.options import OUTPUT, input_options, pack
from rulegen.commands.output import EXIT_DIFFERENT, echo, fail, print_document, say
from rulegen.commands.reading import findings_of, make_features, read_objects_for_any_node, services_of
from rulegen.commands.targets import is_of_a_node
from rulegen.errors import one_line

if TYPE_CHECKING:
    from rulegen.config import Configuration
    from rulegen.kube.manifests import Manifests
    from rulegen.reconcile.feature import Feature
    from rulegen.reference import Finding


@click.command(cls=Command)
@input_options
@click.option("--live", is_flag=True, help="Also look for chains of others on this host that may drop (needs root).")
@OUTPUT
def lint(live: bool, output: str, **options: Any) -> None:
    """Report what is legal but probably wrong. Exit status 0: nothing, 1: findings, 2: error.

    \b
    Examples:
      rulegen lint -f cluster.yaml --node worker-1
      rulegen lint -f cluster.yaml --live
    """
    from rulegen.kube.fields import unknown_fields
    from rulegen.reconcile.once import take_all
    from rulegen.services.model import Reason

    source = pack(options)
    manifests, configuration = read_objects_for_any_node(source, unknown_fields)
    features = make_features(manifests.objects(), configuration, configuration.node)
    take_all(features)
    if live and not is_of_a_node(configuration):
        fail("--live is about a node's rules")
    findings = _findings(features, manifests, configuration)
    if live:
        findings += _foreign_drops(configuration)
    if not manifests.nodes:  # then the input says nothing about nodes, and that is no fault of it
        for finding in findings:
            if finding.reason is Reason.UNKNOWN_NODE:
                say(f"warning: {finding.subject}: {finding.message}")
        findings = [finding for finding in findings if finding.reason is not Reason.UNKNOWN_NODE]
    if output == "json":
        from rulegen.commands.documents import LintDocument, LintFinding

        print_document(LintDocument([LintFinding.of(finding) for finding in findings]))
    else:
        for finding in findings:
            reason = click.style(str(finding.reason), fg="yellow")
            subject = click.style(one_line(finding.subject), bold=True)
            click.echo(f"{subject}: {reason}: {one_line(finding.message)}")
        echo(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}")
    sys.exit(EXIT_DIFFERENT if findings else 0)


def _findings(features: list[Feature], manifests: Manifests, configuration: Configuration) -> list[Finding]:
    from rulegen.services import lint as checks

    if not is_of_a_node(configuration):
        return checks.noticed(findings_of(features), manifests.mistakes())
    return checks.lint(
        checks.LintInput(
            services_of(features).store,
            findings_of(features),
            manifests.services,
            manifests.unselected,
            manifests.endpoint_slices,
            manifests.mistakes(),
        )
    )


def _foreign_drops(configuration: Configuration) -> list[Finding]:
    """Of this host, whatever node the objects are looked at from."""
    from rulegen.firewalls.find import obstacles_beside
    from rulegen.reference import Finding, ObjectReference
    from rulegen.services.model import Reason

    node = ObjectReference("Node", "", configuration.node.node_name)
    found = obstacles_beside(configuration.target)
    return [Finding(node, Reason.FOREIGN_DROP, str(obstacle)) for obstacle in found]
