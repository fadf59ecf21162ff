"""What explain says of a scenario's flows, for tests that compare it with other answers."""

from __future__ import annotations

from typing import Literal

from rulegen.explain.model import PacketExplanation, View
from rulegen.explain.packet import PacketQuestion, explain_packet
from rulegen.golden import Balanced, Expectation, Flow, Scenario
from rulegen.nftables.compiler import compile_ruleset
from rulegen.routing.flow import Destination

FATES: dict[str, Literal["rejected", "dropped", "passed"]] = {
    "rejected": "rejected",
    "dropped": "dropped",
    "untouched": "passed",
}


def scenario_view(scenario: Scenario) -> View:
    """A scenario as `rulegen explain` sees it."""
    families = scenario.configuration.families
    nodes = {family: node for family in families if (node := scenario.cluster.node_routing(family)) is not None}
    compiler = compile_ruleset(scenario.cluster.routes(), nodes, scenario.configuration.masquerade_bit)
    return View(scenario.cluster, scenario.configuration, compiler, {})


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
