"""`rulegen explain`: what becomes of a Service or of a packet, in words or as a document. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from rulegen.commands.command import Command
from rulegen.commands.completing import complete_services
from rulegen.commands.options import OUTPUT, input_options, pack, target_options
from rulegen.commands.output import echo, fail, print_document, say, say_warning
from rulegen.commands.reading import (
    egress_of,
    findings_of,
    load_manifests,
    make_features,
    policies_of,
    read_settings,
    say_mistakes,
    services_of,
)
from rulegen.commands.targets import driver_of

if TYPE_CHECKING:
    from rulegen.config import NodeConfiguration
    from rulegen.egress.explain import EgressExplanation
    from rulegen.egress.feature import EgressMasquerade
    from rulegen.policies.explain import PolicyExplanation
    from rulegen.policies.feature import NetworkPolicies
    from rulegen.reconcile.driver import Driver
    from rulegen.reconcile.feature import Feature
    from rulegen.services.explain.model import PacketExplanation, Ruleset, View
    from rulegen.services.explain.packet import PacketQuestion
    from rulegen.services.explain.text import TextLine
    from rulegen.services.simulate import Destination


Explanation = TypeVar("Explanation")


@click.command(cls=Command)
@click.argument("service", required=False, metavar="[NAMESPACE/NAME[:PORT]]", shell_complete=complete_services)
@input_options
@target_options
@click.option(
    "--from", "source", metavar="SOURCE", help="Where a packet comes from: an address, a pod, or node [default]."
)
@click.option(
    "--to", "destination", metavar="DESTINATION", help="Where it goes: ADDRESS:PORT/tcp, ADDRESS/icmp, POD:PORT, ..."
)
@click.option("--interface", metavar="NAME", help="The interface that it arrives by, where pods are told by that.")
@click.option("--live", is_flag=True, help="Also say whether the kernel's entries agree (needs root).")
@OUTPUT
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
        fail("name either a Service, as NAMESPACE/NAME, or a packet with --to (and --from, --interface)")
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
    leaving = [] if view.egress is None else list(_egress_explanations(view, view.egress, explanation, question))
    if output == "json":
        from rulegen.commands.explained import PacketDocument

        print_document(
            PacketDocument.of(explanation, None if policies is None else said, None if view.egress is None else leaving)
        )
        return
    _print_explanation(explanation, output, text.packet_lines)
    for one in leaving:
        from rulegen.egress.explain import line as egress_line

        echo(egress_line(one))
    from rulegen.policies.explain import lines

    for line, passes in (line for each in said for line in lines(each)):
        echo(line, **({} if passes is None else {"fg": "green" if passes else "red"}))


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


def _egress_explanations(
    view: _View, egress: EgressMasquerade, explanation: PacketExplanation, question: PacketQuestion
) -> Iterator[EgressExplanation]:
    """Of each place that the packet may be sent on to with the source that it has."""
    from rulegen.egress.explain import explain as explain_egress
    from rulegen.services.node import host_addresses

    kept = [one.endpoint for one in explanation.deliveries if not (one.decision or one.masquerade)]
    destinations = [endpoint.rpartition(":")[0].strip("[]") for endpoint in kept]
    if explanation.fate == "untouched":
        destinations = [question.destination.address]
    yield from explain_egress(egress.store, explanation.source, destinations, host_addresses(view.services.store.node))


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


class _View(NamedTuple):
    """What is explained; `policies`, `egress`: None where they are off."""

    services: View
    policies: NetworkPolicies | None
    egress: EgressMasquerade | None


def _view(options: Mapping[str, Any], live: bool) -> _View:
    """What is explained; findings about the node itself are said here, those about Services where they belong."""
    from rulegen.services.explain.model import View

    source = pack(options)
    configuration = read_settings(source, say_warning)
    manifests = load_manifests(source, configuration)
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
    services = {(item.metadata.namespace, item.metadata.name): item for item in manifests.services}
    services |= {(item.metadata.namespace, item.metadata.name): item for item in manifests.unselected}
    return _View(View(store, node, ruleset, services), policies_of(features), egress_of(features))


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
    return ruleset_of(driver.name, compilers.by_feature[services.name], services.store, node.families, entries)


def _print_explanation(
    explanation: Explanation, output: str, lines: Callable[[Explanation], Iterator[TextLine]]
) -> None:
    from rulegen.services.explain.text import Tone

    if output == "json":
        print_document(explanation)
        return
    styles: Mapping[Tone, dict[str, Any]] = {
        Tone.TITLE: {"bold": True},
        Tone.HEADING: {"fg": "cyan"},
        Tone.GOOD: {"fg": "green"},
        Tone.BAD: {"fg": "red"},
    }
    for line in lines(explanation):
        echo(line.text, **styles.get(line.tone, {}))
