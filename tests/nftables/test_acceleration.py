"""Established connections go past forwarding where the kernel has flowtables; elsewhere nothing is left behind."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from rulegen.demo.namespaces import NetworkNamespace
from rulegen.demo.network import CLIENT_ADDRESS, NODE_ADDRESS, Network
from rulegen.nftables.acceleration import TABLE, Acceleration, UnsupportedError
from tests.agent.running import Ground, save, wait_until, web
from tests.conftest import flowtables_gap
from tests.lab.conntrack import Conntrack
from tests.patience import patience

pytestmark = pytest.mark.kernel

PODS = ["10.128.0.11", "10.128.0.12"]
PORT = 7000
OWN = "---\napiVersion: rulegen.io/v1alpha1\nkind: RulegenConfiguration\naccelerate: true"
# What others would see of a connection at forward.
COUNTED = """
table ip other {
  counter forwarded { }
  chain forward { type filter hook forward priority 300; counter name forwarded; }
}
"""


def nft(namespace: NetworkNamespace, commands: str) -> str:
    with namespace.entered():
        return subprocess.run(["nft", "-f", "-"], input=commands, capture_output=True, text=True, check=True).stdout


def listed(namespace: NetworkNamespace) -> str:
    return nft(namespace, "list ruleset")


@pytest.fixture
def node() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        yield namespace


@pytest.fixture
def acceleration(node: NetworkNamespace) -> Iterator[Acceleration]:
    with node.entered(), closing(Acceleration()) as made:
        yield made


def test_all_is_made_or_nothing_is_left(node: NetworkNamespace, acceleration: Acceleration) -> None:
    if flowtables_gap() is None:
        assert acceleration.ensure() == [f"made table inet {TABLE}"]
        assert acceleration.remove() == [f"inet {TABLE}"]
    else:
        with pytest.raises(UnsupportedError, match="this kernel has no flowtables"):
            acceleration.ensure()
    assert TABLE not in listed(node)
    assert acceleration.remove() == []


@pytest.mark.flowtables
def test_the_table_reads_as_documented(node: NetworkNamespace, acceleration: Acceleration) -> None:
    subprocess.run(["ip", "link", "add", "one", "type", "veth", "peer", "two"], check=True)
    assert acceleration.ensure() == [f"made table inet {TABLE}", "accelerating one, two"]
    text = " ".join(listed(node).split())
    assert "flowtable established { hook ingress priority filter devices = { one, two } }" in text
    assert "chain forward { type filter hook forward priority filter + 10; policy accept;" in text
    assert "ct state established ct status dnat flow add @established" in text
    assert acceleration.ensure() == []
    assert acceleration.remove() == [f"inet {TABLE}"]
    assert TABLE not in listed(node)


@pytest.mark.flowtables
def test_interfaces_that_come_and_go(node: NetworkNamespace, acceleration: Acceleration) -> None:
    acceleration.ensure()
    for number in range(150):  # more than fit into one message
        subprocess.run(["ip", "link", "add", f"a{number}", "type", "veth", "peer", f"b{number}"], check=True)
    done = acceleration.ensure()
    assert done[0].startswith("accelerating a0, a1, ")
    assert acceleration.ensure() == []
    subprocess.run(["ip", "link", "del", "a0"], check=True)
    assert acceleration.ensure() == []
    subprocess.run(["ip", "link", "add", "a0", "type", "veth", "peer", "b0"], check=True)
    assert acceleration.ensure() == ["accelerating a0, b0"]


@pytest.mark.flowtables
@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        f"flush chain inet {TABLE} forward",
        f"add rule inet {TABLE} forward drop",
        f"flush chain inet {TABLE} forward; add rule inet {TABLE} forward ct state new flow add @established",
    ],
)
def test_damage_is_repaired(node: NetworkNamespace, acceleration: Acceleration, damage: str) -> None:
    acceleration.ensure()
    before = listed(node)
    nft(node, damage)
    assert acceleration.ensure()[0] == f"made table inet {TABLE}"
    assert listed(node) == before


class Echo:
    """Servers that answer each datagram or line with the name of their pod."""

    def __init__(self, network: Network, opened: ExitStack, kind: socket.SocketKind) -> None:
        self._sockets = []
        for address, pod in network.pods.items():
            with pod.entered():
                server = opened.enter_context(socket.socket(socket.AF_INET, kind))
            server.bind((address, PORT))
            self._sockets.append(server)

    def __iter__(self) -> Iterator[socket.socket]:
        return iter(self._sockets)


def forwarded(network: Network) -> int:
    text = nft(network.node, "list counter ip other forwarded")
    return int(text.partition("packets ")[2].split()[0])


def translate(network: Network, protocol: str, pod: str) -> None:
    nft(
        network.node,
        f"""
        table ip proxy {{ }}
        delete table ip proxy
        table ip proxy {{
          chain prerouting {{
            type nat hook prerouting priority -100
            ip daddr {NODE_ADDRESS} {protocol} dport 80 dnat to {pod}:{PORT}
          }}
        }}
        """,
    )


@pytest.mark.flowtables
def test_later_packets_of_a_connection_skip_forwarding() -> None:
    with ExitStack() as opened:
        network = opened.enter_context(Network(PODS))
        nft(network.node, COUNTED)
        translate(network, "tcp", PODS[0])
        with network.node.entered():
            acceleration = opened.enter_context(closing(Acceleration()))
            acceleration.ensure()
        server, _ = Echo(network, opened, socket.SOCK_STREAM)
        server.listen()
        with network.client.entered():
            client = opened.enter_context(socket.create_connection((NODE_ADDRESS, 80), patience(5.0)))
        answering, _ = server.accept()
        opened.callback(answering.close)
        exchange(client, answering, 20)
        before = forwarded(network)
        exchange(client, answering, 200)
        assert before <= 20
        assert forwarded(network) - before == 0
        with network.node.entered():
            acceleration.remove()
        exchange(client, answering, 20)
        assert forwarded(network) - before >= 40


def exchange(client: socket.socket, server: socket.socket, times: int) -> None:
    for number in range(times):
        text = f"{number:8}".encode()
        for sender, receiver in ((client, server), (server, client)):
            sender.sendall(text)
            assert receiver.recv(64) == text


@pytest.mark.flowtables
def test_a_udp_flow_ends_with_its_conntrack_entry() -> None:
    with ExitStack() as opened:
        network = opened.enter_context(Network(PODS))
        translate(network, "udp", PODS[0])
        with network.node.entered():
            acceleration = opened.enter_context(closing(Acceleration()))
            acceleration.ensure()
            conntrack = Conntrack()
            opened.callback(conntrack.close)
        first, second = Echo(network, opened, socket.SOCK_DGRAM)
        with network.client.entered():
            client = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.bind((CLIENT_ADDRESS, 40000))
        for server in (first, second, client):
            server.settimeout(patience(2.0))
        client.connect((NODE_ADDRESS, 80))
        for _ in range(20):
            client.send(b"ask")
            _, address = first.recvfrom(64)
            first.sendto(b"answer", address)
            client.recv(64)
        # What moved the Service: the established flow stays where it is, until its entry goes.
        translate(network, "udp", PODS[1])
        client.send(b"ask")
        first.recv(64)
        conntrack.flush()
        client.send(b"ask")
        assert second.recv(64) == b"ask"


def test_the_agent_accelerates_or_says_once_that_it_cannot(node: NetworkNamespace, tmp_path: Path) -> None:
    ground = Ground(node, tmp_path)
    ground.configure(OWN)
    save(ground.manifests / "web.json", *web(1, 11))
    with ground.agent() as agent:
        if flowtables_gap() is None:
            agent.wait_for(f"acceleration: made table inet {TABLE}")
            with node.entered():
                subprocess.run(["ip", "link", "add", "late", "type", "veth", "peer", "later"], check=True)
            agent.wait_for("acceleration: accelerating late, later")
            nft(node, f"delete table inet {TABLE}")
            wait_until(lambda: TABLE in listed(node))
            ground.configure()
            agent.wait_for(f"acceleration: inet {TABLE}")
            wait_until(lambda: TABLE not in listed(node))
        else:
            agent.wait_for("accelerate is on, but this kernel has no flowtables")
            save(ground.manifests / "web.json", *web(1, 12))
            wait_until(lambda: "10.128.0.12" in listed(node))
            assert agent.log.count("no flowtables") == 1
        assert "table ip rulegen " in listed(node)
