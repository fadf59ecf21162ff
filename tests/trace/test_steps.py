"""What is told of packets that rulegen's rules, kube-proxy's and those of others have met, in a real kernel."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rulegen.trace.follow import Bounds, Follower
from rulegen.trace.model import Step, TracedPacket
from rulegen.trace.packet import parse_wanted
from tests.kube_proxy.stand_in import running
from tests.lab import Lab, Packet
from tests.patience import patience
from tests.trace.scene import CLIENT, NODE_ADDRESS, POD, POD_V6, follow, follow_one, lines, rulegen, summary_after

pytestmark = pytest.mark.kernel

WEB, EMPTY, HOST, PRIVATE = "10.96.0.20", "10.96.0.30", "10.96.0.40", "203.0.113.100"


@pytest.fixture(params=["nftables_node", "iptables_node"])
def node(request: pytest.FixtureRequest) -> Lab:
    """A node with rulegen's rules, for each target."""
    lab: Lab = request.getfixturevalue(request.param)
    return lab


@contextmanager
def table(lab: Lab, text: str) -> Iterator[None]:
    """A table `inet others` of somebody else's."""
    lab.nft(f"table inet others {{\n{text}\n}}")
    try:
        yield
    finally:
        lab.nft("delete table inet others")


POLICIES = """
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: ["10.128.0.0/24"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {phase: Running, podIP: 10.128.0.5, podIPs: [{ip: 10.128.0.5}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-443, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{ports: [{port: 443}]}]}
"""


def step_of(told: TracedPacket, table: str) -> Step:
    """The one in which something happened."""
    return next(step for step in told.steps if step.table == table and not step.is_quiet)


# ---- rulegen's rules, on both targets ----


def test_a_cluster_ip_is_told_with_its_endpoint(node: Lab) -> None:
    told = follow_one(node, Packet(POD, WEB, 80, "TCP"), f"{WEB}:80")
    assert (told.fate, told.end, told.left_by, told.came_by) == ("balanced", "left", "eth0", "pods")
    assert told.frontend == f"ClusterIP {WEB} port 80/TCP of shop/web:http"
    assert (told.endpoint, told.new_source) == ("10.128.1.7:8080", "")
    assert lines(told)[0].endswith(f" to {WEB}:80/tcp: balanced")


def test_a_masqueraded_node_port_is_told_with_its_new_source(node: Lab) -> None:
    told = follow_one(node, Packet(CLIENT, NODE_ADDRESS, 30080, "TCP"), f"{NODE_ADDRESS}:30080/tcp")
    assert told.frontend == "NodePort port 30080/TCP of shop/web:http"
    assert told.endpoint == "10.128.1.7:8080"
    assert told.new_source.startswith(f"{NODE_ADDRESS}:")
    assert any(f"source becomes {told.new_source}" in line for line in lines(told))


def test_ipv6_is_told_as_well(node: Lab) -> None:
    told = follow_one(node, Packet(POD_V6, "fd00:10:96::20", 80, "TCP"), "[fd00:10:96::20]:80")
    assert told.frontend == "ClusterIP fd00:10:96::20 port 80/TCP of shop/web:http"
    assert (told.family, told.endpoint) == ("IPv6", "[fd00:10:129::7]:8080")
    assert f"to [fd00:10:96::20]:80/tcp: {told.fate}" in lines(told)[0]


@pytest.mark.parametrize(
    ("packet", "fate", "words"),
    [
        (Packet(POD, EMPTY, 80, "TCP"), "rejected", "(SVC-36)"),
        (Packet(POD, WEB, 81, "TCP"), "rejected", "(SVC-67)"),
        (Packet(POD, WEB, 80, "UDP"), "rejected", "(SVC-67)"),
        (Packet(POD, WEB, 0, "ICMP"), "rejected", "(SVC-67)"),
        (Packet(CLIENT, PRIVATE, 80, "TCP"), "dropped", "(SVC-51)"),
    ],
    ids=["no endpoint", "no such port", "no such protocol", "ping", "source range"],
)
def test_what_is_refused_is_told_with_the_reason(node: Lab, packet: Packet, fate: str, words: str) -> None:
    where = (
        f"{packet.destination}:{packet.port}/{packet.protocol.lower()}" if packet.port else f"{packet.destination}/icmp"
    )
    told = follow_one(node, packet, where, source=packet.source)
    assert (told.fate, told.end, told.endpoint) == (fate, "stopped", "")
    refusal = told.steps[-1]
    assert refusal.verdict == {"rejected": "reject", "dropped": "drop"}[fate]
    assert fate in told.reason
    assert words in refusal.meaning


