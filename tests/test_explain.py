"""rulegen explain: agrees with every golden flow, names the rules, the entries and what the kernel has otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from rulegen.cli import main
from rulegen.config import DetectLocalMode, Family, NodeConfiguration
from rulegen.follow.nftables import CompiledTables
from rulegen.golden import find_scenarios, read_scenario
from rulegen.kube.manifests import load
from rulegen.kube.objects import Service
from rulegen.nftables.elements import EntryKey, Value, key_text
from rulegen.services.explain.asking import ask
from rulegen.services.explain.diagnosis import answer
from rulegen.services.explain.model import Entry, PacketExplanation, ServiceExplanation, View
from rulegen.services.explain.service import explain_service, parse_service_name
from rulegen.services.explain.text import packet_lines, service_lines
from rulegen.services.model import SERVICE
from rulegen.services.on_nftables.annotate import AnnotatedEntry
from rulegen.services.on_nftables.compiler import compile_ruleset
from rulegen.services.on_nftables.explain import NftablesRuleset
from rulegen.services.on_nftables.layout import LAYOUTS
from tests.builders import (
    CONFIGURATION,
    Item,
    draining,
    endpoint,
    endpoint_slice,
    node,
    port,
    service,
    service_cidr,
    store,
)
from tests.explaining import (
    as_expectation,
    clients_of,
    comparable,
    directory,
    explain_flow,
    scenario_view,
)
from tests.lab.fixtures import MakeLab

FOLDER = Path(__file__).parent.parent / "golden"
BACKENDS = [endpoint("10.244.1.1", "node-1"), endpoint("10.244.2.1", "node-2")]
POD, CLIENT = "10.244.1.9", "203.0.113.7"


def view(
    *items: Item, configuration: NodeConfiguration = CONFIGURATION, live: dict[EntryKey, Value] | None = None
) -> View:
    made = store(node(zone="zone-1"), *items, configuration=configuration)
    nodes = {family: found for family in configuration.families if (found := made.node_settings(family))}
    compiler = compile_ruleset(made.service_ports(), nodes, configuration.masquerade_bit, live)
    known = directory(node(zone="zone-1"), *items)
    ruleset = NftablesRuleset(compiler, configuration.families, CompiledTables([compiler]), live)
    return View(made, configuration, ruleset, known.services, known)


def compiled(made: View) -> Mapping[EntryKey, Value]:
    assert isinstance(made.ruleset, NftablesRuleset)
    return made.ruleset.compiler.entries()


def elements(entries: Iterable[Entry]) -> list[AnnotatedEntry]:
    return [entry for entry in entries if isinstance(entry, AnnotatedEntry)]


def explained(*items: Item, name: str = "default/web", **named: Any) -> ServiceExplanation:
    return explain_service(view(*items, **named), parse_service_name(name))


def packet(source: str, destination: str, *items: Item, interface: str = "", **named: Any) -> PacketExplanation:
    made = view(*items, **named)
    (asked,) = ask(made, source, destination, interface)
    return answer(made, asked)


# ---- golden flows ----


@pytest.mark.parametrize("folder", find_scenarios([str(FOLDER)]), ids=lambda folder: folder.name)
def test_explain_agrees_with_every_golden_flow(folder: Path) -> None:
    scenario = read_scenario(folder)
    made = scenario_view(scenario)
    for flow in scenario.flows:
        for source in clients_of(flow.source):
            explanation = explain_flow(made, scenario, flow, source)
            assert comparable(as_expectation(scenario, explanation, flow)) == comparable(flow.expect), str(flow)
            _check_entries(explanation)
            assert list(packet_lines(explanation))


def _check_entries(explanation: PacketExplanation) -> None:
    """Every outcome but "untouched" has entries that make it, and the endpoints are among them."""
    assert not explanation.otherwise
    if explanation.fate == "untouched":
        assert not explanation.entries
        return
    assert explanation.chains
    assert explanation.entries
    words = [entry.meaning for entry in explanation.entries]
    for delivery in explanation.deliveries:
        assert any(f"is {delivery.endpoint}" in word for word in words), delivery.endpoint
    if explanation.fate == "rejected":
        assert any(word.endswith(("has no endpoint: rejected", "does not have are rejected")) for word in words)


@pytest.mark.parametrize("folder", find_scenarios([str(FOLDER)]), ids=lambda folder: folder.name)
def test_every_service_of_a_scenario_can_be_explained(folder: Path) -> None:
    scenario = read_scenario(folder)
    services = {(item.metadata.namespace, item.metadata.name): item for item in _services(folder)}
    made = scenario_view(scenario)._replace(services=services)
    shown = set()
    for namespace, name in services:
        explanation = explain_service(made, parse_service_name(f"{namespace}/{name}"))
        assert list(service_lines(explanation))
        assert explanation.facts or explanation.ports
        shown |= {
            f"{entry.table} {entry.name} {entry.element.partition(' : ')[0]}"
            for explained_port in explanation.ports
            for entry in elements(explained_port.entries)
        }
    assert isinstance(made.ruleset, NftablesRuleset)
    entries = {f"{key[0].ip} {key[0].name} {key_text(*key)}" for key in compiled(made) if not key[0].is_chains}
    # What belongs to service-ports of other objects than Services is explained by a packet alone.
    others = [service_port for service_port in made.store.service_ports() if service_port.name.kind != SERVICE]
    for service_port in others:
        found = made.ruleset.compiler.service_port_entries((service_port.name, service_port.family))
        entries -= {f"{key[0].ip} {key[0].name} {key_text(*key)}" for key in found}
    usual = ("kinds", "nodeport-kinds", "balancers", "nodeport-addresses", "service-cidrs", "hairpin")
    assert {entry for entry in entries - shown if entry.split(" ")[1] not in usual} == set()


def _services(folder: Path) -> list[Service]:
    manifests = load([str(folder / "cluster.yaml")], None)
    return [*manifests.services, *manifests.unselected]


# ---- Services ----


def test_frontends_with_their_owner_policy_and_verdict() -> None:
    first = service("first", ["10.96.0.1"], external_ips=["192.0.2.9"], created="2026-01-01T00:00:00Z")
    web = service(
        kind="LoadBalancer",
        external_ips=["192.0.2.9"],
        vips=["192.0.2.1"],
        external="Local",
        ranges=["198.51.100.0/24"],
        created="2026-01-02T00:00:00Z",
    )
    explanation = explained(first, web, endpoint_slice(BACKENDS[1:]))
    (found,) = explanation.ports
    assert [(item.kind, item.address, item.policy, item.verdict, item.owner) for item in found.frontends] == [
        ("ClusterIP", "10.96.0.10", "Cluster", "balance", ""),
        ("externalIP", "192.0.2.9", "Local", "", "default/first"),
        ("load-balancer VIP", "192.0.2.1", "Local", "drop", ""),
    ]
    assert found.frontends[2].allowed_sources == ("198.51.100.0/24",)
    assert [finding.reason for finding in explanation.findings] == ["DuplicateFrontend"]
    text = "\n".join(line.text for line in service_lines(explanation))
    assert "belongs to default/first (D2)" in text
    assert "sources outside 198.51.100.0/24 are dropped (SVC-51)" in text


def test_each_kind_of_source_has_its_list_and_masquerade() -> None:
    web = service(kind="NodePort", external="Local", ports=[port(node_port=30080)])
    (found,) = explained(web, endpoint_slice(BACKENDS)).ports
    table = {
        (frontend.kind, source.source): (source.endpoints, source.masquerade)
        for frontend in found.frontends
        for source in frontend.sources
    }
    assert table == {
        ("ClusterIP", "a pod"): ("Cluster", False),
        ("ClusterIP", "this node"): ("Cluster", True),
        ("ClusterIP", "outside"): ("Cluster", True),
        ("NodePort", "a pod"): ("Cluster", False),
        ("NodePort", "this node"): ("Cluster", True),
        ("NodePort", "outside"): ("Local", False),
    }
    (found,) = explained(web, endpoint_slice(BACKENDS[1:])).ports
    (outside,) = (source for source in found.frontends[1].sources if source.source == "outside")
    assert (outside.fate, outside.endpoints) == ("dropped", "")
    assert "SVC-37" in outside.reason
    (found,) = explained(web, endpoint_slice(BACKENDS), configuration=replace(CONFIGURATION, cluster_cidrs=())).ports
    assert [source.source for source in found.frontends[0].sources] == ["this node", "outside, and pods"]


def test_probabilities_reasons_and_rounding() -> None:
    web = service(annotations={"rulegen.io/weights": "10.244.1.1=65535,10.244.3.1=0,*=3"})
    backends = [*BACKENDS, endpoint("10.244.3.1"), endpoint("10.244.4.1", ready=False), draining("10.244.5.1")]
    (found,) = explained(web, endpoint_slice(backends)).ports
    cluster_list, local_list = found.lists
    assert [member.weight for member in cluster_list.members] == [65535, 3]
    assert isinstance(cluster_list.slots, int)
    assert sum(int(member.slots or 0) for member in cluster_list.members) == cluster_list.slots <= 4096
    assert cluster_list.members[1].slots == 1
    assert cluster_list.rounding_error > 0.01
    assert not local_list.members
    assert {item.endpoint: item.cluster for item in found.endpoints} == {
        "10.244.1.1:8080": "",
        "10.244.2.1:8080": "",
        "10.244.3.1:8080": "weight 0: no new connections (D9)",
        "10.244.4.1:8080": "not ready (SVC-28)",
        "10.244.5.1:8080": "terminating while others are ready (SVC-26)",
    }
    text = "\n".join(line.text for line in service_lines(explained(web, endpoint_slice(backends))))
    assert "4096 slots are the most there are (D9)" in text


def test_affinity_and_what_drains() -> None:
    web = service(affinity=60, annotations={"rulegen.io/weights": "10.244.2.1=0"})
    (found,) = explained(web, endpoint_slice(BACKENDS)).ports
    assert (found.affinity_timeout, found.draining) == (60, ("10.244.2.1:8080",))
    assert any(entry.element == "sticky-60" for entry in elements(found.entries))


@pytest.mark.parametrize(
    ("item", "fact"),
    [
        (service(cluster_ips=["None"]), "no frontends: headless, spec.clusterIP is None"),
        (service(cluster_ips=[]), "no frontends: no ClusterIP yet"),
        (service(kind="ExternalName"), "no frontends: type ExternalName"),
        (service(labels={"service.kubernetes.io/service-proxy-name": ""}), "gives it to another proxy (SVC-1)"),
        (service(ports=[]), "no frontends: it has no ports"),
        (service(), "no frontends for IPv6: the Service has no ClusterIP of that family (SVC-5)"),
    ],
)
def test_why_a_service_has_no_frontends(item: Service, fact: str) -> None:
    explanation = explained(item)
    assert any(fact in text for text in explanation.facts)


def test_a_family_that_the_node_does_not_have() -> None:
    only_ipv4 = replace(CONFIGURATION, families=(Family.IPV4,))
    explanation = explained(service(cluster_ips=["10.96.0.10", "fd00::10"]), configuration=only_ipv4)
    assert explanation.facts == ("no frontends for IPv6: this node has no rules for that family",)
    found = packet("node", "[fd00::10]:80/tcp", configuration=only_ipv4)
    assert (found.fate, found.reasons) == ("untouched", ("this node has no rules for IPv6",))


def test_one_port_by_name_or_number() -> None:
    web = service(ports=[port(80, "http"), port(443, "https"), port(53, "dns", "UDP")])
    for name in ("default/web:https", "default/web:443"):
        assert [item.name for item in explained(web, name=name).ports] == ["default/web:https"]
    assert len(explained(web).ports) == 3


# ---- packets ----


def test_a_source_out_of_range_and_one_within() -> None:
    items: list[Item] = [service(vips=["192.0.2.1"], ranges=["198.51.100.0/24"]), endpoint_slice(BACKENDS)]
    dropped = packet(CLIENT, "192.0.2.1:80/tcp", *items)
    assert dropped.fate == "dropped"
    assert dropped.chains == ("prerouting", "frontend", "special")
    assert [entry.name for entry in elements(dropped.entries)] == ["frontends"]
    allowed = packet("198.51.100.7", "192.0.2.1:80/tcp", *items)
    assert allowed.fate == "balanced"
    assert "source-ranges" in [entry.name for entry in elements(allowed.entries)]


def test_the_way_of_a_packet_to_a_node_port() -> None:
    items: list[Item] = [
        service(kind="NodePort", external="Local", ports=[port(node_port=30080)]),
        endpoint_slice(BACKENDS),
    ]
    found = packet(CLIENT, "192.168.1.10:30080/tcp", *items)
    assert found.chains == (
        "prerouting",
        "nodeport",
        "external-local",
        "balance",
        "lb-1",
    )
    assert [item.endpoint for item in found.deliveries] == ["10.244.1.1:8080"]
    found = packet("node", "192.168.1.10:30080/tcp", *items)
    assert (found.source, found.origin, found.chains[0]) == ("192.168.1.10", "this node", "output")
    assert len(found.deliveries) == 2


def test_hairpin_is_masqueraded() -> None:
    found = packet("10.244.1.1", "10.96.0.10:80/tcp", service(), endpoint_slice(BACKENDS))
    assert {item.endpoint: item.masquerade for item in found.deliveries} == {
        "10.244.1.1:8080": True,
        "10.244.2.1:8080": False,
    }
    assert "hairpin" in [entry.name for entry in elements(found.entries)]
    assert found.chains[-4:] == ("postrouting", "translated", "itself", "marked")


def test_whoever_is_masqueraded_anyway_is_not_looked_up_as_a_hairpin() -> None:
    items: list[Item] = [service(external_ips=["198.51.100.1"]), endpoint_slice([endpoint("10.244.1.1")])]
    found = packet("10.244.1.1", "198.51.100.1:80/tcp", *items)
    assert found.chains[-2:] == ("postrouting", "marked")
    assert "hairpin" not in [entry.name for entry in elements(found.entries)]


@pytest.mark.parametrize(
    ("destination", "fate", "chains", "rule"),
    [
        ("10.96.0.10:81/tcp", "rejected", ("prerouting-unused", "unused"), "SVC-67"),
        ("10.96.0.10/icmp", "rejected", ("prerouting-unused", "unused"), "SVC-67"),
        ("10.96.0.99:80/udp", "dropped", ("prerouting-unused", "unused"), "SVC-67"),
        ("10.96.0.20:80/tcp", "rejected", ("prerouting", "frontend", "special", "no-endpoints"), "SVC-36"),
        ("192.168.1.10:30081/tcp", "rejected", ("prerouting", "nodeport", "no-endpoints-nodeport"), "SVC-36"),
        ("192.0.2.77:80/tcp", "untouched", (), "no Service"),
    ],
)
def test_packets_that_nobody_gets(destination: str, fate: str, chains: tuple[str, ...], rule: str) -> None:
    empty = service("empty", ["10.96.0.20"], kind="NodePort", ports=[port(node_port=30081)])
    items: list[Item] = [service(), endpoint_slice(BACKENDS), empty, service_cidr("10.96.0.0/16")]
    found = packet(POD, destination, *items)
    assert (found.fate, found.chains) == (fate, chains)
    assert rule in " ".join(found.reasons)


def test_what_is_translated_is_not_asked_again() -> None:
    """D20: an endpoint that is another Service's ClusterIP, at a port that it does not have."""
    items: list[Item] = [service(), endpoint_slice(["10.96.0.20"]), service("other", ["10.96.0.20"])]
    (delivery,) = packet(POD, "10.96.0.10:80/tcp", *items).deliveries
    assert (delivery.endpoint, delivery.decision) == ("10.96.0.20:8080", "")


