"""`rulegen explain`: what becomes of a Service or of a packet, in words or as a document. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands.answering import Answer, answer_packet, answer_request
from rulegen.commands.command import Command
from rulegen.commands.completing import complete_services
from rulegen.commands.options import OUTPUT, input_options, pack, packet_options, target_options
from rulegen.commands.output import echo, fail, print_document, print_toned, say_warning
from rulegen.commands.reading import load_manifests, make_features, read_settings_of_any_node
from rulegen.commands.viewing import Sight, look

if TYPE_CHECKING:
    from rulegen.config import Configuration
    from rulegen.services.explain.asking import Asked


@click.command(cls=Command)
@click.argument("service", required=False, metavar="[NAMESPACE/NAME[:PORT]]", shell_complete=complete_services)
@input_options
@target_options
@packet_options
@click.option(
    "--live",
    is_flag=True,
    help="Also say whether the kernel's entries agree (needs root), or a bundle's.",
)
@OUTPUT
def explain(service: str | None, destination: str | None, live: bool, output: str, **options: Any) -> None:
    """Say what becomes of a Service, or of a packet, and why.

    \b
    Examples:
      rulegen explain default/web -f cluster.yaml --node worker-1
      rulegen explain -f cluster.yaml --from 10.128.0.5 --to 10.96.0.10:80/tcp
      rulegen explain -f cluster.yaml --from shop/web-7d9 --to shop/checkout:https
      rulegen explain -f cluster.yaml --from 203.0.113.9 --to https://shop.example.org/cart
      rulegen explain default/web -f cluster.yaml --target iptables --live
      rulegen explain -f cluster.yaml --feature network-policies --from default/web-1 --to shop/db-0:5432
      rulegen explain db-0.db.shop.svc.cluster.local -f cluster.yaml --feature records
    """
    from rulegen.features import cluster_driver
    from rulegen.services.explain import asking, text
    from rulegen.services.explain import service as services
    from rulegen.services.parties import THIS_NODE

    source, interface, addresses = options["source"], options["interface"], options["addresses"]
    is_packet = destination is not None
    if (service is None) is not is_packet or (not is_packet and (source or interface or addresses)):
        fail("name either a Service, as NAMESPACE/NAME, or a packet with --to (and --from, --interface, --address)")
    if destination is not None and "://" in destination:
        if interface or addresses:
            fail("--interface and --address mean nothing with a URL, which a client sends to nginx")
        _explain_request(source or THIS_NODE, destination, options, output, live=live)
        return
    if destination is not None:
        own = asking.parse_addresses(addresses)
        view = look(options, live=live)
        asked = asking.ask(view.services, source or THIS_NODE, destination, interface or "", own)
        _explain_packets(view, asked, output)
        return
    settings = read_settings_of_any_node(pack(options), say_warning)
    if cluster_driver(settings.features) == "dns":
        _explain_records(service or "", settings, options, output, live=live)
        return
    wanted = services.parse_service_name(service or "")
    explanation = services.explain_service(look(options, live=live, settings=settings).services, wanted)
    if output == "json":
        print_document(explanation)
    else:
        print_toned(text.service_lines(explanation))


def _explain_records(
    name: str, configuration: Configuration, options: Mapping[str, Any], output: str, *, live: bool
) -> None:
    """Of a Service, or of a DNS name; `live`: nothing is asked of a server, `diff` does that."""
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.driver import compile_all
    from rulegen.reconcile.once import take_all
    from rulegen.records.compiler import RecordCompiler
    from rulegen.records.explain import explain as explain_name
    from rulegen.records.feature import RecordsFeature

    if live:
        fail("--live is about a node's rules; diff compares records with the name server's")
    features = make_features(load_manifests(pack(options), configuration).release(), configuration, configuration.node)
    compilers = CompilerSet.of(features, "dns", configuration.node)
    compile_all(compilers, *take_all(features))
    (feature,), (compiler,) = features, compilers.by_feature.values()
    assert isinstance(feature, RecordsFeature)  # noqa: S101 - which the registry says
    assert isinstance(compiler, RecordCompiler)  # noqa: S101 - as above
    explanation = explain_name(name, feature.store, compiler)
    if output == "json":
        print_document(explanation)
        return
    asked = explanation.asked.removesuffix(".")
    echo(f"{asked}: {explanation.answer}" if explanation.answer else f"Service {asked}", bold=True)
    for record in explanation.records:
        for text in record.records:
            owners = f"  # {', '.join(record.services)}" if record.services else ""
            echo(f"  {record.owner} {record.ttl} IN {record.type} {text}{owners}")
    for reason in explanation.reasons:
        echo(f"  {reason}", fg="red")


def _explain_packets(view: Sight, asked: Sequence[Asked], output: str) -> None:
    """One packet for each family; as a document the first one has the others."""
    answers = [answer_packet(view, one) for one in asked]
    if output == "json":
        from rulegen.commands.explained import PacketDocument

        first, *others = answers
        print_document(PacketDocument.of(*first, others=[PacketDocument.of(*answer) for answer in others]))
        return
    for number, answer in enumerate(answers):
        if number:
            echo("")
        _print_answer(answer)


def _explain_request(source: str, url: str, options: Mapping[str, Any], output: str, *, live: bool) -> None:
    """Through nginx, and from there to the Service's endpoints."""
    from rulegen.ingress.explain import headline, lines
    from rulegen.ingress.requests import parse_url
    from rulegen.kube.objects import Ingress, IngressClass, Secret, Service

    request = parse_url(url)
    # Of a cluster, who may not read Secrets can still ask about what needs none.
    kinds = [Ingress, IngressClass, Service, *([Secret] if request.is_tls or options["files"] else ())]
    view = look(options, live=live, more=kinds)
    explanation, packets = answer_request(view, source, request)
    if output == "json":
        from rulegen.commands.explained import PacketDocument, RequestDocument

        print_document(RequestDocument.with_packets(explanation, [PacketDocument.of(*one) for one in packets]))
        return
    echo(headline(explanation), bold=True)
    for line, is_good in lines(explanation):
        echo(line, **({} if is_good is None else {"fg": "green" if is_good else "red"}))
    for answer in packets:
        echo("")
        _print_answer(answer)


def _print_answer(answer: Answer) -> None:
    from rulegen.services.explain import text

    print_toned(text.packet_lines(answer.explanation))
    if answer.policies:
        from rulegen.policies.explain import lines

        for each in answer.policies:
            print_toned(lines(each))
    for leaving in answer.egress or ():
        from rulegen.egress.explain import line as egress_line

        echo(egress_line(leaving))
    print_toned(text.reason_lines(answer.explanation))
