"""Options of policies in packets, on every target: `strict` when the server speaks first, `failClosed` at the node."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rulegen.config import PolicySettings as Settings
from rulegen.iptables.binaries import Variant
from tests.policies import cluster
from tests.policies import documents as d
from tests.policies.cluster import BY_NAME, FAMILIES, NODE_1, NODE_ADDRESSES, Party, Probe
from tests.policies.documents import Document
from tests.policies.fixtures import lab_or_skip
from tests.policies.kept import KeptPolicies
from tests.policies.lab import NODES, Frame, Lab, interface_of
from tests.policies.segments import SYN, segment, without_header
from tests.policies.traffic import Connection, lost

pytestmark = pytest.mark.kernel

A, B, C = BY_NAME["x/a"], BY_NAME["x/b"], BY_NAME["y/a"]
TARGETS = [None, *Variant]
every_target = pytest.mark.parametrize(
    "variant", TARGETS, ids=["nftables", *(f"iptables-{variant.value}" for variant in Variant)]
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


@contextmanager
def enforcing(lab: Lab, settings: Settings, variant: Variant | None) -> Iterator[dict[str, KeptPolicies]]:
    nodes = {node: KeptPolicies(lab, node, settings, variant) for node in NODES}
    try:
        yield nodes
    finally:
        for kept in nodes.values():
            kept.close()
        # A node that is gone leaves its pods closed; a program without the option does not.
        for node in NODES:
            cleaning = KeptPolicies(lab, node, variant=variant)
            cleaning.apply([])
            cleaning.close()


@pytest.mark.part(2)
@every_target
@pytest.mark.parametrize("other", [B, C], ids=["one node", "two nodes"])
def test_a_server_that_speaks_first_revives_nothing(other: Party, variant: Variant | None, lab: Lab) -> None:
    closed = d.policy(other.name[0], "in", d.selector({"pod": other.name[2]}), policyTypes=["Ingress"])
    for strict, lost_when_the_server_begins in ((False, 0), (True, 2)):
        with enforcing(lab, Settings(strict=strict), variant) as nodes:
            for family in FAMILIES:
                apply(nodes, cluster.objects())
                lab.forget_connections()
                connection = Connection(Probe(A, other, family, "TCP", 80))
                assert lost(lab, connection.handshake()) == 0
                apply(nodes, [*cluster.objects(), closed])
                lab.forget_connections()
                assert lost(lab, connection.turn()[:1]) == 1
                assert lost(lab, connection.turn(server_first=True)) == lost_when_the_server_begins
                # What begins as a connection does is judged by the policies alone.
                assert lab.arrived([Probe(other, A, family, "TCP", 80)]) == [True]


def apply(nodes: dict[str, KeptPolicies], objects: list[Document]) -> None:
    for kept in nodes.values():
        kept.apply(objects)


# ---- the node itself as a destination ----

# A bridge that pods are on has an address of their range.
BRIDGE = "10.128.0.254"


@pytest.fixture
def bridge(lab: Lab) -> Iterator[None]:
    with lab.entered(NODE_1):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "address", "add", f"{BRIDGE}/32", "dev", "lo"], check=True)
        yield
        subprocess.run(["ip", "address", "del", f"{BRIDGE}/32", "dev", "lo"], check=True)


def answers(lab: Lab, source: Party) -> bool:
    """Whether the node answers a pod's SYN to a port of its own that nobody listens on."""
    here, there = (source.addresses.v4, 20_000), (NODE_ADDRESSES[NODE_1].v4, 9)
    lab.forget_connections()
    frames = lab.exchange([Frame(interface_of(source), segment(here, there, SYN, 0, 0))])
    return any(without_header(frame.data)[:4] == bytes([0, 9, 20_000 >> 8, 20_000 & 0xFF]) for frame in frames)


def reaches_itself(lab: Lab) -> bool:
    """From the address in the pods' range to the same, by the loopback interface."""
    with (
        lab.entered(NODE_1),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind((BRIDGE, 0))
        client.bind((BRIDGE, 0))
        # What loopback delivers is there when the call returns.
        server.setblocking(False)
        client.sendto(b"it", server.getsockname())
        try:
            return server.recv(8) == b"it"
        except BlockingIOError:
            return False


@every_target
def test_an_unknown_pod_does_not_reach_the_node_and_that_reaches_itself(
    variant: Variant | None, lab: Lab, bridge: None
) -> None:
    del bridge
    others = [one for one in cluster.objects() if one["metadata"]["name"] != "a" or one["kind"] != "Pod"]
    objects = [*others, d.policy("z", "any", {}, policyTypes=["Ingress"])]
    for node_input, is_answered in ((False, True), (True, False)):
        with enforcing(lab, Settings(fail_closed=True, node_input=node_input), variant) as nodes:
            nodes[NODE_1].apply(objects)
            assert answers(lab, A) is is_answered
            assert answers(lab, B)
            assert reaches_itself(lab)
