"""Every flow of every golden scenario goes through a real kernel with its rulesets, those of both targets.

It ends as written down, and as `rulegen explain` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_network
from itertools import islice
from pathlib import Path

import pytest

from rulegen.golden import NODE, Balanced, Flow, Scenario, find_scenarios, read_scenario
from rulegen.networks import host_cidr
from rulegen.services.explain.model import View
from tests.explaining import as_expectation, explain_flow, masqueraded_to, scenario_view, scenario_view_on_iptables
from tests.lab import NODE as LAB_NODE
from tests.lab import UPLINK, Fate, Lab, Outcome, Packet
from tests.lab.fixtures import MakeLab
from tests.lab.statistics import assert_shares, packets_to_see_all
from tests.targets import Ruleset

pytestmark = [pytest.mark.kernel, pytest.mark.part(0)]

FOLDER = Path(__file__).parent.parent / "golden"
FATES = {
    "rejected": Fate.REJECTED,
    "dropped": Fate.DROPPED,
    "passed": Fate.PASSED,
    "masqueraded": Fate.PASSED,
}
MAX_CLIENTS = 64
CONNECTIONS_OF_A_CLIENT = 4
CONNECTIONS_FOR_SHARES = 3000


@pytest.mark.parametrize("ruleset", Ruleset, ids=lambda ruleset: ruleset.value)
@pytest.mark.parametrize("folder", find_scenarios([str(FOLDER)]), ids=lambda folder: folder.name)
def test_the_kernel_agrees(folder: Path, ruleset: Ruleset, make_lab: MakeLab) -> None:
    scenario = read_scenario(folder)
    lab = _node(scenario, make_lab)
    ruleset.load(lab, folder)
    planned = [(flow, list(_packets(flow))) for flow in scenario.flows]
    outcomes = iter(lab.send(packet for _, packets in planned for packet in packets))
    wrong = []
    view = scenario_view(scenario) if ruleset is Ruleset.NFTABLES else scenario_view_on_iptables(scenario)
    for flow, packets in planned:
        found = list(islice(outcomes, len(packets)))
        wrong += [f"{flow}: {problem}" for problem in _problems(flow, packets, found)]
        wrong += [
            f"{flow}: explain is wrong: {problem}"
            for problem in _explained_otherwise(view, scenario, flow, packets, found)
        ]
    assert not wrong, "\n".join(wrong)
    for flow in scenario.flows:
        if isinstance(flow.expect, Balanced) and isinstance(flow.expect.endpoints, dict):
            _check_shares(lab, flow, flow.expect)


def _node(scenario: Scenario, make_lab: MakeLab) -> Lab:
    node = scenario.store.node
    pod_cidrs = (node.spec.pod_cidrs if node and node.spec else None) or ()
    named = {flow.interface for flow in scenario.flows} - {"", UPLINK}
    return make_lab(
        {"pods": pod_cidrs} | dict.fromkeys(named, ()), [host_cidr(address) for address in scenario.addresses]
    )


def _packets(flow: Flow) -> Iterator[Packet]:
    """As many as show all that is expected, and a single one where nothing is left to chance."""
    balanced = isinstance(flow.expect, Balanced)
    count = packets_to_see_all(flow.expect.shares) if isinstance(flow.expect, Balanced) else 1
    if "/" in flow.source:
        clients = [str(address) for address in islice(ip_network(flow.source), MAX_CLIENTS)]
        count = CONNECTIONS_OF_A_CLIENT
    else:
        clients = [LAB_NODE if flow.source == NODE else flow.source]
    for client in clients:
        packet = Packet(client, flow.destination, flow.port, flow.protocol, flow.interface or None)
        yield from [packet] * (count if balanced else 1)


def _explained_otherwise(
    view: View, scenario: Scenario, flow: Flow, packets: list[Packet], outcomes: list[Outcome]
) -> Iterator[str]:
    """How the outcomes are not what `rulegen explain` says of each client's packets."""
    by_client: dict[str, list[tuple[Packet, Outcome]]] = {}
    for packet, outcome in zip(packets, outcomes, strict=True):
        by_client.setdefault(packet.source, []).append((packet, outcome))
    for source, sent in by_client.items():
        client = NODE if source == LAB_NODE else source
        explanation = explain_flow(view, scenario, flow, client)
        expected = as_expectation(explanation, masqueraded_to(scenario, explanation, flow))
        if isinstance(expected, Balanced) and (expected.sticky or "/" in flow.source):
            # One of many clients does not see all endpoints; that it may be any of them is for all together to show.
            reached = {outcome.endpoint for _, outcome in sent}
            masqueraded = reached & expected.masqueraded_endpoints
            if not reached.issubset(expected.endpoints):
                yield f"{source}: {sorted(reached)} is not among {list(expected.endpoints)}"
            expected = Balanced(endpoints=sorted(reached), masqueraded=sorted(masqueraded), sticky=expected.sticky)
        yield from _problems(
            flow._replace(expect=expected), [packet for packet, _ in sent], [outcome for _, outcome in sent]
        )


def _problems(flow: Flow, packets: list[Packet], outcomes: list[Outcome]) -> Iterator[str]:
    if isinstance(flow.expect, Balanced):
        yield from _misplaced(flow.expect, outcomes)
        if flow.expect.sticky:
            yield from _strayed(packets, outcomes)
        return
    for outcome in outcomes:
        if outcome.fate is not FATES[flow.expect] or outcome.masqueraded is not (flow.expect == "masqueraded"):
            yield f"expected {flow.expect}, found {outcome}"


def _misplaced(expect: Balanced, outcomes: list[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.endpoint not in expect.endpoints:
            yield f"expected one of {list(expect.endpoints)}, found {outcome}"
        elif outcome.masqueraded != (outcome.endpoint in expect.masqueraded_endpoints):
            yield f"masqueraded: {outcome.masqueraded}, on the way to {outcome.endpoint}"
    unseen = set(expect.endpoints).difference(outcome.endpoint for outcome in outcomes)
    if unseen:
        yield f"never reached: {sorted(unseen)}"


def _strayed(packets: list[Packet], outcomes: list[Outcome]) -> Iterator[str]:
    reached: dict[str, set[str]] = {}
    for packet, outcome in zip(packets, outcomes, strict=True):
        reached.setdefault(packet.source, set()).add(outcome.endpoint)
    for source, endpoints in reached.items():
        if len(endpoints) > 1:
            yield f"{source} was sent to {sorted(endpoints)}"


def _check_shares(lab: Lab, flow: Flow, expect: Balanced) -> None:
    packet = next(_packets(flow))
    outcomes = lab.send([packet] * CONNECTIONS_FOR_SHARES)
    assert_shares(Counter(outcome.endpoint for outcome in outcomes), expect.shares)
