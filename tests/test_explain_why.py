"""Every answer about a packet ends in a reason, and in what would work, which does; the same on both targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from rulegen.config import Family, NodeConfiguration
from rulegen.kube.mistakes import Mistake, Notice
from rulegen.kube.objects import (
    EndpointSlice,
    LoadBalancerIngress,
    NamespacedMetadata,
    Pod,
    Service,
)
from rulegen.services.explain.model import Cause, PacketExplanation, View
from rulegen.services.explain.text import reason_lines
from tests.builders import (
    CONFIGURATION,
    Item,
    draining,
    endpoint,
    endpoint_port,
    endpoint_slice,
    node,
    pod,
    port,
    service,
    service_cidr,
)
from tests.explaining import answers, views

POD, CLIENT = "10.244.1.9", "203.0.113.7"
HERE, THERE, NOWHERE = (
    endpoint("10.244.1.1", "node-1", target="web-1"),
    endpoint("10.244.2.1", "node-2", target="web-2"),
    endpoint("10.244.3.1", target="web-3"),
)
NODES: list[Item] = [node(zone="zone-1"), node("node-2", ["192.168.1.11"])]
CIDR = service_cidr("10.96.0.0/16")


def hinted(address: str, *zones: str) -> EndpointSlice:
    return endpoint_slice([endpoint(address, "node-2", zones=zones)], name=f"web-{address}")


def web(kind: str = "ClusterIP", external: str = "Cluster", internal: str = "Cluster", **named: object) -> Service:
    """TCP 80 and 443, UDP 53, where NodePorts are asked for 30080 and 30443."""
    has_node_ports = kind != "ClusterIP"
    ports = [
        port(80, "http", node_port=30080 * has_node_ports),
        port(443, "https", node_port=30443 * has_node_ports),
        port(53, "dns", "UDP"),
    ]
    return service(kind=kind, external=external, internal=internal, ports=ports, **named)  # type: ignore[arg-type]


WEB_PORTS = [endpoint_port(8080, "http"), endpoint_port(8443, "https"), endpoint_port(5353, "dns", "UDP")]
SLICE = endpoint_slice([HERE, THERE], ports=WEB_PORTS)


class Question(NamedTuple):
    """A packet, and what the answer holds: causes in their order, words of the messages, what would work."""

    items: Sequence[Item | Pod]
    source: str
    destination: str
    fate: str
    causes: Sequence[Cause]
    words: str
    works: str = ""
    configuration: NodeConfiguration = CONFIGURATION


LOCAL = web("LoadBalancer", "Local", vips=["192.0.2.1"], ranges=["203.0.113.0/24"])
IPV4_ONLY = replace(CONFIGURATION, families=(Family.IPV4,))
DUAL = service(cluster_ips=["10.96.0.10", "fd00::10"])

QUESTIONS = {
    # ---- the port, the protocol ----
    "wrong port": Question(
        [web(), SLICE], POD, "10.96.0.10:81/tcp", "rejected", [Cause.WRONG_PORT],
        "default/web has no port 81/TCP; it has 80/TCP (http), 443/TCP (https), 53/UDP (dns)",
        "10.96.0.10:80/tcp, ClusterIP of default/web:http",
    ),
    "wrong port of an externalIP": Question(
        [web(external_ips=["198.51.100.1"]), SLICE], CLIENT, "198.51.100.1:81/tcp", "untouched", [Cause.WRONG_PORT],
        "default/web has no port 81/TCP", "198.51.100.1:80/tcp, externalIP of default/web:http",
    ),
    "TCP to a UDP port": Question(
        [web(), SLICE], POD, "10.96.0.10:53/tcp", "rejected", [Cause.WRONG_PROTOCOL], "port 53 is UDP",
        "10.96.0.10:53/udp, ClusterIP of default/web:dns",
    ),
    "UDP to a TCP port": Question(
        [web(), SLICE], POD, "10.96.0.10:443/udp", "rejected", [Cause.WRONG_PROTOCOL], "port 443 is TCP",
        "10.96.0.10:443/tcp, ClusterIP of default/web:https",
    ),
    "SCTP to a TCP port": Question(
        [web(), SLICE], POD, "10.96.0.10:443/sctp", "rejected", [Cause.WRONG_PROTOCOL], "port 443 is TCP",
        "10.96.0.10:443/tcp, ClusterIP of default/web:https",
    ),
    "the target port": Question(
        [web(), SLICE], POD, "10.96.0.10:8443/tcp", "rejected", [Cause.TARGET_PORT],
        "8443 is the port of its endpoints, behind the Service's own",
        "10.96.0.10:443/tcp, ClusterIP of default/web:https",
    ),
    "the NodePort at the ClusterIP": Question(
        [web("NodePort"), SLICE], POD, "10.96.0.10:30443/tcp", "rejected", [Cause.NODE_PORT],
        "30443 is its NodePort", "192.168.1.10:30443/tcp, NodePort of default/web:https",
    ),
    "a ping": Question(
        [web(), SLICE], POD, "10.96.0.10/icmp", "rejected", [Cause.NO_PORTS], "there is nothing to ping",
        "10.96.0.10:80/tcp, ClusterIP of default/web:http",
    ),
    "a wrong port, while the right one has no endpoint": Question(
        [web(), endpoint_slice([endpoint("10.244.1.1", ready=False)], ports=WEB_PORTS)], POD, "10.96.0.10:444/tcp",
        "rejected", [Cause.WRONG_PORT, Cause.NO_ENDPOINTS, Cause.LEFT_OUT],
        "default/web:http has no endpoint that can be used: 1 listed, all left out",
    ),
    "TCP to a UDP port without an endpoint": Question(
        [web(), endpoint_slice([HERE], ports=WEB_PORTS[:2])], POD, "10.96.0.10:53/tcp", "rejected",
        [Cause.WRONG_PROTOCOL, Cause.UNMATCHED_PORT], 'has no port with the name "dns" and protocol UDP',
    ),
    "a wrong port of a VIP, from nobody who is let in": Question(
        [
            *NODES, service(kind="LoadBalancer", internal="Local", vips=["192.0.2.1"], ranges=["203.0.113.0/24"]),
            endpoint_slice([THERE]),
        ],
        "198.51.100.9", "192.0.2.1:81/tcp", "untouched", [Cause.WRONG_PORT, Cause.RANGES],
        "198.51.100.9 is in none of the spec.loadBalancerSourceRanges",
    ),
    "a ping, where nobody has endpoints": Question(
        [web()], POD, "10.96.0.10/icmp", "rejected", [Cause.NO_PORTS, Cause.NO_SLICES],
        "the input has no EndpointSlice of any Service, and so does not say who has endpoints",
    ),
    # ---- addresses of nodes ----
    "a NodePort of the other protocol, without endpoints": Question(
        [*NODES, web("NodePort"), endpoint_slice(ports=WEB_PORTS)], CLIENT, "192.168.1.10:30080/udp", "untouched",
        [Cause.WRONG_PROTOCOL, Cause.NO_ENDPOINTS], "its slices list none",
    ),
    "a NodePort on loopback": Question(
        [*NODES, web("NodePort"), SLICE], "node", "127.0.0.1:30080/tcp", "untouched", [Cause.NOT_ACCEPTED],
        "not on 127.0.0.1: loopback takes none (SVC-66)", "192.168.1.10:30080/tcp, NodePort of default/web:http",
    ),
    "a NodePort on an address that takes none": Question(
        [*NODES, web("NodePort"), SLICE], CLIENT, "198.51.100.77:30080/tcp", "untouched", [Cause.NOT_ACCEPTED],
        "NodePorts are on its addresses in 192.168.1.10/32", "192.168.1.10:30080/tcp, NodePort of default/web:http",
    ),
    "a Service's port at the node": Question(
        [*NODES, web("NodePort"), SLICE], CLIENT, "192.168.1.10:80/tcp", "untouched", [Cause.SERVICE_PORT],
        "default/web: 30080/TCP for 80", "192.168.1.10:30080/tcp, NodePort of default/web",
    ),
    "a target port at the node": Question(
        [*NODES, web("NodePort"), SLICE], CLIENT, "192.168.1.10:8443/tcp", "untouched", [Cause.SERVICE_PORT],
        "default/web: 30443/TCP for 443", "192.168.1.10:30443/tcp, NodePort of default/web",
    ),
    "a NodePort of the other protocol": Question(
        [*NODES, web("NodePort"), SLICE], CLIENT, "192.168.1.10:30080/udp", "untouched", [Cause.WRONG_PROTOCOL],
        "no Service has NodePort 30080/UDP; default/web has 30080/TCP",
        "192.168.1.10:30080/tcp, NodePort of default/web",
    ),
    "no NodePort": Question(
        [*NODES, web("NodePort"), SLICE], CLIENT, "192.168.1.10:31111/tcp", "untouched", [Cause.THIS_NODE],
        "no Service has NodePort 31111/TCP",
    ),
    "a ping of the node": Question(
        [*NODES, web()], CLIENT, "192.168.1.10/icmp", "untouched", [Cause.THIS_NODE], "answers pings itself",
    ),
    "an address of the node that is a Service's, too": Question(
        [*NODES, web(external_ips=["192.168.1.10"]), SLICE], CLIENT, "192.168.1.10:22/tcp", "untouched",
        [Cause.WRONG_PORT, Cause.THIS_NODE], "what listens on the node itself answers",
        "192.168.1.10:80/tcp, externalIP of default/web:http",
    ),
    "a NodePort on another node": Question(
        [*NODES, web("NodePort"), SLICE], POD, "192.168.1.11:30080/tcp", "untouched", [Cause.OTHER_NODE],
        "192.168.1.11 is node node-2's, whose rules decide", "explain with --node node-2",
    ),
    "another node, no NodePort": Question(
        [*NODES, web("NodePort"), SLICE], POD, "192.168.1.11:443/tcp", "untouched", [Cause.OTHER_NODE,
        Cause.SERVICE_PORT],
        "default/web: 30443/TCP for 443",
    ),
    "a host port that nobody serves": Question(
        [*NODES, pod("metrics", "10.244.1.5", host_port=9100)], CLIENT, "192.168.1.10:9100/tcp", "untouched",
        [Cause.THIS_NODE, Cause.HOST_PORT], "pod default/metrics asks for host port 9100/TCP", "--feature host-ports",
    ),
    # ---- addresses of pods ----
    "a pod": Question(
        [web(), SLICE], POD, "10.244.2.1:8443/tcp", "untouched", [Cause.POD], "pod default/web-2's, on node node-2",
    ),
    "a pod at the Service's port": Question(
        [web(), SLICE], POD, "10.244.2.1:443/tcp", "untouched", [Cause.SERVICE_PORT],
        "443/TCP is a port of default/web", "10.96.0.10:443/tcp, ClusterIP of default/web:https",
    ),
    "a pod's wrong protocol": Question(
        [web(), SLICE], POD, "10.244.2.1:8443/udp", "untouched", [Cause.WRONG_PROTOCOL], "known to have",
        "10.244.2.1:8443/tcp, the pod's own port",
    ),
    "a pod's wrong port": Question(
        [pod("metrics", "10.244.1.5")], POD, "10.244.1.5:9001/tcp", "untouched", [Cause.WRONG_PORT],
        "9000/TCP (metrics)", "10.244.1.5:9000/tcp, the pod's own port",
    ),
    "a pod's ping": Question([web(), SLICE], POD, "10.244.2.1/icmp", "untouched", [Cause.POD], "directly"),
    "an endpoint that is no pod": Question(
        [service(), endpoint_slice(["10.244.9.9"])], POD, "10.244.9.9:80/tcp", "untouched", [Cause.SERVICE_PORT],
        "10.244.9.9 is an endpoint of default/web", "10.96.0.10:80/tcp, ClusterIP of default/web",
    ),
    # ---- Services that have no rules ----
    "another proxy's": Question(
        [service(labels={"service.kubernetes.io/service-proxy-name": "x"}), SLICE], POD, "10.96.0.10:80/tcp",
        "untouched", [Cause.OTHER_PROXY], "gives it to another proxy (SVC-1)",
    ),
    "a VIP of mode Proxy": Question(
        [web("LoadBalancer", vips=[LoadBalancerIngress(ip="192.0.2.1", ip_mode="Proxy")]), SLICE], CLIENT,
        "192.0.2.1:80/tcp", "untouched", [Cause.OTHER_PROXY], "a VIP of ipMode Proxy",
        "192.168.1.10:30080/tcp, NodePort of default/web:http",
    ),
    "nobody's ClusterIP": Question(
        [web(), SLICE, CIDR], POD, "10.96.7.7:443/tcp", "dropped", [Cause.UNALLOCATED],
        "10.96.7.7 is in a ServiceCIDR, and no Service has it", "10.96.0.10:443/tcp, ClusterIP of default/web:https",
    ),
    "nobody's address": Question(
        [web(), SLICE], POD, "203.0.113.200:443/tcp", "untouched", [Cause.UNKNOWN_ADDRESS],
        "no Service, node or pod that is known has 203.0.113.200", "10.96.0.10:443/tcp, ClusterIP of default/web:https",
    ),
    "a family without rules": Question(
        [DUAL, endpoint_slice([HERE])], "node", "[fd00::10]:80/tcp", "untouched", [Cause.NO_RULES],
        "no rules for IPv6", "10.96.0.10:80/tcp, ClusterIP of default/web", IPV4_ONLY,
    ),
    # ---- policy Local, source ranges ----
    "external policy Local": Question(
        [*NODES, LOCAL, endpoint_slice([THERE, NOWHERE], ports=WEB_PORTS)], CLIENT, "192.168.1.10:30080/tcp", "dropped",
        [Cause.NO_LOCAL], "node-1 no endpoint: endpoints are on node-2 (1); 1 say no node",
        "192.168.1.11:30080/tcp, the NodePort on node-2",
    ),
    "external policy Local, a VIP": Question(
        [*NODES, LOCAL, endpoint_slice([THERE], ports=WEB_PORTS)], CLIENT, "192.0.2.1:80/tcp", "dropped",
        [Cause.NO_LOCAL], "endpoints are on node-2 (1)", "the same packet through node node-2",
    ),
    "internal policy Local": Question(
        [*NODES, web(internal="Local"), endpoint_slice([THERE], ports=WEB_PORTS)], POD, "10.96.0.10:80/tcp", "dropped",
        [Cause.NO_LOCAL], "has internalTrafficPolicy Local, and node-1 no endpoint", "a client on node-2",
    ),
    "policy Local, nobody says where": Question(
        [*NODES, web(internal="Local"), endpoint_slice([NOWHERE], ports=WEB_PORTS)], POD, "10.96.0.10:80/tcp",
        "dropped", [Cause.NO_LOCAL], "no endpoint says on which node it is (SVC-20)", "internalTrafficPolicy Cluster",
    ),
    "policy Local, only unready here": Question(
        [*NODES, web(internal="Local"), endpoint_slice([THERE, endpoint("10.244.1.1", "node-1", ready=False)],
        ports=WEB_PORTS)],
        POD, "10.96.0.10:80/tcp", "dropped", [Cause.NO_LOCAL, Cause.LEFT_OUT],
        "left out, not ready (SVC-28): 10.244.1.1:8080 (node-1)",
    ),
    "out of the ranges": Question(
        [*NODES, LOCAL, SLICE], "198.51.100.9", "192.0.2.1:80/tcp", "dropped", [Cause.RANGES],
        "198.51.100.9 is in none of the spec.loadBalancerSourceRanges of default/web:http: 203.0.113.0/24",
        "192.168.1.10:30080/tcp, NodePort of default/web:http",
    ),
    "in a range": Question(
        [*NODES, LOCAL, SLICE], CLIENT, "192.0.2.1:80/tcp", "balanced", [Cause.LET_IN, Cause.LOCAL, Cause.LEFT_OUT],
        "203.0.113.7 is let in by 203.0.113.0/24 of spec.loadBalancerSourceRanges",
    ),
    # ---- no endpoint ----
    "no slice": Question(
        [service()], POD, "10.96.0.10:80/tcp", "rejected", [Cause.NO_SLICES],
        "no EndpointSlice in namespace default has the label kubernetes.io/service-name: web",
        "an EndpointSlice with this label",
    ),
    "a label that names no Service": Question(
        [service(), endpoint_slice([HERE], service_name="wbe", name="web-x")], POD, "10.96.0.10:80/tcp", "rejected",
        [Cause.NO_SLICES, Cause.STRAY_SLICE], "default/web-x (wbe)", "the label kubernetes.io/service-name: web",
    ),
    "no label": Question(
        [service(), replace(SLICE, metadata=NamespacedMetadata(name="web-x"))], POD, "10.96.0.10:80/tcp", "rejected",
        [Cause.NO_SLICES, Cause.STRAY_SLICE], "without a Service's name: default/web-x",
    ),
    "a slice that is said to be headless": Question(
        [service(), endpoint_slice([HERE], labels={"service.kubernetes.io/headless": ""})], POD, "10.96.0.10:80/tcp",
        "rejected", [Cause.UNREAD_SLICE], "default/web-1 has the label service.kubernetes.io/headless",
        "the same slice without this label",
    ),
    "slices elsewhere": Question(
        [service(), endpoint_slice([HERE], namespace="shop")], POD, "10.96.0.10:80/tcp", "rejected",
        [Cause.NO_SLICES, Cause.STRAY_SLICE], "in another namespace: shop/web-1", "slices in namespace default",
    ),
    "slices of the other family": Question(
        [DUAL, endpoint_slice([HERE])], "node", "[fd00::10]:80/tcp", "rejected", [Cause.OTHER_FAMILY],
        "of address type IPv4, and none is IPv6", "an EndpointSlice of address type IPv6",
    ),
    "slices of names": Question(
        [service(), endpoint_slice([endpoint("a.example")], family="FQDN")], POD, "10.96.0.10:80/tcp", "rejected",
        [Cause.OTHER_FAMILY], "of address type FQDN",
    ),
    "an empty slice": Question(
        [service(), endpoint_slice()], POD, "10.96.0.10:80/tcp", "rejected", [Cause.NO_ENDPOINTS],
        "as when spec.selector matches no pod that runs: default/web-1", "a pod that spec.selector matches",
    ),
    "another port name": Question(
        [service(ports=[port(80, "http")]), endpoint_slice([HERE], ports=[endpoint_port(8080, "web")])], POD,
        "10.96.0.10:80/tcp", "rejected", [Cause.UNMATCHED_PORT],
        'EndpointSlice default/web-1 has no port with the name "http" and protocol TCP, but 8080/TCP named "web"',
    ),
    "another protocol in the slice": Question(
        [service(), endpoint_slice([HERE], ports=[endpoint_port(8080, "", "UDP")])], POD,
        "10.96.0.10:80/tcp", "rejected", [Cause.UNMATCHED_PORT], '8080/UDP named ""',
    ),
    "a slice port without a number": Question(
        [service(), endpoint_slice([HERE], ports=[endpoint_port(None, "")])], POD,
        "10.96.0.10:80/tcp", "rejected", [Cause.UNMATCHED_PORT], "one without a number",
    ),
    "nobody ready": Question(
        [service(), endpoint_slice([endpoint("10.244.1.1", "node-1", ready=False, target="web-1")])], POD,
        "10.96.0.10:80/tcp", "rejected", [Cause.NO_ENDPOINTS, Cause.LEFT_OUT],
        "left out, not ready (SVC-28): 10.244.1.1:8080 (web-1, node-1)", "an endpoint that is ready",
    ),
    "all weights 0": Question(
        [service(annotations={"rulegen.io/weights": "*=0"}), endpoint_slice([HERE])], POD, "10.96.0.10:80/tcp",
        "rejected", [Cause.NO_ENDPOINTS, Cause.LEFT_OUT], "left out, weight 0: no new connections (D9)",
    ),
    # ---- why the list is what it is ----
    "all ready": Question(
        [service(), endpoint_slice([HERE, THERE])], POD, "10.96.0.10:80/tcp", "balanced", [Cause.ALL_READY],
        "Cluster list: all ready endpoints (SVC-26): 2 of 2 endpoints",
    ),
    "hints in force": Question(
        [*NODES, service(), hinted("10.244.1.1", "zone-1"), hinted("10.244.2.1", "zone-2")], POD, "10.96.0.10:80/tcp",
        "balanced", [Cause.HINTS, Cause.LEFT_OUT], "ready endpoints hinted for zone zone-1 (SVC-32): 1 of 2 endpoints",
    ),
    "hints of a node": Question(
        [*NODES, service(), endpoint_slice([endpoint("10.244.1.1", nodes=["node-1"]), endpoint("10.244.2.1",
        nodes=["x"])])],
        POD, "10.96.0.10:80/tcp", "balanced", [Cause.HINTS, Cause.LEFT_OUT], "not hinted for node node-1",
    ),
    "hints ignored because of one": Question(
        [*NODES, service(), hinted("10.244.1.1", "zone-1"), endpoint_slice([THERE], name="x")], POD,
        "10.96.0.10:80/tcp",
        "balanced", [Cause.ALL_READY, Cause.HINTS_IGNORED],
        "have no effect, because without one: 10.244.2.1:8080 (web-2, node-2) (SVC-33)",
        "a hint at every ready endpoint",
    ),
    "hints ignored, another zone": Question(
        [*NODES, service(), hinted("10.244.1.1", "zone-9")], POD, "10.96.0.10:80/tcp", "balanced",
        [Cause.ALL_READY, Cause.HINTS_IGNORED], "have no effect: none is for zone zone-1",
        "hinted for this node or its zone",
    ),
    "hints ignored, no zone": Question(
        [node(), service(), hinted("10.244.1.1", "zone-9")], POD, "10.96.0.10:80/tcp", "balanced",
        [Cause.ALL_READY, Cause.HINTS_IGNORED], "this node's zone is not known",
        "the label topology.kubernetes.io/zone",
    ),
    "draining": Question(
        [service(), endpoint_slice([draining("10.244.1.1"), endpoint("10.244.2.1", ready=False)])], POD,
        "10.96.0.10:80/tcp", "balanced", [Cause.DRAINING, Cause.LEFT_OUT], "nobody is ready: those that terminate",
        "an endpoint that is ready",
    ),
    "draining here": Question(
        [*NODES, web(internal="Local"), endpoint_slice([draining("10.244.1.1", "node-1"), THERE], ports=WEB_PORTS)],
        POD,
        "10.96.0.10:80/tcp", "balanced", [Cause.DRAINING, Cause.LEFT_OUT], "nobody on this node is ready",
    ),
    "weights": Question(
        [service(annotations={"rulegen.io/weights": "web-1=5,web-3=0"}), endpoint_slice([HERE, THERE, NOWHERE])], POD,
        "10.96.0.10:80/tcp", "balanced", [Cause.ALL_READY, Cause.WEIGHTS, Cause.LEFT_OUT],
        "10.244.1.1:8080 5, 10.244.2.1:8080 1",
    ),
    "a part of the slices": Question(
        [service(), endpoint_slice([HERE]), endpoint_slice([THERE], name="web-2", ports=[endpoint_port(1, "x")])], POD,
        "10.96.0.10:80/tcp", "balanced", [Cause.ALL_READY, Cause.UNMATCHED_PORT], "EndpointSlice default/web-2",
    ),
    "another Service's": Question(
        [
            service("first", ["10.96.0.1"], external_ips=["192.0.2.9"], created="2026-01-01T00:00:00Z"),
            endpoint_slice([HERE], service_name="first", name="first"),
            service(external_ips=["192.0.2.9"], created="2026-01-02T00:00:00Z"), endpoint_slice([HERE]),
        ],
        POD, "192.0.2.9:80/tcp", "balanced", [Cause.ALL_READY, Cause.OTHER_OWNER],
        "default/web lists 192.0.2.9:80/tcp, too, but it belongs to default/first (D2)",
        "10.96.0.10:80/tcp, ClusterIP of default/web",
    ),
    # ---- names ----
    "headless": Question(
        [service(cluster_ips=["None"]), endpoint_slice([HERE], ports=[endpoint_port(8080)])], POD, "web", "untouched",
        [Cause.HEADLESS], "nothing translates port 80", "10.244.1.1:8080/tcp, pod default/web-1",
    ),
    "ExternalName": Question(
        [service(kind="ExternalName", cluster_ips=[], ports=[])], POD, "web", "untouched", [Cause.EXTERNAL_NAME],
        "type ExternalName",
    ),
    "no ClusterIP yet": Question(
        [service(cluster_ips=[])], POD, "web", "untouched", [Cause.OTHER_PROXY], "no ClusterIP yet", "a ClusterIP",
    ),
    "from a pod of another node": Question(
        [*NODES, service(), endpoint_slice([HERE, THERE])], "default/web-2", "web", "balanced",
        [Cause.ALL_READY, Cause.DECIDED_ELSEWHERE], "pod default/web-2 is on node node-2, whose rules decide",
        "explain with --node node-2",
    ),
}  # fmt: skip

EXTRA_ADDRESS = "198.51.100.77"


def _asked(view: View, question: Question) -> PacketExplanation:
    (explanation,) = answers(view, question.source, question.destination, [EXTRA_ADDRESS])
    return explanation


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_an_answer_ends_in_a_reason_and_in_what_would_work(question: Question) -> None:
    items = question.items if any(item in question.items for item in NODES) else [node(zone="zone-1"), *question.items]
    if any(item.metadata.name == "node-1" for item in question.items):
        items = question.items
    on_nftables, on_iptables = views(*items, configuration=question.configuration)
    explanation = _asked(on_nftables, question)
    assert explanation.fate == question.fate
    assert [why.cause for why in explanation.why] == list(question.causes)
    assert question.words in "\n".join(why.message for why in explanation.why)
    works = [text for why in explanation.why for text in why.would_work]
    assert question.works in "\n".join(works)
    assert _asked(on_iptables, question).why == explanation.why
    assert next(line.text for line in reason_lines(explanation)) == "  why"
    for text in works:
        _check_offer(on_nftables, question, text)


def _check_offer(view: View, question: Question, text: str) -> None:
    """A destination that is offered is reached from the same source, be it through a Service or directly."""
    destination, comma, what = text.partition(", ")
    if not comma or "/" not in destination or " on node-" in what or what.startswith("the host"):
        return
    (found,) = answers(
        view, "node" if ":" in question.destination[:5] else question.source, destination, [EXTRA_ADDRESS]
    )
    is_direct = what.startswith(("pod ", "the pod's"))
    assert found.fate == ("untouched" if is_direct else "balanced")
    if is_direct:
        assert [why.cause for why in found.why] == [Cause.POD]


def test_slices_of_another_version_are_named() -> None:
    notice = Notice(
        "old.yaml, document 2", Mistake.UNREAD_VERSION, "EndpointSlice of discovery.k8s.io/v1beta1, which is not read"
    )
    for view in views(node(), service(), notices=[notice]):
        (explanation,) = answers(view, POD, "web")
        assert [why.cause for why in explanation.why] == [Cause.NO_SLICES, Cause.UNREAD_SLICE]
        assert "old.yaml, document 2: EndpointSlice of discovery.k8s.io/v1beta1" in explanation.why[1].message


def test_what_is_told_is_bounded() -> None:
    """Of a thousand of anything a few are named, and how many more there are."""
    backends = [
        endpoint(f"10.244.{1 + i // 200}.{i % 200}", "node-2", ready=False, target=f"web-{i}") for i in range(1000)
    ]
    ports = [port(number, f"p{number}") for number in range(1, 501)]
    (view, _) = views(node(), service(ports=ports), endpoint_slice(backends, ports=[endpoint_port(8080, "p1")]))
    for destination in ("web:1", "web:5000"):
        (explanation,) = answers(view, POD, destination)
        assert explanation.why
        for why in explanation.why:
            assert len(why.message) < 1000
            assert len(why.would_work) <= 10
        assert "990 more" in explanation.why[-1].message or "490 more" in explanation.why[-1].message


def test_the_whole_matrix_says_the_same_on_both_targets() -> None:
    """Sources times destinations, most of which are nothing special: there is a reason for each."""
    items = [*NODES, LOCAL, SLICE, service("other", ["10.96.0.11"], external_ips=["198.51.100.1"]), CIDR]
    on_nftables, on_iptables = views(*items)
    hosts = (
        "10.96.0.10",
        "10.96.0.11",
        "10.96.0.12",
        "192.0.2.1",
        "198.51.100.1",
        "192.168.1.10",
        "192.168.1.11",
        "127.0.0.1",
        "10.244.2.1",
        "8.8.8.8",
    )
    for source in (POD, CLIENT, "198.51.100.9", "node"):
        for host in hosts:
            for service_port in ("80/tcp", "53/udp", "30080/tcp", "8080/tcp", "1/sctp"):
                (one,), (other,) = (
                    answers(view, source, f"{host}:{service_port}") for view in (on_nftables, on_iptables)
                )
                assert one.why, (source, host, service_port)
                assert one.why == other.why
                assert one.fate == other.fate