def test_pods_told_by_their_interface() -> None:
    bridge = replace(CONFIGURATION, detect_local_mode=DetectLocalMode.BRIDGE_INTERFACE, detect_local_interface="cni0")
    items: list[Item] = [service(), endpoint_slice(BACKENDS)]
    found = packet(POD, "10.96.0.10:80/tcp", *items, interface="cni0", configuration=bridge)
    assert (found.origin, [item.masquerade for item in found.deliveries]) == ("a pod", [False, False])
    found = packet(POD, "10.96.0.10:80/tcp", *items, configuration=bridge)
    assert found.origin == "outside"
    assert any("--interface" in note for note in found.notes)


# ---- live entries ----


LIVE_ITEMS: list[Item] = [
    service(affinity=60, kind="LoadBalancer", vips=["192.0.2.1"], ranges=["198.51.100.0/24"]),
    endpoint_slice(BACKENDS),
    service("other", ["10.96.0.11"]),
    endpoint_slice(BACKENDS, service_name="other", name="other-1"),
]


def _live() -> dict[EntryKey, Value]:
    return dict(compiled(view(*LIVE_ITEMS)))


def _keys(live: dict[EntryKey, Value], name: str, comment: str = "") -> Iterator[EntryKey]:
    layout = LAYOUTS[Family.IPV4]
    for key, value in live.items():
        if key[0].family is layout.family and key[0].name == name and comment in value.comment:
            yield key


