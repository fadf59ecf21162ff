"""`rulegen explain`: what becomes of a Service or of a packet, in words or as a document. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from rulegen.commands.command import Command
from rulegen.commands.completing import complete_services
from rulegen.commands.options import OUTPUT, input_options, pack, target_options
from rulegen.commands.output import echo, fail, print_document, say
from rulegen.commands.reading import (
    directory_of,
    findings_of,
    make_features,
    policies_of,
    read_objects,
    say_mistakes,
    services_of,
)
from rulegen.commands.targets import driver_of

if TYPE_CHECKING:
    from rulegen.config import NodeConfiguration
    from rulegen.policies.explain import PolicyExplanation
    from rulegen.policies.feature import NetworkPolicies
    from rulegen.reconcile.driver import Driver
    from rulegen.reconcile.feature import Feature
    from rulegen.services.explain.asking import Asked
    from rulegen.services.explain.model import PacketExplanation, Ruleset, View
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
@click.option("--live", is_flag=True, help="Also say whether the kernel's entries agree (needs root).")
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
        view = _view(options, live)
        asked = asking.ask(view.services, source or THIS_NODE, destination, interface or "", own)
        _explain_packets(view, asked, output)
        return
    wanted = services.parse_service_name(service or "")
    explanation = services.explain_service(_view(options, live).services, wanted)
    if output == "json":
        print_document(explanation)
    else:
        _print_lines(text.service_lines(explanation))


class _Answer(NamedTuple):
    """What becomes of a packet; `policies`: what they say of it, None where they are off."""

    explanation: PacketExplanation
    policies: list[PolicyExplanation] | None


def _explain_packets(view: _View, asked: Sequence[Asked], output: str) -> None:
    """One packet for each family; as a document the first one has the others."""
    answers = [_answer(view, one) for one in asked]
    if output == "json":
        from rulegen.commands.explained import PacketDocument

        first, *others = answers
        print_document(PacketDocument.of(*first, others=[PacketDocument.of(*answer) for answer in others]))
        return
    for number, answer in enumerate(answers):
        if number:
            echo("")
        _print_answer(answer)


def _answer(view: _View, asked: Asked) -> _Answer:
    from msgspec.structs import replace

    from rulegen.services.explain import diagnosis

    explanation = diagnosis.answer(view.services, asked)
    if view.policies is None:
        return _Answer(explanation, None)
    from rulegen.policies.explain import denials as policy_denials
    from rulegen.services.explain.model import Cause, Why

    targets = _targets(explanation, asked)
    said = list(_policy_explanations(view.policies, explanation.source, asked.target.protocol, targets))
    denials = [
        Why(Cause.POLICY, message, (remedy,) if remedy else ())
        for one in said
        for message, remedy in policy_denials(one)
    ]
    return _Answer(replace(explanation, why=(*denials, *explanation.why)), said)


def _print_answer(answer: _Answer) -> None:
    from rulegen.services.explain import text

    _print_lines(text.packet_lines(answer.explanation))
    if answer.policies:
        from rulegen.policies.explain import lines

        for line, passes in (line for each in answer.policies for line in lines(each)):
            echo(line, **({} if passes is None else {"fg": "green" if passes else "red"}))
    _print_lines(text.reason_lines(answer.explanation))


def _targets(explanation: PacketExplanation, asked: Asked) -> list[tuple[str, int]]:
    """Where the packet may be sent on to; nowhere where it is refused before policies are asked."""
    endpoints = [delivery.endpoint.rpartition(":") for delivery in explanation.deliveries if not delivery.decision]
    targets = [(address.strip("[]"), int(port)) for address, _, port in endpoints]
    if not targets and not explanation.frontend and asked.question is not None:
        targets = [(asked.question.destination.address, asked.question.destination.port)]
    return targets


def _policy_explanations(
    policies: NetworkPolicies, source: str, protocol: str, targets: Iterable[tuple[str, int]]
) -> Iterator[PolicyExplanation]:
    """What policies say of the packet at each endpoint."""
    from rulegen.policies.explain import explain as explain_policies

    for address, port in targets:
        said = explain_policies(policies.store, source, address, protocol, port)
        if said is not None:
            yield said


class _View(NamedTuple):
    """What is explained; `policies`: None where they are off."""

    services: View
    policies: NetworkPolicies | None


def _view(options: Mapping[str, Any], live: bool) -> _View:
    """What is explained; findings about the node itself are said here, those about Services where they belong."""
    from rulegen.kube.objects import Pod
    from rulegen.services.explain.model import View

    source = pack(options)
    manifests, configuration = read_objects(source, named=[Pod])
    node = configuration.node
    if live:
        from rulegen.configuration_file import for_families
        from rulegen.interfaces import host_families

        node = for_families(node, host_families())
    features = make_features(manifests.objects(), configuration, node)
    store = services_of(features).store
    say_mistakes(manifests)
    ruleset = _ruleset(driver_of(configuration, options), features, node, live=live)
    for finding in findings_of(features):
        if finding.reference.kind == "Node":
            say(f"warning: {finding.subject}: {finding.message}")
    directory = directory_of(source, configuration, manifests)
    view = View(store, node, ruleset, directory.services, directory, manifests.mistakes())
    return _View(view, policies_of(features))


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
    services = services_of(features)
    return ruleset_of(driver.name, compilers, services.store, node.families, entries)


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
