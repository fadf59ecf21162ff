"""What the table does not show: replies, errors, the nodes' own packets, changes under connections, and the options."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from rulegen.config import Denial
from rulegen.config import PolicySettings as Settings
from tests.lab.packets import Packet, build
from tests.policies import checks, cluster
from tests.policies import documents as d
from tests.policies.cluster import BY_NAME, FAMILIES, NODE_1, NODE_2, NODE_ADDRESSES, PODS, Party, Probe
from tests.policies.documents import Document
from tests.policies.fixtures import lab_or_skip
from tests.policies.lab import NODES, Frame, Lab, interface_of
from tests.policies.product import Whole
from tests.policies.segments import without_header
from tests.policies.traffic import Connection, lost

pytestmark = pytest.mark.kernel

A, B, C = BY_NAME["x/a"], BY_NAME["x/b"], BY_NAME["y/a"]
OUTSIDE = BY_NAME["outside-1"]
DENY_ALL = tuple(d.policy(name, "deny", {}, policyTypes=["Ingress", "Egress"]) for name in cluster.NAMESPACES)
# x/a speaks first to all others, and nobody to x/a.
ONE_WAY = (
    d.policy("x", "in", d.selector({"pod": "a"}), policyTypes=["Ingress"]),
    d.policy("x", "b", d.selector({"pod": "b"}), policyTypes=["Egress"]),
    d.policy("y", "out", {}, policyTypes=["Egress"]),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


def enforce(lab: Lab, *policies: Document, without: Sequence[str] = (), **settings: Any) -> list[Document]:
    """The cluster with these policies on both nodes, but without some of its pods; its objects."""
    everything = [*cluster.objects(), *policies]
    objects = [
        one for one in everything if f"{one['metadata'].get('namespace')}/{one['metadata']['name']}" not in without
    ]
    for node in NODES:
        Whole(lab, node, Settings(**settings)).apply(objects)
    lab.forget_connections()
    return objects


def came_out(lab: Lab, *frames: Frame) -> list[bool]:
    """Of each, whether it did."""
    out = {without_header(frame.data) for frame in lab.exchange(frames)}
    return [without_header(frame.data) in out for frame in frames]


def packet(source: Party, destination: Party, port: int, protocol: str, family: int, source_port: int) -> bytes:
    here, there = source.addresses.of(family), destination.addresses.of(family)
    return build(Packet(here, there, port, protocol, source_port=source_port), source_port)


# ---- replies and errors ----


@pytest.mark.parametrize("other", [B, C], ids=["one node", "two nodes"])
@pytest.mark.parametrize("family", FAMILIES)
def test_replies_pass_though_the_way_back_is_forbidden(family: int, other: Party, lab: Lab) -> None:
    enforce(lab, *ONE_WAY)
    there = packet(A, other, 80, "UDP", family, 5000)
    back = packet(other, A, 5000, "UDP", family, 80)
    assert came_out(lab, Frame(interface_of(other), back)) == [False]
    lab.forget_connections()
    assert came_out(lab, Frame(interface_of(A), there), Frame(interface_of(other), back)) == [True, True]


@pytest.mark.parametrize("other", [B, C], ids=["one node", "two nodes"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"strict": True}], ids=["", "strict"])
def test_a_connection_one_way(settings: dict[str, Any], family: int, other: Party, lab: Lab) -> None:
    enforce(lab, *ONE_WAY, **settings)
    connection = Connection(Probe(A, other, family, "TCP", 80))
    assert lost(lab, connection.handshake()) == 0
    for number in range(4):
        assert lost(lab, connection.turn(server_first=number % 2 == 1)) == 0
    assert lost(lab, Connection(Probe(other, A, family, "TCP", 80)).handshake()[:1]) == 1


def _icmp_error(reporter: str, receiver: str, about: bytes) -> bytes:
    """Port unreachable, with the packet that it is about."""
    here, there = ip_address(reporter).packed, ip_address(receiver).packed
    version_6 = len(here) == 16
    protocol = socket.IPPROTO_ICMPV6 if version_6 else socket.IPPROTO_ICMP
    kind = (1, 4) if version_6 else (3, 3)
    message = struct.pack("!BBHI", *kind, 0, 0) + about[:96] + bytes(len(about[:96]) % 2)
    pseudo_header = here + there + struct.pack("!II", len(message), protocol) if version_6 else b""
    message = message[:2] + struct.pack("!H", _checksum(pseudo_header + message)) + message[4:]
    if version_6:
        return struct.pack("!IHBB", 0x60000000, len(message), protocol, 64) + here + there + message
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0x4000, 64, protocol, 0) + here + there
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


@pytest.mark.parametrize("reporter", [B, C, OUTSIDE], ids=["the pod, one node", "the pod, two nodes", "a router"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("family", FAMILIES)
def test_errors_of_allowed_flows_come_back(family: int, protocol: str, reporter: Party, lab: Lab) -> None:
    enforce(lab, *ONE_WAY)
    other = C if reporter is OUTSIDE else reporter
    sent = packet(A, other, 80, protocol, family, 5000)
    (arrived,) = lab.exchange([Frame(interface_of(A), sent)])
    error = _icmp_error(reporter.addresses.of(family), A.addresses.of(family), arrived.data)
    out = lab.exchange([Frame(interface_of(reporter), error)])
    assert [frame.interface for frame in out] == [interface_of(A)]


# ---- the nodes ----


@pytest.mark.parametrize("settings", [{}, {"strict": True, "fail_closed": True, "node_input": True}], ids=["", "all"])
def test_a_node_reaches_its_own_pods_and_not_the_others(settings: dict[str, Any], lab: Lab) -> None:
    enforce(lab, *DENY_ALL, **settings)
    for node in NODES:
        sender = Party(node, NODE_ADDRESSES[node], node)
        probes = [
            Probe(sender, pod, family, protocol, 80)
            for pod in PODS
            for family in FAMILIES
            for protocol in cluster.PROTOCOLS
        ]
        assert lab.arrived(probes) == [probe.destination.node == node for probe in probes]


def test_a_nodes_address_may_be_allowed_as_a_block(lab: Lab) -> None:
    blocks = [d.block(f"{NODE_ADDRESSES[NODE_1].v4}/32"), d.block(f"{NODE_ADDRESSES[NODE_1].v6}/128")]
    enforce(lab, *DENY_ALL, d.policy("x", "probes", {}, ingress=[d.rule(blocks)]))
    sender = Party(NODE_1, NODE_ADDRESSES[NODE_1], NODE_1)
    there = BY_NAME["x/c"]
    assert there.node == NODE_2
    assert all(lab.arrived([Probe(sender, there, family, "TCP", 80) for family in FAMILIES]))


def _received(lab: Lab, node: str, kind: tuple[int, int], frame: Frame) -> bool:
    """Whether the node itself gets the packet, behind all hooks, where a raw socket of the kind listens."""
    with lab.entered(node), socket.socket(kind[0], socket.SOCK_RAW | socket.SOCK_NONBLOCK, kind[1]) as receiver:
        lab.exchange([frame])
        wanted = without_header(frame.data)
        while True:
            try:
                if receiver.recv(1 << 16).endswith(wanted):
                    return True
            except BlockingIOError:
                return False


_UDP_SOCKETS = {4: (socket.AF_INET, socket.IPPROTO_UDP), 6: (socket.AF_INET6, socket.IPPROTO_UDP)}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_pods_send_to_their_node_is_denied_by_option(family: int, lab: Lab) -> None:
    node = Party(NODE_1, NODE_ADDRESSES[NODE_1], NODE_1)
    frame = Frame(interface_of(A), packet(A, node, 53, "UDP", family, 5000))
    enforce(lab, *DENY_ALL)
    assert _received(lab, NODE_1, _UDP_SOCKETS[family], frame)
    enforce(lab, *DENY_ALL, node_input=True)
    assert not _received(lab, NODE_1, _UDP_SOCKETS[family], frame)
    blocks = [d.block(f"{node.addresses.v4}/32"), d.block(f"{node.addresses.v6}/128")]
    dns = d.policy("x", "dns", {}, policyTypes=["Egress"], egress=[d.rule(blocks, [d.port(53, "UDP")], to=True)])
    enforce(lab, *DENY_ALL, dns, node_input=True)
    assert _received(lab, NODE_1, _UDP_SOCKETS[family], frame)


def test_neighbour_discovery_is_never_denied(lab: Lab) -> None:
    """A solicitation for the node's address, from an isolated pod's own address, as kernels send it."""
    enforce(lab, *DENY_ALL, node_input=True, fail_closed=True, strict=True)
    here, there = ip_address(A.addresses.v6).packed, ip_address(NODE_ADDRESSES[NODE_1].v6).packed
    message = struct.pack("!BBHI", 135, 0, 0, 0) + there + struct.pack("!BB6s", 1, 1, b"\2\0\0\0\0\7")
    checksum = _checksum(here + there + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6) + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    header = struct.pack("!IHBB", 0x60000000, len(message), socket.IPPROTO_ICMPV6, 255) + here + there
    frame = Frame(interface_of(A), header + message)
    assert _received(lab, NODE_1, (socket.AF_INET6, socket.IPPROTO_ICMPV6), frame)


# ---- a policy changes while there are connections ----


@pytest.mark.parametrize("other", [B, C], ids=["one node", "two nodes"])
@pytest.mark.parametrize("family", FAMILIES)
def test_connections_outlive_a_policy_that_forbids_them(family: int, other: Party, lab: Lab) -> None:
    enforce(lab)
    connection = Connection(Probe(A, other, family, "TCP", 80))
    assert lost(lab, connection.handshake()) == 0
    for node in NODES:
        Whole(lab, node).apply([*cluster.objects(), *DENY_ALL])
    for number in range(4):
        assert lost(lab, connection.turn(server_first=number % 2 == 0)) == 0


@pytest.mark.parametrize("other", [B, C], ids=["one node", "two nodes"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("strict", "lost_when_the_server_begins"), [(False, 0), (True, 2)], ids=["", "strict"])
def test_strict_lets_nobody_pick_a_forgotten_connection_up(
    strict: bool, lost_when_the_server_begins: int, family: int, other: Party, lab: Lab
) -> None:
    """The server may speak to the client, though not the other way round: its next packet looks like a connection."""
    objects = enforce(lab, strict=strict)
    closed = d.policy(other.name[0], "in", d.selector({"pod": other.name[2]}), policyTypes=["Ingress"])
    connection = Connection(Probe(A, other, family, "TCP", 80))
    assert lost(lab, connection.handshake()) == 0
    for node in NODES:
        Whole(lab, node, Settings(strict=strict)).apply([*objects, closed])
    lab.forget_connections()
    assert lost(lab, connection.turn()[:1]) == 1
    assert lost(lab, connection.turn(server_first=True)) == lost_when_the_server_begins


def test_strict_leaves_pods_alone_that_nothing_isolates(lab: Lab) -> None:
    """Connections that were there before the rules, or that took another way so far."""
    enforce(lab, d.policy("z", "deny", {}, policyTypes=["Ingress", "Egress"]), strict=True)
    connection = Connection(Probe(A, C, 4, "TCP", 80))
    assert lost(lab, connection.turn()) == 0


# ---- pods that nobody has told of ----


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_pods_that_are_not_known_yet_are_closed_by_option(closed: bool, lab: Lab) -> None:
    unknown = {"x/a", "z/b"}
    # What was at the address before, and what is on the host's network, does not make it known.
    enforce(lab, without=[*unknown, "y/failed"], fail_closed=closed)
    for probe, passed in zip(cluster.PROBES, lab.arrived(cluster.PROBES), strict=True):
        concerned = {probe.source.name, probe.destination.name} & unknown
        assert passed is not (closed and bool(concerned)), str(probe)


def test_a_finished_pod_is_not_known(lab: Lab) -> None:
    enforce(lab, without=["x/a"], fail_closed=True)
    assert lab.arrived([Probe(A, C, family, "TCP", 80) for family in FAMILIES]) == [False, False]


def test_the_node_reaches_pods_that_are_not_known_yet(lab: Lab) -> None:
    enforce(lab, without=["x/a"], fail_closed=True)
    sender = Party(NODE_1, NODE_ADDRESSES[NODE_1], NODE_1)
    assert all(lab.arrived([Probe(sender, A, family, "TCP", 80) for family in FAMILIES]))


# ---- denials ----


@pytest.mark.parametrize("protocol", cluster.PROTOCOLS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("denial", "answers"), [(Denial.DROP, 0), (Denial.REJECT, 1)], ids=["drop", "reject"])
def test_a_denial_is_answered_by_option(denial: Denial, answers: int, family: int, protocol: str, lab: Lab) -> None:
    enforce(lab, *DENY_ALL, denial=denial)
    out = lab.exchange([Frame(interface_of(A), packet(A, C, 80, protocol, family, 5000))])
    assert [frame.interface for frame in out] == [interface_of(A)] * answers


# ---- policies that cannot be read ----

_NO_CIDR, _NO_OPERATOR, _NO_PORT = (
    d.rule([d.block("10.0.0.0/33")]),
    d.rule([d.peer(d.selector(None, ("pod", "Resembles", ["a"])))]),
    d.rule(None, [d.port(70000)]),
)


@pytest.mark.parametrize(
    "rule", [_NO_CIDR, _NO_OPERATOR, _NO_PORT, "nonsense"], ids=["cidr", "operator", "port", "text"]
)
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_policy_that_cannot_be_read_isolates_its_pods_in_its_direction(direction: str, rule: Any, lab: Lab) -> None:
    if isinstance(rule, dict) and direction == "egress":
        rule = {("to" if key == "from" else key): value for key, value in rule.items()}
    spec = {"policyTypes": [direction.title()], direction: [rule]}
    good = d.policy("y", "good", {}, ingress=[d.rule([d.peer({})])])
    enforce(lab, d.policy("x", "bad", d.selector({"pod": "a"}), **spec), good)
    # As if it had no rules.
    checks.assert_same(
        lab,
        [*cluster.objects(), good, d.policy("x", "bad", d.selector({"pod": "a"}), policyTypes=[direction.title()])],
        f"{direction} with {rule}",
    )


def test_another_policy_may_allow_what_one_that_cannot_be_read_does_not(lab: Lab) -> None:
    bad = d.policy("x", "bad", d.selector({"pod": "a"}), ingress=[_NO_CIDR])
    good = d.policy("x", "good", {}, ingress=[d.rule([d.peer(None, {})], [d.port(80)])])
    enforce(lab, bad, good)
    empty = d.policy("x", "bad", d.selector({"pod": "a"}), ingress=[])
    checks.assert_same(lab, [*cluster.objects(), empty, good], "a bad policy and a good one")


@pytest.mark.parametrize("action", ["Accept", "Deny", "Pass"])
def test_a_cluster_policy_with_an_unknown_peer_fails_closed(action: str, lab: Lab) -> None:
    """As the documentation says: Accept matches nothing; Deny and Pass are rules that deny all."""
    unknown: Document = {"futureField": {}}
    everybody = [{"networks": ["0.0.0.0/0", "::/0"]}]
    policy = d.cluster_policy(
        "one", "Admin", 1, d.namespaces(d.selector({"ns": "x"})), egress=[d.cluster_rule(action, [unknown], to=True)]
    )
    enforce(lab, policy)
    meant = d.cluster_policy("one", "Admin", 1, policy["spec"]["subject"], egress=[])
    if action != "Accept":
        meant["spec"]["egress"] = [d.cluster_rule("Deny", everybody, to=True)]
    checks.assert_same(lab, [*cluster.objects(), meant], action)


def test_domain_names_never_accept_more(lab: Lab) -> None:
    rules = [
        d.cluster_rule("Accept", [{"domainNames": ["*.example.org"]}], to=True),
        d.cluster_rule("Accept", [{"domainNames": ["example.org"]}, d.pods(d.selector({"pod": "a"}))], to=True),
        d.cluster_rule("Deny", [{"networks": ["0.0.0.0/0", "::/0"]}], to=True),
    ]
    policy = d.cluster_policy("one", "Admin", 1, d.namespaces(), egress=rules)
    checks.assert_same(lab, enforce(lab, policy), "domain names")