@pytest.mark.parametrize("name", ["default/web", "default/other"])
def test_what_the_kernel_should_hold(name: str) -> None:
    agreement = explained(*LIVE_ITEMS, name=name, live=_live()).live
    assert agreement is not None
    assert (agreement.agrees, agreement.differences) == (True, ())


@pytest.mark.parametrize("name", ["frontends", "source-ranges", "endpoint-indexes", "sticky-endpoints"])
def test_an_entry_of_the_service_is_missing(name: str) -> None:
    live = _live()
    (key,) = islice(_keys(live, name), 1)
    for missing in list(_keys(live, name)) if name == "frontends" else [key]:
        del live[missing]
    agreement = explained(*LIVE_ITEMS, live=live).live
    assert agreement is not None
    assert not agreement.agrees
    assert any(line.startswith(f"+ ip {name} ") for line in agreement.differences)
    assert not any("other" in line for line in agreement.differences)


def test_an_entry_too_many_and_one_that_is_wrong() -> None:
    live = _live()
    layout = LAYOUTS[Family.IPV4]
    (range_,) = _keys(live, "source-ranges")
    live[layout.source_ranges, range_[1][:8] + b"\x01\x02\x03\x04" + range_[1][12:]] = Value()
    (endpoint_index,) = islice(_keys(live, "endpoint-indexes"), 1)
    live[endpoint_index] = Value(live[endpoint_index].data[::-1])
    live[layout.chains, b"external"] = Value(b"altered")
    agreement = explained(*LIVE_ITEMS, live=live).live
    assert agreement is not None
    assert any(line.startswith("~ ip endpoint-indexes") for line in agreement.differences)
    assert any(line.startswith("~ ip chain external") for line in agreement.differences)
    other = explained(*LIVE_ITEMS, name="default/other", live=live).live
    assert other is not None
    assert [line.split(" ")[2:4] for line in other.differences] == [["chain", "external"]]


