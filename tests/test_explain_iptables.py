"""rulegen explain --target iptables: agrees with every golden flow and with made-up ones, names chains, sees damage."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from rulegen.cli import main
from rulegen.config import DetectLocalMode, Family, NodeConfiguration
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.follow.iptables import Chains
from rulegen.follow.model import Ending, Sent
from rulegen.golden import find_scenarios, read_scenario
from rulegen.iptables.binaries import Variant
from rulegen.iptables.chains import FILTER, MANGLE, NAT, Entries, EntryKey
from rulegen.iptables.rules import parse_rule
from rulegen.kube.manifests import load
from rulegen.netfilter.machine import Fate as RuleFate
from rulegen.services.explain.asking import ask
from rulegen.services.explain.diagnosis import answer
from rulegen.services.explain.model import Entry, PacketExplanation, ServiceExplanation, View
from rulegen.services.explain.service import explain_service, parse_service_name
from rulegen.services.explain.text import packet_lines, service_lines
from rulegen.services.model import SERVICE, NodeSettings
from rulegen.services.on_iptables.annotate import AnnotatedChain, place
from rulegen.services.on_iptables.dispatch_trees import DispatchTree
from rulegen.services.on_iptables.explain import IptablesRuleset
from rulegen.services.on_iptables.lists import LIST_SIZE
from rulegen.services.on_iptables.names import is_of_service
from rulegen.services.simulate import Fate, FrontendIndex, Origin, Outcome, Packet, simulate
from tests.builders import CONFIGURATION, Item, endpoint, endpoint_slice, node, port, service, service_cidr, store
from tests.explaining import (
    as_expectation,
    clients_of,
    comparable,
    directory,
    explain_flow,
    masqueraded_to,
    scenario_view_on_iptables,
)
from tests.iptables.host import Host, compiled
from tests.nftables.clusters import clusters

FOLDER = Path(__file__).parent.parent / "golden"
BACKENDS = [endpoint("10.244.1.1", "node-1"), endpoint("10.244.2.1", "node-2")]
POD, CLIENT = "10.244.1.9", "203.0.113.7"
FATES = {
    RuleFate.REJECTED: Fate.REJECTED,
    RuleFate.DROPPED: Fate.DROPPED,
    RuleFate.PASSED: Fate.UNTOUCHED,
    RuleFate.TRANSLATED: Fate.UNTOUCHED,
}
ROOTS = {tree.root for tree in DispatchTree}


def view(*items: Item, configuration: NodeConfiguration = CONFIGURATION, live: Entries | None = None) -> View:
    items = (node(), *items)
    made = store(*items, configuration=configuration)
    compiler = compiled(items, configuration).compiler
    follow = Chains(compiler.entries(), ())
    kernel = None if live is None else Chains(live, ())
    ruleset = IptablesRuleset(compiler, made.service_ports(), configuration.families, follow, kernel)
    known = directory(*items)
    return View(made, configuration, ruleset, known.services, known)


def explained(*items: Item, name: str = "default/web", **named: Any) -> ServiceExplanation:
    return explain_service(view(*items, **named), parse_service_name(name))


def packet(source: str, destination: str, *items: Item, interface: str = "", **named: Any) -> PacketExplanation:
    made = view(*items, **named)
    (asked,) = ask(made, source, destination, interface)
    return answer(made, asked)


def entries_of(made: View) -> Entries:
    assert isinstance(made.ruleset, IptablesRuleset)
    return made.ruleset.compiler.entries()


def chains(entries: tuple[Entry, ...]) -> list[AnnotatedChain]:
    found = [entry for entry in entries if isinstance(entry, AnnotatedChain)]
    assert len(found) == len(entries)
    return found


def meanings(entries: tuple[Entry, ...]) -> list[str]:
    return [rule.meaning for chain in chains(entries) for rule in chain.rules]


# ---- golden flows ----


@pytest.mark.parametrize("folder", find_scenarios([str(FOLDER)]), ids=lambda folder: folder.name)
def test_the_chains_lead_where_every_golden_flow_goes(folder: Path) -> None:
    scenario = read_scenario(folder)
    made = scenario_view_on_iptables(scenario)
    entries = entries_of(made)
    follow = Chains(entries, ())
    for flow in scenario.flows:
        for source in clients_of(flow.source):
            explanation = explain_flow(made, scenario, flow, source)
            assert comparable(as_expectation(explanation, masqueraded_to(scenario, explanation, flow))) == comparable(
                flow.expect
            ), str(flow)
            _check_entries(explanation, entries)
            sent = Packet(explanation.source, flow.destination, flow.port, flow.protocol, flow.interface)
            if explanation.origin:
                _check_packet(made, follow, scenario.addresses, sent)


def _check_entries(explanation: PacketExplanation, entries: Entries) -> None:
    """Chains and rules are there as they are told, and say what becomes of the packet."""
    assert list(packet_lines(explanation))
    assert not explanation.otherwise
    if explanation.fate == "untouched":
        assert not explanation.chains
        assert not explanation.entries
        return
    rules = {place(key): rules for key, rules in entries.items()}
    for chain in chains(explanation.entries):
        name = f"{chain.table} {chain.chain}"
        assert name in explanation.chains
        assert [rule.rule for rule in chain.rules if rule.rule not in rules[name]] == []
        assert all(rule.meaning for rule in chain.rules), chain
    words = meanings(explanation.entries)
    for delivery in explanation.deliveries:
        assert any(f"to {delivery.endpoint}" in word for word in words), delivery.endpoint
        assert delivery.probability == pytest.approx(delivery.share, abs=1e-9)
    if explanation.fate in {"rejected", "dropped"}:
        assert any(f": {explanation.fate} (SVC-" in word for word in words)


def _check_packet(made: View, follow: Chains, addresses: tuple[str, ...], sent: Packet) -> None:
    """What the rules do is what the Frontends say."""
    family = Family.IPV6 if ":" in sent.destination else Family.IPV4
    settings = made.store.node_settings(family)
    assert settings is not None
    outcome = _followed(made, settings, addresses, sent)
    asked = Sent(family, *sent, addresses, is_sent=outcome.origin is Origin.NODE)
    _check_endings(outcome, follow(asked).endings)


def _followed(made: View, settings: NodeSettings, addresses: tuple[str, ...], sent: Packet) -> Outcome:
    index = FrontendIndex(
        service_port for service_port in made.store.service_ports() if service_port.family is settings.family
    )
    return simulate(index, settings, addresses, sent)


def _check_endings(outcome: Outcome, endings: tuple[Ending, ...]) -> None:
    assert sum(ending.share for ending in endings) == 1
    if outcome.fate is not Fate.BALANCED:
        (ending,) = endings
        assert (ending.endpoint, ending.masqueraded, FATES[ending.fate]) == ("", None, outcome.fate), outcome
        return
    found = {ending.endpoint: ending for ending in endings}
    assert len(found) == len(endings)
    assert found.keys() == {str(delivery.backend) for delivery in outcome.deliveries}
    for delivery in outcome.deliveries:
        ending = found[str(delivery.backend)]
        assert float(ending.share) == pytest.approx(delivery.probability, abs=1e-9)
        assert FATES[ending.fate] is delivery.decision.fate
        arrives = delivery.decision.fate is Fate.UNTOUCHED
        assert (ending.masqueraded is not None) is (delivery.masquerade and arrives), (outcome, ending)


# ---- packets and clusters that nobody thought of ----

CONFIGURATIONS = [
    CONFIGURATION,
    replace(CONFIGURATION, masquerade_all=True),
    replace(CONFIGURATION, cluster_cidrs=()),
    replace(CONFIGURATION, detect_local_mode=DetectLocalMode.BRIDGE_INTERFACE, detect_local_interface="cni0"),
    replace(CONFIGURATION, detect_local_mode=DetectLocalMode.INTERFACE_NAME_PREFIX, detect_local_interface="veth"),
]
SOURCES = {
    Family.IPV4: [POD, CLIENT, "10.128.0.1", "10.128.0.2", "192.168.1.10", "127.0.0.1", "198.51.100.7", "203.0.113.80"],
    Family.IPV6: ["fd00:10:244::9", "2001:db8::7", "fd00:10:128::1", "fd00:1::10", "::1", "2001:db8::80"],
}
DESTINATIONS = {
    Family.IPV4: [
        *(f"10.96.0.{number}" for number in (10, 11, 12, 13, 99)),
        *("203.0.113.80", "203.0.113.81", "198.51.100.1", "192.168.1.10", "127.0.0.1", "10.128.0.1", "192.0.2.77"),
    ],
    Family.IPV6: [
        *(f"fd00:10:96::{number}" for number in (10, 11, 12, 13, 99)),
        *("2001:db8::80", "2001:db8:1::1", "fd00:1::10", "::1", "fd00:10:128::1"),
    ],
}
ADDRESSES = ("192.168.1.10", "fd00:1::10")


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    family = draw(st.sampled_from(Family))
    number, protocol = draw(st.sampled_from([(80, "TCP"), (53, "UDP"), (9, "SCTP"), (443, "TCP"), (0, "ICMP")]))
    if number and draw(st.booleans()):
        number += 30000 + draw(st.integers(0, 1))
    return Packet(
        draw(st.sampled_from(SOURCES[family])),
        draw(st.sampled_from(DESTINATIONS[family])),
        number,
        protocol,
        draw(st.sampled_from(["", "cni0", "veth1"])),
    )


@given(clusters(), st.lists(packets(), min_size=20, max_size=40), st.sampled_from(CONFIGURATIONS))
@settings(deadline=None)
def test_the_chains_lead_where_routing_says(
    items: list[Item], sent: list[Packet], configuration: NodeConfiguration
) -> None:
    made = view(*items, configuration=configuration)
    follow = Chains(entries_of(made), ())
    for one in sent:
        _check_packet(made, follow, ADDRESSES, one)


@given(clusters())
@settings(deadline=None)
def test_every_rule_has_a_meaning_and_can_be_followed(items: list[Item]) -> None:
    made = view(*items)
    names = [f"{namespace}/{name}" for namespace, name in made.services]
    for name in names:
        explanation = explain_service(made, parse_service_name(name))
        assert list(service_lines(explanation))
        for explained_port in explanation.ports:
            assert all(meanings(explained_port.entries)), explained_port
    known = {"-s", "-d", "-p", "--dport", "-i", "--src-type", "--dst-type", "--ctstate", "--mark", "--bytecode"}
    known |= {"--mode", "--probability", "--update", "--set", "--comment", "-j", "-g"}
    parameters = {"--to-destination", "--set-xmark", "--reject-with", "--random-fully"}
    parameters |= {"--seconds", "--reap", "--name", "--mask", "--rsource"}
    used = {option for rules in entries_of(made).values() for rule in rules for option in parse_rule(rule).options}
    assert used <= known | parameters


# ---- Services ----


@pytest.mark.parametrize("folder", find_scenarios([str(FOLDER)]), ids=lambda folder: folder.name)
def test_every_rule_of_a_scenario_belongs_to_a_service(folder: Path) -> None:
    manifests = load([str(folder / "cluster.yaml")], None)
    services = {
        (item.metadata.namespace, item.metadata.name): item for item in (*manifests.services, *manifests.unselected)
    }
    made = scenario_view_on_iptables(read_scenario(folder))._replace(services=services)
    shown = {
        f"{chain.table} {chain.chain} {rule.rule}"
        for namespace, name in services
        for explained_port in explain_service(made, parse_service_name(f"{namespace}/{name}")).ports
        for chain in chains(explained_port.entries)
        for rule in chain.rules
    }
    generated = {
        f"{place(key)} {rule}"
        for key, rules in entries_of(made).items()
        for rule in rules
        if is_of_service(key.chain) or key.chain in ROOTS
    }
    # What belongs to service-ports of other objects than Services is explained by a packet alone.
    others = [service_port for service_port in made.store.service_ports() if service_port.name.kind != SERVICE]
    for service_port in others:
        found = chains(made.ruleset.service_port_entries((service_port.name, service_port.family)))
        generated -= {f"{chain.table} {chain.chain} {rule.rule}" for chain in found for rule in chain.rules}
    assert generated - shown == set()


def test_of_a_tree_only_the_way_to_the_service_is_shown() -> None:
    items: list[Item] = []
    for number in range(200):
        name = f"svc-{number}"
        items.append(service(name, [f"10.96.{number // 100}.{number % 100 + 1}"], [port(node_port=30000 + number)]))
        items.append(endpoint_slice(BACKENDS, service_name=name, name=f"{name}-1"))
    (found,) = explained(*items, name="default/svc-77").ports
    shown = chains(found.entries)
    entries = {place(key): rules for key, rules in compiled([node(), *items]).entries().items()}
    assert any(len(entries[f"{chain.table} {chain.chain}"]) > 10 for chain in shown)
    in_trees = [chain for chain in shown if chain.chain in ROOTS or chain.chain[:10] in {"RULEGEN-V-", "RULEGEN-P-"}]
    assert [len(chain.rules) for chain in in_trees] == [1] * len(in_trees)
    names = [chain.chain for chain in shown]
    assert any(name.startswith("RULEGEN-V-") for name in names)
    assert any(name.startswith("RULEGEN-P-") for name in names)
    assert any("svc-77" in rule.rule for chain in shown for rule in chain.rules)
    assert not any("svc-78" in rule.rule for chain in shown for rule in chain.rules)


def test_chains_come_in_the_order_of_the_packet() -> None:
    web = service(kind="LoadBalancer", vips=["192.0.2.1"], ranges=["198.51.100.0/24"], external="Local")
    (found,) = explained(web, endpoint_slice(BACKENDS)).ports
    shown = chains(found.entries)
    assert list(dict.fromkeys(chain.table for chain in shown)) == ["ip mangle", "ip nat", "ip filter"]
    kinds = [chain.chain.split("-")[1] for chain in shown if is_of_service(chain.chain)]
    assert kinds == ["SRC", "SVC", "EXT", "SVL"]
    assert [chain.meaning for chain in shown if is_of_service(chain.chain)] == [
        "the sources that may reach a VIP",
        "the Cluster list",
        "external frontends",
        "the Local list",
    ]


def test_weights_are_exact_and_there_are_no_slots() -> None:
    web = service(annotations={"rulegen.io/weights": "10.244.1.1=65535,*=3"})
    explanation = explained(web, endpoint_slice(BACKENDS))
    (found,) = explanation.ports
    cluster_list, _ = found.lists
    assert cluster_list.slots is UNSET
    assert [member.weight for member in cluster_list.members] == [65535, 3]
    for member in cluster_list.members:
        assert member.slots is UNSET
        assert member.probability == pytest.approx(member.share, abs=1e-9)
    assert cluster_list.rounding_error < 0.001
    text = "\n".join(line.text for line in service_lines(explanation))
    assert "slot" not in text
    assert "rounded" not in text


@pytest.mark.parametrize("count", [2, LIST_SIZE, LIST_SIZE + 1, 1000])
def test_the_smallest_share_there_can_be(count: int) -> None:
    addresses = [f"10.244.{number // 250}.{number % 250 + 1}" for number in range(count)]
    web = service(annotations={"rulegen.io/weights": "10.244.0.1=1,*=65535"})
    (found,) = explained(web, endpoint_slice([endpoint(address) for address in addresses])).ports
    members = found.lists[0].members
    assert sum(member.probability for member in members) == pytest.approx(1)
    assert max(abs(member.probability - member.share) for member in members) < 1e-9
    assert found.lists[0].rounding_error < 0.001


def test_many_endpoints_in_chains_below_the_list() -> None:
    addresses = [f"10.244.3.{number + 1}" for number in range(LIST_SIZE * 3)]
    items: list[Item] = [service(), endpoint_slice([endpoint(address) for address in addresses])]
    found = packet(CLIENT, "10.96.0.10:80/tcp", *items)
    assert len(found.deliveries) == len(addresses)
    assert all(item.probability == pytest.approx(1 / len(addresses), abs=1e-9) for item in found.deliveries)
    assert any("RULEGEN-LB-" in chain for chain in found.chains)
    (in_service,) = explained(*items).ports
    for delivery in found.deliveries:
        assert any(word.endswith(f"to {delivery.endpoint}") for word in meanings(in_service.entries))


def test_session_affinity_says_what_it_cannot() -> None:
    web = service(affinity=60, annotations={"rulegen.io/weights": "10.244.2.1=0"})
    items: list[Item] = [web, endpoint_slice(BACKENDS)]
    (found,) = explained(*items).ports
    assert any("100 clients of each endpoint" in note for note in found.notes)
    assert "clients remembered less than 60 s ago: back to 10.244.2.1:8080 (SVC-57)" in meanings(found.entries)
    assert "100 % to 10.244.1.1:8080, and remembered" in meanings(found.entries)
    balanced = packet(CLIENT, "10.96.0.10:80/tcp", *items)
    assert any("100 clients" in note for note in balanced.notes)
    assert [item.endpoint for item in balanced.deliveries] == ["10.244.1.1:8080"]
    assert not any("100 clients" in note for note in explained(service(), endpoint_slice(BACKENDS)).ports[0].notes)


# ---- packets ----

EXAMPLE: list[Item] = [
    service(
        kind="LoadBalancer",
        vips=["192.0.2.1"],
        ranges=["198.51.100.0/24"],
        external="Local",
        ports=[port(node_port=30080)],
    ),
    endpoint_slice(BACKENDS),
    service("empty", ["10.96.0.20"], kind="NodePort", ports=[port(node_port=30081)]),
    service_cidr("10.96.0.0/16"),
]


def short(names: tuple[str, ...]) -> str:
    """Chains without what is alike in all, and without digests."""
    found = []
    for name in names:
        _, table, chain = name.split(" ")
        chain = chain.removeprefix("RULEGEN-")
        found.append(f"{table[0]}:{chain.split('-')[0] if is_of_service(f'RULEGEN-{chain}') else chain}")
    return " ".join(found)


@pytest.mark.parametrize(
    ("source", "destination", "fate", "passed"),
    [
        (CLIENT, "192.0.2.1:80/tcp", "dropped", "m:PREROUTING m:FIREWALL m:SRC"),
        (
            "198.51.100.7",
            "192.0.2.1:80/tcp",
            "balanced",
            "m:PREROUTING m:FIREWALL m:SRC n:PREROUTING n:SERVICES n:VIPS n:EXT n:SVL",
        ),
        (POD, "10.96.0.10:80/tcp", "balanced", "n:PREROUTING n:SERVICES n:VIPS n:SVC"),
        (
            CLIENT,
            "10.96.0.10:80/tcp",
            "balanced",
            "n:PREROUTING n:SERVICES n:VIPS n:SVC n:POSTROUTING n:POSTROUTING n:MASQUERADE",
        ),
        (
            "node",
            "192.168.1.10:30080/tcp",
            "balanced",
            "n:OUTPUT n:SERVICES n:VIPS n:NODE n:NODEPORTS n:EXT n:SVC n:POSTROUTING n:POSTROUTING n:MASQUERADE",
        ),
        (
            "10.244.1.1",
            "10.96.0.10:80/tcp",
            "balanced",
            "n:PREROUTING n:SERVICES n:VIPS n:SVC n:POSTROUTING n:POSTROUTING",
        ),
        (POD, "10.96.0.10:81/tcp", "rejected", "f:FORWARD f:FORWARD f:NO-ENDPOINTS f:CLUSTER-IPS"),
        (POD, "10.96.0.10/icmp", "rejected", "f:FORWARD f:FORWARD f:NO-ENDPOINTS f:CLUSTER-IPS"),
        (POD, "10.96.0.99:80/udp", "dropped", "f:FORWARD f:FORWARD f:NO-ENDPOINTS f:CLUSTER-IPS"),
        ("node", "10.96.0.20:80/tcp", "rejected", "f:OUTPUT f:FORWARD f:NO-ENDPOINTS"),
        (POD, "192.168.1.10:30081/tcp", "rejected", "f:INPUT f:INPUT f:NODE f:NODEPORTS"),
        (POD, "192.0.2.77:80/tcp", "untouched", ""),
    ],
)
def test_the_chains_that_a_packet_passes(source: str, destination: str, fate: str, passed: str) -> None:
    found = packet(source, destination, *EXAMPLE)
    assert (found.fate, short(found.chains)) == (fate, passed)
    text = "\n".join(line.text for line in packet_lines(found))
    assert all(chain.split(" ")[2] in text for chain in found.chains)


def test_nobody_on_this_node() -> None:
    """Policy Local: the nat table leaves the packet alone, the filter table drops it (SVC-37, SVC-38)."""
    web = service(kind="NodePort", external="Local", ports=[port(node_port=30080)])
    found = packet(CLIENT, "192.168.1.10:30080/tcp", web, endpoint_slice(BACKENDS[1:]))
    assert found.fate == "dropped"
    words = meanings(found.entries)
    assert "no endpoint: left to the verdict in filter (SVC-37, SVC-38)" in words
    assert "to port 30080/tcp: no endpoint on this node: dropped (SVC-37)" in words


def test_a_family_that_the_node_does_not_have() -> None:
    only_ipv4 = replace(CONFIGURATION, families=(Family.IPV4,))
    found = packet("node", "[fd00::10]:80/tcp", configuration=only_ipv4, live={})
    assert (found.fate, found.reasons) == ("untouched", ("this node has no rules for IPv6",))
    assert found.live is not None
    assert found.live.agrees


# ---- live chains ----

LIVE_ITEMS: list[Item] = [
    service(affinity=60, kind="LoadBalancer", vips=["192.0.2.1"], ranges=["198.51.100.0/24"]),
    endpoint_slice(BACKENDS),
    service("other", ["10.96.0.11"]),
    endpoint_slice(BACKENDS, service_name="other", name="other-1"),
]
TO_OTHER = "10.96.0.11:80/tcp"


def live_entries() -> Entries:
    return dict(compiled([node(), *LIVE_ITEMS]).entries())


def key_of(entries: Entries, table: str, start: str, comment: str) -> EntryKey:
    """The chain of a Service."""
    return next(
        key
        for key, rules in entries.items()
        if (key.family, key.table) == (Family.IPV4, table)
        and key.chain.startswith(f"RULEGEN-{start}")
        and any(f'"{comment}"' in rule for rule in rules)
    )


def differences(live: Entries, name: str = "default/web", items: list[Item] = LIVE_ITEMS) -> tuple[str, ...]:
    agreement = explained(*items, name=name, live=live).live
    assert agreement is not None
    assert agreement.agrees is not bool(agreement.differences)
    return agreement.differences


def packet_differences(live: Entries, destination: str, items: list[Item] = LIVE_ITEMS) -> tuple[str, ...]:
    agreement = packet(CLIENT, destination, *items, live=live).live
    assert agreement is not None
    return agreement.differences


def test_what_the_kernel_should_hold() -> None:
    live = live_entries()
    assert not differences(live)
    assert not differences(live, "default/other")
    assert not packet_differences(live, TO_OTHER)


def test_nothing_is_loaded() -> None:
    assert any(line.startswith("+ ip nat RULEGEN-SVC-") for line in differences({}))
    assert any(line.startswith("+ ip nat PREROUTING") for line in packet_differences({}, TO_OTHER))


@pytest.mark.parametrize(
    ("table", "start"), [(MANGLE, "FIREWALL"), (MANGLE, "SRC-"), (NAT, "VIPS"), (NAT, "SVC-"), (NAT, "EXT-")]
)
def test_a_rule_of_the_service_is_missing(table: str, start: str) -> None:
    live = live_entries()
    key = key_of(live, table, start, "default/web")
    live[key] = tuple(rule for rule in live[key] if "default/web" not in rule)
    (difference,) = differences(live)
    assert difference.startswith(f"~ ip {table} {key.chain}")
    assert "    + " in difference
    assert "other" not in difference
    assert not differences(live, "default/other")


def test_another_services_rule_is_missing() -> None:
    live = live_entries()
    key = key_of(live, NAT, "VIPS", "default/other")
    live[key] = tuple(rule for rule in live[key] if "default/other" not in rule)
    assert not differences(live)
    assert differences(live, "default/other")
    assert packet_differences(live, TO_OTHER)


def test_a_rule_too_many_and_one_that_is_wrong() -> None:
    live = live_entries()
    roots = EntryKey(Family.IPV4, NAT, "RULEGEN-VIPS")
    live[roots] = ("-j RETURN", *live[roots])
    assert [line.split("\n")[1:] for line in differences(live)] == [["    - -j RETURN"]]
    live = live_entries()
    fixed = EntryKey(Family.IPV4, FILTER, "RULEGEN-FORWARD")
    live[fixed] = live[fixed][:1]
    for name in ("default/web", "default/other"):
        assert [line.split("\n")[0] for line in differences(live, name)] == ["~ ip filter RULEGEN-FORWARD"]
    live = live_entries()
    hook = EntryKey(Family.IPV4, NAT, "PREROUTING")
    del live[hook]
    assert [line.split("\n")[0] for line in packet_differences(live, TO_OTHER)] == ["+ ip nat PREROUTING"]
    live = live_entries()
    list_ = key_of(live, NAT, "SVC-", "default/web")
    live[list_] = (*live[list_][:-1], live[list_][-1].replace("10.244.2.1", "10.244.2.9"))
    assert any("10.244.2.9" in line for line in differences(live))


def test_what_nobody_owns_any_more() -> None:
    live, left = live_entries(), LIVE_ITEMS[:2]
    assert any(line.startswith("~ ip nat RULEGEN-VIPS") for line in packet_differences(live, TO_OTHER, left))
    headless = [*left, service("other", ["None"])]
    found = differences(live, "default/other", headless)
    assert any(line.startswith("- ip nat RULEGEN-SVC-") for line in found)
    assert any(line.startswith("~ ip nat RULEGEN-VIPS") for line in found)
    assert not differences(live, "default/web", headless)


def test_other_wordings_are_no_difference() -> None:
    live = {
        key: tuple(rule.replace(" --mask 255.255.255.255", "").replace("0.50000000000", "0.5") for rule in rules)
        for key, rules in live_entries().items()
    }
    assert live != live_entries()
    assert not differences(live)


# ---- the command ----

SCENARIO = ("-f", str(FOLDER / "affinity" / "cluster.yaml"), "--node", "node-a")
ON_IPTABLES = (*SCENARIO, "--target", "iptables")
TO_VIP = ("--from", CLIENT, "--to", "203.0.113.100:80/tcp")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["explain", *arguments])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_text_and_json() -> None:
    text = run("default/web", *ON_IPTABLES)
    assert "ip nat RULEGEN-SVC-" in text
    document = json.loads(run("default/web", *ON_IPTABLES, "-o", "json"))
    first = document["ports"][0]
    assert "slots" not in first["lists"][0]
    assert "slots" not in first["lists"][0]["members"][0]
    assert {"type", "table", "chain", "meaning", "rules"} == set(first["entries"][0])
    assert {"rule", "meaning"} == set(first["entries"][0]["rules"][0])
    document = json.loads(run(*TO_VIP, *ON_IPTABLES, "-o", "json"))
    assert document["chains"][0] == "ip nat PREROUTING"


def test_the_configuration_names_the_target(tmp_path: Path) -> None:
    configuration = tmp_path / "config.yaml"
    configuration.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n"
    )
    arguments = ("default/web", *SCENARIO, "--config", str(configuration))
    assert "RULEGEN-SVC-" in run(*arguments)
    assert "RULEGEN-SVC-" not in run(*arguments, "--target", "nftables")


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace, namespace.entered():
        yield namespace


AGREES = "the kernel holds exactly these entries"
DIFFERS = "the kernel differs; `rulegen apply` would change:"


@pytest.mark.kernel
@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.value)
def test_live_in_a_real_kernel(namespace: NetworkNamespace, variant: Variant) -> None:
    live = (*ON_IPTABLES, "--iptables-variant", variant.value, "--live")
    questions: list[tuple[str, ...]] = [("default/web",), TO_VIP]
    for question in questions:
        assert DIFFERS in run(*question, *live)
    applied = CliRunner().invoke(main, ["apply", *live[:-1]])
    assert applied.exit_code == 0, applied.stderr
    for question in (*questions, ("default/dns:dns",), ("--to", "10.96.0.30:80/tcp")):
        assert AGREES in run(*question, *live), question
    rule = next(line for line in _saved(variant) if line.startswith("-A RULEGEN-VIPS -d 203.0.113.100/32"))
    _iptables(variant, *rule.replace("-A", "-D", 1).replace('"', "").split())
    for question in questions:
        output = run(*question, *live)
        assert f"{DIFFERS}\n  ~ ip nat RULEGEN-VIPS  # default/web:http\n      + -d 203.0.113.100/32 " in output
        assert output.count("~ ip") == 1
    assert AGREES in run("default/dns", *live)
    _iptables(variant, "-I", "RULEGEN-SERVICES", "-s", "192.0.2.0/24", "-j", "RETURN")
    assert "- -s 192.0.2.0/24 -j RETURN" in run("default/dns", *live)
    applied = CliRunner().invoke(main, ["apply", *live[:-1]])
    assert applied.exit_code == 0, applied.stderr
    for question in (*questions, ("default/dns",)):
        assert AGREES in run(*question, *live)


def _saved(variant: Variant) -> list[str]:
    command = [f"iptables-{variant.value}-save", "-t", "nat"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _iptables(variant: Variant, *arguments: str) -> None:
    subprocess.run([f"iptables-{variant.value}", "-t", "nat", *arguments], check=True)


@pytest.mark.kernel
@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.value)
def test_damage_that_only_the_kernel_words(variant: Variant) -> None:
    """What is read back agrees, and each kind of damage is named for the Services that it concerns."""
    with Host(variant) as host:
        host.apply(node(), *LIVE_ITEMS)
        assert not differences(host.read())
        chain = key_of(host.read(), NAT, "SVC-", "default/web").chain
        host.run(f"-t nat -R {chain} 1 -p tcp -j DNAT --to-destination 10.9.9.9:80")
        (difference,) = differences(host.read())
        assert difference.startswith(f"~ ip nat {chain}")
        assert not differences(host.read(), "default/other")
        assert packet_differences(host.read(), "192.0.2.1:80/tcp")
        assert not packet_differences(host.read(), TO_OTHER)
        host.run("-t nat -D PREROUTING -j RULEGEN-SERVICES")
        assert any("ip nat PREROUTING" in line for line in packet_differences(host.read(), TO_OTHER))
