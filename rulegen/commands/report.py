"""`rulegen report`: all that this node does, as one HTML file to search and to look at. Changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands.command import Command
from rulegen.commands.completing import complete_files
from rulegen.commands.options import input_options, target_options
from rulegen.commands.private_file import write_private
from rulegen.commands.progress import progress
from rulegen.commands.selecting import Owner
from rulegen.commands.viewing import look

if TYPE_CHECKING:
    from rulegen.commands.viewing import Sight
    from rulegen.pictures.records import Connections, Policies, Reported
    from rulegen.services.model import ServiceKey

_STDOUT = "-"


@click.command(cls=Command)
@input_options
@target_options
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    shell_complete=complete_files,
    help="Where the page goes; - for standard output.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Also what differs in this host's kernel, and its connections (needs root), or in a bundle's.",
)
@click.option("--title", metavar="TEXT", help="What stands above it, a date perhaps [default: the node's name].")
def report(live: bool, output: str, title: str | None, **options: Any) -> None:
    """Write what this node does with every Service as one HTML file that needs no network.

    \b
    Examples:
      rulegen report -f cluster.yaml --node worker-1 -o report.html
      rulegen report --live -o report.html --title "worker-1, $(date)"
    """
    sight = look(options, live=live)
    with progress("writing the report"):
        text = _page(sight, title)
    if output == _STDOUT:
        sys.stdout.buffer.write(text.encode())
    else:
        write_private(output, text.encode())


def _page(sight: Sight, title: str | None) -> str:
    from rulegen import __version__
    from rulegen.pictures.page import About, page
    from rulegen.pictures.records import make_records

    node = sight.services.configuration.node_name
    differences = _differences(sight)
    reported = list(_reported(sight, differences or {}))
    about = About(
        f"rulegen on {node}" if title is None else title,
        node,
        sight.target,
        __version__,
        list(_other_findings(sight, reported)),
        None if differences is None else differences.get(None, []),
        has_connections=_counts(sight),
    )
    return page(about, make_records(reported))


def _reported(sight: Sight, differences: Mapping[ServiceKey | None, list[str]]) -> Iterator[Reported]:
    """In the order of the Services' names, whatever that of the manifests is."""
    from rulegen.pictures.records import Reported
    from rulegen.services.explain.rulesets import WithoutEntries
    from rulegen.services.explain.service import ServiceExplainer, ServiceName

    # The kernel was compared as a whole; for each Service by itself that would take as long as there are Services.
    explainer = ServiceExplainer(sight.services._replace(ruleset=WithoutEntries(sight.services.ruleset)))
    connections = _connections(sight) if _counts(sight) else None
    health = _health(sight)
    policies = _policies(sight)
    for key in sorted(sight.services.services):
        explanation = explainer.explain(ServiceName(*key, ""))
        yield Reported(explanation, tuple(health.get(key, ())), tuple(differences.get(key, ())), connections, policies)


def _other_findings(sight: Sight, reported: Iterable[Reported]) -> Iterator[str]:
    """Those that stand at no Service: about the node, about slices that no Service has."""
    said = {(one.object, one.message) for each in reported for one in each.explanation.findings}
    for finding in sight.findings:
        if (finding.subject, finding.message) not in said:
            yield f"{finding.subject}: {finding.message}"


def _differences(sight: Sight) -> dict[ServiceKey | None, list[str]] | None:
    """By Service; None as a key: those that are no Service's of the input. None: nobody asked."""
    if sight.difference is None:
        return None
    found: dict[ServiceKey | None, list[str]] = {}
    for change in sight.difference.changes():
        owners = [Owner.of(name) for name in change.owned.named]
        known = {(owner.namespace, owner.name) for owner in owners} & sight.services.services.keys()
        keys: list[ServiceKey | None] = [*sorted(known)]
        for key in keys or [None]:
            found.setdefault(key, []).append(change.text)
    return found


def _policies(sight: Sight) -> Policies:
    feature = sight.policies
    if feature is None:
        return lambda _: ()
    from rulegen.policies.explain import policies_isolating

    store = feature.store
    return lambda endpoint: policies_isolating(store, endpoint.rpartition(":")[0].strip("[]"))


def _health(sight: Sight) -> dict[ServiceKey, list[str]]:
    """What a load balancer hears of each Service that it asks about (SVC-77)."""
    found: dict[ServiceKey, list[str]] = {}
    for check in sight.services.store.health_checks():
        local = check.local_endpoints
        said = f"ready, {local} here" if local else "not ready: nobody here"
        found.setdefault(check.service, []).append(f"port {check.port}, {check.family.value}: {said}")
    return found


def _counts(sight: Sight) -> bool:
    """A bundle tells of rules, not of connections."""
    return sight.difference is not None and sight.is_here


def _connections(sight: Sight) -> Connections:
    """Of this host's network namespace, as `rulegen top` counts them."""
    from collections import Counter
    from contextlib import closing

    from rulegen.conntrack.connections import ConnectionReader
    from rulegen.live.known import known_of_objects

    known = known_of_objects(sight.services.store.service_ports())
    counts: Counter[tuple[str, str, str, str]] = Counter()
    with closing(ConnectionReader()) as reader:
        for family in sight.services.families:
            for connection in reader.translated(family):
                service = known.service_of(connection)
                if service is not None:
                    counts[service.name, service.protocol.upper(), family.value, connection.server] += 1
    return counts
