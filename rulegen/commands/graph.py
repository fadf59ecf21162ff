"""`rulegen graph`: a Service, a namespace or a packet as a picture. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands.answering import answer_packet
from rulegen.commands.command import Command
from rulegen.commands.completing import complete_namespaces, complete_services
from rulegen.commands.options import input_options, packet_options, target_options
from rulegen.commands.output import fail
from rulegen.commands.viewing import look

if TYPE_CHECKING:
    from rulegen.commands.viewing import Sight
    from rulegen.pictures.graph import Graph


@click.command(cls=Command)
@click.argument("service", required=False, metavar="[NAMESPACE/NAME[:PORT]]", shell_complete=complete_services)
@input_options
@target_options
@click.option(
    "-n", "--namespace", metavar="NAMESPACE", shell_complete=complete_namespaces, help="All Services of a namespace."
)
@packet_options
@click.option("-o", "--output", type=click.Choice(["svg", "dot", "mermaid"]), default="svg", show_default=True)
def graph(service: str | None, namespace: str | None, destination: str | None, output: str, **options: Any) -> None:
    """Draw what becomes of a Service, of a namespace's Services, or of a packet.

    \b
    Examples:
      rulegen graph default/web -f cluster.yaml --node worker-1 > web.svg
      rulegen graph -n shop -f cluster.yaml --node worker-1 -o dot | dot -Tpng > shop.png
      rulegen graph -f cluster.yaml --from shop/web-7d9 --to shop/checkout:https -o mermaid
    """
    if sum(one is not None for one in (service, namespace, destination)) != 1:
        fail("name a Service, as NAMESPACE/NAME, or a namespace with -n, or a packet with --to")
    if destination is None and (options["source"] or options["interface"] or options["addresses"]):
        fail("--from, --address and --interface are a packet's: say with --to where it goes")
    sight = look(options, live=False)
    if service is not None:
        drawn = _service(sight, service)
    elif namespace is not None:
        drawn = _namespace(sight, namespace)
    else:
        drawn = _packet(sight, destination or "", options)
    # Whatever the terminal's encoding is: a file of each of these kinds is UTF-8.
    click.echo(_text(drawn, output).encode(), nl=False)


def _service(sight: Sight, name: str) -> Graph:
    from rulegen.pictures.services import service_graph
    from rulegen.services.explain.service import explain_service, parse_service_name

    return service_graph(explain_service(sight.services, parse_service_name(name)))


def _namespace(sight: Sight, namespace: str) -> Graph:
    from rulegen.alike import there_is
    from rulegen.errors import InputError, shown
    from rulegen.pictures.services import namespace_graph
    from rulegen.services.explain.service import ServiceExplainer, ServiceName

    names = sorted(key for key in sight.services.services if key[0] == namespace)
    if not names:
        near = there_is(namespace, {key[0] for key in sight.services.services})
        raise InputError(f"-n: no Service is in namespace {shown(namespace)}{near}")
    explainer = ServiceExplainer(sight.services)
    explained = (explainer.explain(ServiceName(*key, "")) for key in names)
    return namespace_graph(namespace, sight.services.configuration.node_name, explained)


def _packet(sight: Sight, destination: str, options: Mapping[str, Any]) -> Graph:
    from rulegen.pictures.packets import packet_graph
    from rulegen.services.explain.asking import ask, parse_addresses
    from rulegen.services.parties import THIS_NODE

    own = parse_addresses(options["addresses"])
    asked = ask(sight.services, options["source"] or THIS_NODE, destination, options["interface"] or "", own)
    return packet_graph([answer_packet(sight, one).explanation for one in asked])


def _text(drawn: Graph, output: str) -> str:
    if output == "dot":
        from rulegen.pictures.dot import dot

        return dot(drawn)
    if output == "mermaid":
        from rulegen.pictures.mermaid import mermaid

        return mermaid(drawn)
    from rulegen.pictures.svg import svg

    return svg(drawn)