def test_what_the_node_sends_and_answers_itself_is_one_journey(node: Lab) -> None:
    told = follow_one(node, Packet(NODE_ADDRESS, HOST, 443, "TCP", source_port=4711), f"{HOST}:443", source="node")
    assert (told.came_by, told.end) == ("", "delivered")
    assert told.endpoint == f"{NODE_ADDRESS}:6443"
    assert lines(told)[1] == "  sent by this node"
    assert lines(told)[-1] == "  delivered on this node"


def test_of_a_later_packet_conntrack_is_told(node: Lab) -> None:
    packet = Packet(POD, WEB, 80, "TCP", source_port=5011)
    first, later = follow(node, [packet, packet], f"{WEB}:80", source=f"{POD}:5011")
    assert first.frontend
    assert not later.frontend
    assert (later.fate, later.endpoint) == ("balanced", first.endpoint)
    assert any("conntrack, as its connection is translated" in line for line in lines(later))


def test_a_connection_is_told_with_whether_it_is_answered(nftables_node: Lab) -> None:
    packet = Packet(POD, WEB, 80, "TCP", source_port=5012)
    (unanswered,) = summary_after(nftables_node, lambda: nftables_node.send([packet]), f"{WEB}:80").connections
    assert (unanswered.source, unanswered.server) == (f"{POD}:5012", "10.128.1.7:8080")
    assert (unanswered.is_tracked, unanswered.is_answered) == (True, False)
    with nftables_node.entered(), socket.create_server((NODE_ADDRESS, 6443)), socket.socket() as client:
        (answered,) = summary_after(nftables_node, lambda: client.connect((HOST, 443)), f"{HOST}:443").connections
    assert (answered.server, answered.is_answered) == (f"{NODE_ADDRESS}:6443", True)


# ---- rules of others ----


def test_a_foreign_rule_that_drops_is_told_by_table_chain_and_rule(node: Lab) -> None:
    rules = """
    chain checks {
        ip protocol icmp accept
        tcp dport 8080 counter drop comment "no web"
    }
    chain forward { type filter hook forward priority 5; jump checks; }
    """
    with table(node, rules):
        told = follow_one(node, Packet(POD, WEB, 80, "TCP"), f"{WEB}:80")
    step = step_of(told, "inet others")
    assert (step.chains, step.verdict) == (("forward", "checks"), "drop")
    assert step.rule is not None
    assert (step.rule.chain, step.rule.position, step.rule.comment) == ("checks", 2, "no web")
    assert step.rule.words == 'tcp dport 8080 drop comment "no web"'
    assert told.reason == "dropped in chain checks of table inet others"
    assert lines(told)[-1] == '  inet others: forward > checks: rule 2: tcp dport 8080 drop comment "no web": dropped'
    assert told.endpoint == "10.128.1.7:8080", "what happened before is told, too"


