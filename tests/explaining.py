"""What explain says of a scenario's flows, for tests that compare it with other answers."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Literal

from rulegen.config import Family
from rulegen.follow.iptables import Chains
from rulegen.follow.nftables import CompiledTables
from rulegen.golden import Balanced, Expectation, Flow, Scenario
from rulegen.services.explain.model import PacketExplanation, View
from rulegen.services.explain.packet import NODE, PacketQuestion, explain_packet
from rulegen.services.model import NodeSettings
from rulegen.services.on_iptables.explain import IptablesRuleset
from rulegen.services.on_nftables import compiler as nftables
from rulegen.services.on_nftables.explain import NftablesRuleset
from rulegen.services.simulate import Destination
from tests.iptables.host import compiled_store

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


def as_expectation(explanation: PacketExplanation) -> Expectation:
    """The explanation in the words of flows.yaml. What an endpoint's packet meets on its way is part of its name."""
    if not explanation.deliveries:
        return FATES[explanation.fate]
    names = {
        item.endpoint: item.endpoint + (f" ({item.decision})" if item.decision else "")
        for item in explanation.deliveries
    }
    return Balanced(
        endpoints={names[item.endpoint]: round(item.share * 1_000_000) for item in explanation.deliveries},
        masqueraded=[names[item.endpoint] for item in explanation.deliveries if item.masquerade],
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