def test_a_packet_and_the_kernel() -> None:
    live = _live()
    right = packet(CLIENT, "10.96.0.11:80/tcp", *LIVE_ITEMS, live=live).live
    assert right is not None
    assert right.agrees
    (frontend,) = _keys(live, "frontends", "default/other")
    stale = live.pop(frontend)
    wrong = packet(CLIENT, "10.96.0.11:80/tcp", *LIVE_ITEMS, live=live).live
    assert wrong is not None
    assert ["+", "ip", "frontends"] in [line.split(" ")[:3] for line in wrong.differences]
    # What nobody owns any more, but the kernel still sends somewhere.
    live[frontend] = stale
    left = packet(CLIENT, "10.96.0.11:80/tcp", *LIVE_ITEMS[:2], live=live).live
    assert left is not None
    assert ["-", "ip", "frontends"] in [line.split(" ")[:3] for line in left.differences]
    removed = explained(*LIVE_ITEMS[:2], service("other", ["None"]), name="default/other", live=live).live
    assert removed is not None
    assert not removed.agrees


# ---- the command ----


SCENARIO = ["-f", str(FOLDER / "affinity" / "cluster.yaml"), "--node", "node-a"]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["explain", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name either a Service"),
        (["default/web", "--to", "10.96.0.1:80/tcp"], "name either a Service"),
        (["default/web", "--from", "10.96.0.1"], "name either a Service"),
        (["web"], 'expected a Service as NAMESPACE/NAME or NAMESPACE/NAME:PORT, got "web"'),
        (["default/web:"], "NAMESPACE/NAME:PORT"),
        (["a/b/c"], "NAMESPACE/NAME:PORT"),
        (["default/wbe"], "no Service default/wbe; there is default/web"),
        (["other/dns"], "no Service other/dns; there is default/dns"),
        (["default/dns:htp"], 'Service default/dns has no port "htp"; it has: dns'),
        (["--to", "10.96.0.10"], "--to: expected ADDRESS:PORT/tcp"),
        (["--to", "10.96.0.10:80/icmp"], "--to: expected ADDRESS:PORT/tcp"),
        (["--to", "10.96.0.10/tcp"], "--to: expected ADDRESS:PORT/tcp"),
        (["--to", "10.96.0.300:80/tcp"], '--to: expected an IP address, in brackets if it is IPv6, got "10.96.0.300"'),
        (["--to", "[10.96.0.1]:80/tcp"], "--to: expected an IP address, in brackets if it is IPv6"),
        (["--to", "10.96.0.10:80/tcp", "--from", "here"], '--from: expected an IP address or node, got "here"'),
        (["--to", "10.96.0.10:80/tcp", "--from", "fd00::1"], "of different IP families"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], message: str) -> None:
    status, output, errors = run(*arguments, *SCENARIO)
    assert (status, output) == (2, "")
    assert errors.startswith("rulegen: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_text_and_json() -> None:
    status, output, errors = run("default/web", *SCENARIO)
    assert (status, errors) == (0, "")
    assert output.startswith("Service default/web, type LoadBalancer on node node-a\n")
    assert "\x1b" not in output
    status, output, _ = run("--from", CLIENT, "--to", "203.0.113.100:80/tcp", "-o", "json", *SCENARIO)
    found = json.loads(output)
    assert (status, found["fate"], found["affinityTimeout"], found["live"]) == (0, "balanced", 10800, None)
    assert [item["masquerade"] for item in found["deliveries"]] == [True, True, True]


def test_the_examples_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parent)
    text = (FOLDER.parent / "docs" / "explain.md").read_text()
    blocks = re.findall(r"^```console\n\$ rulegen (.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
    assert len(blocks) > 3
    for command, expected in blocks:
        assert CliRunner().invoke(main, command.split()).stdout == expected, command


def test_a_node_that_nobody_states_is_a_warning(tmp_path: Path) -> None:
    """Where the input says nothing about nodes, any may be meant; one that is not among those it has is an error."""
    status, _, errors = run("default/web", *SCENARIO[:2], "--node", "node-x")
    assert (status, "there is no node" in errors) == (2, True)
    text = Path(SCENARIO[1]).read_text()
    file = tmp_path / "cluster.yaml"
    file.write_text("---\n".join(part for part in text.split("---\n") if "kind: Node\n" not in part))
    status, _, errors = run("default/web", "-f", str(file), "--node", "node-x")
    assert status == 0
    assert errors.startswith("rulegen: warning: Node node-x: not known")
    assert errors.count("\n") == 1


@pytest.mark.kernel
def test_live_in_a_real_kernel(make_lab: MakeLab) -> None:
    lab = make_lab()
    to_vip = ["--from", CLIENT, "--to", "203.0.113.100:80/tcp"]
    with lab.entered():
        assert "the kernel differs" in run("default/web", "--live", *SCENARIO)[1]
        applied = CliRunner().invoke(main, ["apply", *SCENARIO])
        assert applied.exit_code == 0, applied.stderr
        for question in (["default/web"], ["default/dns:dns"], to_vip, ["--to", "10.96.0.30:80/tcp"]):
            assert "the kernel holds exactly these entries" in run(*question, "--live", *SCENARIO)[1]
    lab.nft("delete element ip rulegen frontends { 203.0.113.100 . tcp . 80 }")
    with lab.entered():
        for question in (["default/web"], to_vip):
            output = run(*question, "--live", *SCENARIO)[1]
            assert (
                "the kernel differs; `rulegen apply` would change:\n  + ip frontends 203.0.113.100 . tcp . 80" in output
            )
        assert "the kernel holds exactly these entries" in run("default/dns", "--live", *SCENARIO)[1]
