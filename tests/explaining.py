"""What explain says of a scenario's flows, for tests that compare it with other answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import ip_network
from typing import Any, Literal

from rulegen.config import Family, NodeConfiguration
from rulegen.egress.explain import explain as explain_egress
from rulegen.follow.iptables import Chains
from rulegen.follow.nftables import CompiledTables
from rulegen.golden import Balanced, Expectation, Flow, Scenario
from rulegen.kube.mistakes import Notice
from rulegen.kube.objects import EndpointSlice, Node, Pod, Service
from rulegen.services.explain.asking import ask
from rulegen.services.explain.diagnosis import answer
from rulegen.services.explain.model import PacketExplanation, Ruleset, View
from rulegen.services.explain.packet import NODE, PacketQuestion, explain_packet
from rulegen.services.model import NodeSettings
from rulegen.services.names import Directory
from rulegen.services.on_iptables.explain import IptablesRuleset
from rulegen.services.on_nftables import compiler as nftables
from rulegen.services.on_nftables.explain import NftablesRuleset
from rulegen.services.simulate import Destination
from tests.builders import CONFIGURATION, Item, store
from tests.iptables.host import compiled_store


def directory(*items: Item | Pod) -> Directory:
    """What can be named of objects."""
    return Directory(
        [item for item in items if isinstance(item, Service)],
        [item for item in items if isinstance(item, EndpointSlice)],
        [item for item in items if isinstance(item, Pod)],
        [item for item in items if isinstance(item, Node)],
    )


FATES: dict[str, Literal["rejected", "dropped", "passed"]] = {
    "rejected": "rejected",
    "dropped": "dropped",
    "untouched": "passed",
}


def scenario_view(scenario: Scenario) -> View:
    """A scenario as `rulegen explain` sees it."""
    configuration = scenario.configuration
    compiler = nftables.compile_ruleset(scenario.store.service_ports(), _nodes(scenario), configuration.masquerade_bit)
    ruleset = NftablesRuleset(compiler, configuration.families, CompiledTables([compiler]))
    return View(scenario.store, configuration, ruleset, {})


def scenario_view_on_iptables(scenario: Scenario) -> View:
    """The same with `--target iptables`."""
    store, configuration = scenario.store, scenario.configuration
    compiler = compiled_store(store, configuration).compiler
    follow = Chains(compiler.entries(), ())
    ruleset = IptablesRuleset(compiler, store.service_ports(), configuration.families, follow)
    return View(store, configuration, ruleset, {})


def _nodes(scenario: Scenario) -> dict[Family, NodeSettings]:
    families = scenario.configuration.families
    return {family: node for family in families if (node := scenario.store.node_settings(family)) is not None}


def explain_flow(view: View, scenario: Scenario, flow: Flow, source: str) -> PacketExplanation:
    """One packet of a flow; `source` is an address, or `node`."""
    target = Destination(flow.destination, flow.port, flow.protocol)
    return explain_packet(view, PacketQuestion(source, target, flow.interface, scenario.addresses))


def masqueraded_to(scenario: Scenario, explanation: PacketExplanation, flow: Flow) -> set[str]:
    """The addresses on the way to which egress masquerading, if it is on, replaces the source, as explain says it."""
    egress: Any = next((feature for feature in scenario.features if feature.name == "egress-masquerade"), None)
    if egress is None:
        return set()
    places = [item.endpoint.rpartition(":")[0].strip("[]") for item in explanation.deliveries] or [flow.destination]
    said = explain_egress(egress.store, explanation.source, places, scenario.addresses)
    return {one.destination for one in said if one.masqueraded}


def as_expectation(explanation: PacketExplanation, leaving: Collection[str] = ()) -> Expectation:
    """The explanation in the words of flows.yaml. What an endpoint's packet meets on its way is part of its name.

    `leaving`: the addresses on the way to which another feature masquerades.
    """
    if not explanation.deliveries:
        return "masqueraded" if leaving and explanation.fate == "untouched" else FATES[explanation.fate]
    names = {
        item.endpoint: item.endpoint + (f" ({item.decision})" if item.decision else "")
        for item in explanation.deliveries
    }
    return Balanced(
        endpoints={names[item.endpoint]: round(item.share * 1_000_000) for item in explanation.deliveries},
        masqueraded=[
            names[item.endpoint]
            for item in explanation.deliveries
            if item.masquerade or item.endpoint.rpartition(":")[0].strip("[]") in leaving
        ],
        sticky=explanation.affinity_timeout is not None,
    )


def clients_of(source: str) -> list[str]:
    """The addresses that a flow's source stands for: the first and the last of a range."""
    if source == NODE or "/" not in source:
        return [source]
    network = ip_network(source)
    return [str(network[0]), str(network[-1])]


def comparable(expectation: Expectation) -> object:
    """Equal for expectations whose shares differ by rounding only."""
    if not isinstance(expectation, Balanced):
        return expectation
    shares = {endpoint: round(share, 4) for endpoint, share in expectation.shares.items()}
    return shares, expectation.masqueraded_endpoints, expectation.sticky


def views(
    *items: Item | Pod, configuration: NodeConfiguration = CONFIGURATION, notices: Sequence[Notice] = ()
) -> list[View]:
    """The objects as both targets explain them, nftables first."""
    made = store(*(item for item in items if not isinstance(item, Pod)), configuration=configuration)
    families = configuration.families
    settings = {family: found for family in families if (found := made.node_settings(family))}
    known = directory(*items)
    compiler = nftables.compile_ruleset(made.service_ports(), settings, configuration.masquerade_bit)
    chains = compiled_store(made, configuration).compiler
    rulesets: list[Ruleset] = [
        NftablesRuleset(compiler, families, CompiledTables([compiler])),
        IptablesRuleset(chains, made.service_ports(), families, Chains(chains.entries(), ())),
    ]
    return [View(made, configuration, ruleset, known.services, known, notices) for ruleset in rulesets]


def answers(view: View, source: str, destination: str, addresses: Sequence[str] = ()) -> list[PacketExplanation]:
    """What is answered where these are the options --from, --to and --address, one for each family."""
    return [answer(view, asked) for asked in ask(view, source, destination, addresses=addresses)]
