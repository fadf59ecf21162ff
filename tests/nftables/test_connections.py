"""Real connections through the rules: those in flight survive whatever happens to the rules."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from rulegen.demo.network import Network
from rulegen.demo.proxy import Proxy, Sample
from rulegen.demo.servers import Servers, ask_again, connect
from rulegen.nftables.transaction import plan
from rulegen.reconcile.delta import diff
from tests.nftables.host import Host, host_in

pytestmark = pytest.mark.kernel

VIP, PORT = "203.0.113.80", 80
DAMAGE = [
    "flush map ip rulegen endpoints",
    "flush chain ip rulegen frontend",
    "delete chain ip rulegen prerouting",
]
# The kernel tracks and translates no connection while there is no rule at all that needs it.
DOWNFALLS = ["flush table ip rulegen", "delete table ip rulegen"]


def _repair(host: Host, proxy: Proxy) -> None:
    """What `rulegen apply` does for the sample cluster."""
    live = host.read()
    compiler = proxy._compiler
    desired = compiler.entries()
    host.commit(plan(diff(live.entries, desired), live, compiler.base_chains, desired), live)


class _Connected(NamedTuple):
    """The sample cluster's node, and connections with what each server says."""

    host: Host
    proxy: Proxy
    connections: list[socket.socket]
    said: list[str]


@contextmanager
def _connected(rules: str = "") -> Iterator[_Connected]:
    """`rules`: those on the node to begin with; "" for this version's."""
    sample = Sample()
    with ExitStack() as opened:
        network = opened.enter_context(Network(list(sample.pods)))
        servers = opened.enter_context(Servers())
        sample.serve(servers, network.pods)
        host = opened.enter_context(host_in(network.node))
        if rules:
            host.nft(rules)
        proxy = opened.enter_context(closing(Proxy(sample.store, network.node)))
        if not rules:
            proxy.apply(proxy.plan_install())
        connections: list[socket.socket] = []
        said: list[str] = []
        # Chance chooses; that one is left out by so many happens once in 10^16 times.
        while len(said) < 12 or (set(said) != {"web-1", "web-2", "web-3"} and len(said) < 100):
            connections.append(opened.enter_context(connect(network.client, VIP, PORT)))
            said.append(connections[-1].recv(64).decode().strip())
        assert set(said) == {"web-1", "web-2", "web-3"}
        yield _Connected(host, proxy, connections, said)


def test_connections_in_flight_survive_an_upgrade_from_hooks_of_type_filter() -> None:
    rules = Path(__file__).with_name("fixtures") / "filter-hooks-sample.nft"
    with _connected(rules.read_text()) as (host, proxy, connections, before):
        _repair(host, proxy)
        assert "type filter" not in host.nft("list table ip rulegen")
        assert [ask_again(connection) for connection in connections] == before


def test_connections_in_flight_survive_damage_and_repair() -> None:
    with _connected() as (host, proxy, connections, before):
        for commands in DAMAGE:
            host.nft(commands)
            assert [ask_again(connection) for connection in connections] == before, commands
            _repair(host, proxy)
            assert [ask_again(connection) for connection in connections] == before, commands
        for commands in DOWNFALLS:
            # What the clients have not acknowledged yet they would acknowledge while nothing translates it.
            for connection in connections:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            host.nft(commands)
            _repair(host, proxy)
            assert [ask_again(connection) for connection in connections] == before, commands
