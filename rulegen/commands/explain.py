"""`rulegen explain`: what becomes of a Service or of a packet, in words or as a document. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands.answering import Answer, answer_packet
from rulegen.commands.command import Command
from rulegen.commands.completing import complete_services
from rulegen.commands.options import OUTPUT, input_options, target_options
from rulegen.commands.output import echo, fail, print_document
from rulegen.commands.viewing import Sight, look

if TYPE_CHECKING:
    from rulegen.services.explain.asking import Asked
    from rulegen.services.explain.text import TextLine


@click.command(cls=Command)
@click.argument("service", required=False, metavar="[NAMESPACE/NAME[:PORT]]", shell_complete=complete_services)
@input_options
@target_options
@click.option(
    "--from", "source", metavar="SOURCE", help="Where a packet comes from: an address, a pod, or node [default]."
)
@click.option(
    "--to",
    "destination",
    metavar="DESTINATION",
    help="Where it goes: ADDRESS:PORT/tcp, ADDRESS/icmp, NAMESPACE/SERVICE:PORT, NAMESPACE/POD:PORT, svc/NAME, ...",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="ADDRESS",
    help="An address that the node has besides those of its Node object. Repeatable.",
)
@click.option("--interface", metavar="NAME", help="The interface that it arrives by, where pods are told by that.")
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
      rulegen explain default/web -f cluster.yaml --target iptables --live
      rulegen explain -f cluster.yaml --feature network-policies --from default/web-1 --to shop/db-0:5432
    """
    from rulegen.services.explain import asking, text
    from rulegen.services.explain import service as services
    from rulegen.services.names import THIS_NODE

    source, interface, addresses = options["source"], options["interface"], options["addresses"]
    is_packet = destination is not None
    if (service is None) is not is_packet or (not is_packet and (source or interface or addresses)):
        fail("name either a Service, as NAMESPACE/NAME, or a packet with --to (and --from, --interface, --address)")
    if destination is not None:
        own = asking.parse_addresses(addresses)
        view = look(options, live=live)
        asked = asking.ask(view.services, source or THIS_NODE, destination, interface or "", own)
        _explain_packets(view, asked, output)
        return
    wanted = services.parse_service_name(service or "")
    explanation = services.explain_service(look(options, live=live).services, wanted)
    if output == "json":
        print_document(explanation)
    else:
        _print_lines(text.service_lines(explanation))


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


def _print_answer(answer: Answer) -> None:
    from rulegen.services.explain import text

    _print_lines(text.packet_lines(answer.explanation))
    if answer.policies:
        from rulegen.policies.explain import lines

        for line, passes in (line for each in answer.policies for line in lines(each)):
            echo(line, **({} if passes is None else {"fg": "green" if passes else "red"}))
    for leaving in answer.egress or ():
        from rulegen.egress.explain import line as egress_line

        echo(egress_line(leaving))
    _print_lines(text.reason_lines(answer.explanation))


def _print_lines(lines: Iterable[TextLine]) -> None:
    from rulegen.services.explain.text import Tone

    styles: Mapping[Tone, dict[str, Any]] = {
        Tone.TITLE: {"bold": True},
        Tone.HEADING: {"fg": "cyan"},
        Tone.GOOD: {"fg": "green"},
        Tone.BAD: {"fg": "red"},
    }
    for line in lines:
        echo(line.text, **styles.get(line.tone, {}))