def test_a_rule_is_told_with_the_place_that_it_has_by_then(nftables_node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulegen.trace.rule_book._LOOK_SECONDS", 0.0)
    packet = Packet(POD, WEB, 80, "TCP")
    places = []
    with (
        table(nftables_node, "chain forward { type filter hook forward priority 5; tcp dport 8080 drop; }"),
        nftables_node.entered(),
        Follower([parse_wanted("", f"{WEB}:80")], Bounds(2, patience(20))) as follower,
    ):
        packets = follower.packets()
        for _ in range(2):
            nftables_node.send([packet])
            places.append(next(packets).steps[-1].rule)
            nftables_node.nft("insert rule inet others forward udp dport 1 drop")
    assert [place.position for place in places if place] == [1, 2]


def test_a_foreign_policy_that_drops_is_told(nftables_node: Lab) -> None:
    with table(nftables_node, "chain forward { type filter hook forward priority 5; policy drop; }"):
        told = follow_one(nftables_node, Packet(POD, WEB, 80, "TCP"), f"{WEB}:80")
    assert (told.fate, step_of(told, "inet others").rule) == ("dropped", None)
    assert lines(told)[-1] == "  inet others: forward: by its policy: dropped"
    assert told.reason == "dropped in chain forward of table inet others"


def test_what_others_translate_is_theirs(nftables_node: Lab) -> None:
    rules = "chain pre { type nat hook prerouting priority -120; ip daddr 198.51.100.7 dnat ip to 10.128.1.9; }"
    with table(nftables_node, rules):
        told = follow_one(nftables_node, Packet(CLIENT, "198.51.100.7", 80, "TCP"), "198.51.100.7:80")
    assert (told.fate, told.frontend, told.endpoint) == ("balanced", "", "10.128.1.9:80")
    assert "to endpoint 10.128.1.9:80" in step_of(told, "inet others").meaning


def test_a_foreign_rule_of_iptables_is_told_in_its_words(iptables_node: Lab) -> None:
    rule = ["FORWARD", "-p", "tcp", "--dport", "8080", "-m", "comment", "--comment", "no web", "-j", "DROP"]
    with iptables_node.entered():
        subprocess.run(["iptables-nft", "-I", *rule], check=True)
    try:
        told = follow_one(iptables_node, Packet(POD, WEB, 80, "TCP"), f"{WEB}:80")
    finally:
        with iptables_node.entered():
            subprocess.run(["iptables-nft", "-D", *rule], check=True)
    refusal = told.steps[-1].rule
    assert refusal is not None
    assert (refusal.chain, refusal.position, refusal.comment) == ("FORWARD", 1, "no web")
    assert refusal.words == '-p tcp -m tcp --dport 8080 -m comment --comment "no web" -j DROP'


def test_what_has_no_route_is_not_seen_again(nftables_node: Lab) -> None:
    with nftables_node.entered():
        subprocess.run(["ip", "route", "add", "blackhole", "198.51.100.9"], check=True)
    told = follow_one(nftables_node, Packet(POD, "198.51.100.9", 80, "TCP"), "198.51.100.9")
    assert (told.fate, told.end) == ("untouched", "not seen again")
    assert "no route" in told.reason


# ---- kube-proxy's rules ----


def test_kube_proxys_chains_of_nftables_are_named_by_their_service(lab: Lab, tmp_path: Path) -> None:
    with running(lab, tmp_path, "nftables", ports=False):
        told = follow_one(lab, Packet(POD, "10.96.0.10", 80, "TCP"), "10.96.0.10:80")
        lab.nft(
            """
            add map ip kube-proxy no-endpoint-services { typeof ip daddr . meta l4proto . th dport : verdict ; }
            add element ip kube-proxy no-endpoint-services { 10.96.0.11 . tcp . 81 comment "shop/empty:http" : drop }
            add chain ip kube-proxy filter-forward { type filter hook forward priority -110 ; }
            add rule ip kube-proxy filter-forward ip daddr . meta l4proto . th dport vmap @no-endpoint-services
            """
        )
        refused = follow_one(lab, Packet(POD, "10.96.0.11", 81, "TCP"), "10.96.0.11:81")
    assert told.frontend == "ClusterIP 10.96.0.10 port 80/TCP of default/web"
    assert told.endpoint == "10.128.0.5:8080"
    assert step_of(told, "ip kube-proxy").service == "default/web"
    assert (refused.fate, refused.frontend) == ("dropped", "frontend 10.96.0.11 port 81/TCP of shop/empty:http")


# As kube-proxy writes them, shortened.
_KUBE_PROXY_IPTABLES = Path(__file__).with_name("kube_proxy.rules").read_text()


def test_kube_proxys_chains_of_iptables_are_named_by_their_service(lab: Lab) -> None:
    with lab.entered():
        subprocess.run(["iptables-nft-restore", "--noflush"], input=_KUBE_PROXY_IPTABLES, text=True, check=True)
    told = follow_one(lab, Packet(POD, "10.96.0.10", 80, "TCP"), "10.96.0.10:80")
    assert told.frontend == "ClusterIP 10.96.0.10 port 80/TCP of shop/web:http"
    assert told.endpoint == "10.128.0.5:8080"
    assert step_of(told, "ip nat").service == "shop/web:http"
    told = follow_one(lab, Packet(CLIENT, NODE_ADDRESS, 30081, "TCP"), f"{NODE_ADDRESS}:30081")
    assert told.frontend == "NodePort port 30081/TCP of shop/web:http"
    told = follow_one(lab, Packet(POD, "10.96.0.11", 80, "TCP"), "10.96.0.11:80")
    assert (told.fate, told.frontend) == ("rejected", "frontend 10.96.0.11 port 80/TCP of shop/empty:http")


# ---- legacy iptables ----


def test_legacy_iptables_is_told_by_what_it_does(lab: Lab) -> None:
    with lab.entered():
        for rule in (
            "-t nat -A PREROUTING -d 10.96.0.10 -p tcp --dport 80 -j DNAT --to-destination 10.128.0.5:8080",
            "-t filter -A FORWARD -p tcp --dport 9999 -j DROP",
        ):
            subprocess.run(["iptables-legacy", *rule.split(" ")], check=True)
    packet = Packet(POD, "10.96.0.10", 80, "TCP")
    told = follow_one(lab, packet, "10.96.0.10:80")
    assert (told.fate, told.endpoint, told.left_by) == ("balanced", "10.128.0.5:8080", "pods")
    assert any("or legacy iptables" in line for line in lines(told))
    summary = summary_after(lab, lambda: lab.send([packet]), "10.96.0.10:80")
    (note,) = summary.notes
    assert note.startswith("legacy iptables has rules here (tables filter, nat)")
    assert summary.connections[0].server == "10.128.0.5:8080"
    told = follow_one(lab, Packet(POD, CLIENT, 9999, "TCP"), f"{CLIENT}:9999")
    assert told.end == "not seen again"
    assert "while it was being forwarded; or legacy iptables, whose rules tell nothing, has dropped it" in told.reason


# ---- network policies ----


@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_policies_are_told_by_their_names(lab: Lab, tmp_path: Path, target: str) -> None:
    manifest = tmp_path / "policies.yaml"
    manifest.write_text(POLICIES)
    done = rulegen(
        lab, "apply", "-f", str(manifest), "--node", "node-a", "--target", target, "--feature", "network-policies"
    )
    assert done.returncode == 0, done.stderr
    denied = follow_one(lab, Packet(CLIENT, "10.128.0.5", 80, "TCP"), "10.128.0.5:80")
    assert denied.fate == "dropped"
    assert denied.steps[-1].meaning == "network policies (ingress): none of shop/only-443 allows it: dropped"
    allowed = follow_one(lab, Packet(CLIENT, "10.128.0.5", 443, "TCP"), "10.128.0.5:443")
    assert (allowed.fate, allowed.end) == ("untouched", "left")
    if target == "nftables":
        step = step_of(allowed, "ip rulegen-network-policies")
        assert step.meaning == "network policies (ingress): allowed by shop/only-443"


EGRESS = """
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: ["10.128.0.0/24"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
"""


@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_egress_masquerade_is_told_in_words_of_its_own(lab: Lab, tmp_path: Path, target: str) -> None:
    manifest = tmp_path / "node.yaml"
    manifest.write_text(EGRESS)
    options = ["--iptables-variant", "nft"] if target == "iptables" else []
    done = rulegen(
        lab,
        *("apply", "-f", str(manifest), "--node", "node-a", "--target", target),
        *options,
        *("--feature", "egress-masquerade"),
    )
    assert done.returncode == 0, done.stderr
    left = follow_one(lab, Packet(POD, CLIENT, 80, "TCP"), f"{CLIENT}:80")
    assert left.new_source.startswith(f"{NODE_ADDRESS}:")
    said = [step.meaning for step in left.steps if "egress masquerade" in step.meaning]
    assert said == [f"egress masquerade: leaves with the node's address; source becomes {left.new_source}"]
    kept = follow_one(lab, Packet(POD, "10.128.0.5", 80, "TCP"), "10.128.0.5:80")
    assert not any("egress" in step.meaning for step in kept.steps)
