"""The kernel's table: what cannot be had is one clear line, and no entry is removed in place of another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from rulegen.config import Family
from rulegen.conntrack.table import ConnectionTable, Filter
from rulegen.errors import ConntrackError, HostError
from rulegen.interfaces import own_addresses
from tests.conntrack.scene import CLIENT, NODE, NODE_V6, SECOND_ADDRESS, Scene

pytestmark = pytest.mark.kernel

VIP, OTHER = "10.96.0.10", "10.96.0.11"
UDP, TCP = socket.IPPROTO_UDP, socket.IPPROTO_TCP


@pytest.mark.skipif(os.geteuid() != 0, reason="is without privileges already")
def test_without_privileges_says_so() -> None:
    script = "from rulegen.conntrack.table import *; list(ConnectionTable().udp_flows(Filter(Family.IPV4)))"
    command = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    done = subprocess.run([*command, sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        "rulegen.errors.HostError: listing connections: Operation not permitted; it needs root, or the capability "
        "CAP_NET_ADMIN"
    )


@pytest.mark.user_namespace
def test_net_admin_in_a_user_namespace_is_enough() -> None:
    script = "from rulegen.conntrack.table import *; print(list(ConnectionTable().udp_flows(Filter(Family.IPV4))))"
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_what_the_kernel_refuses_is_named(scene: Scene) -> None:
    with scene.node.entered(), ConnectionTable() as table:
        channel = table._listing
        assert isinstance(channel.error(22), HostError)
        assert "nf_conntrack_netlink" in str(channel.error(22))
        assert str(channel.error(12)) == "listing connections: Cannot allocate memory"
        assert isinstance(channel.error(12), ConntrackError)


def test_the_kernel_chooses_by_address_and_port(scene: Scene) -> None:
    sent_to = [(VIP, 53), (VIP, 54), (OTHER, 53), ("198.51.100.1", 9)]
    scene.add_entries((UDP, CLIENT, 1000 + n, *to, to[0]) for n, to in enumerate(sent_to))
    scene.add_entries((TCP, CLIENT, 1000 + n, *to, to[0]) for n, to in enumerate(sent_to))
    expected = {
        Filter(Family.IPV4): sent_to,
        Filter(Family.IPV4, VIP): [(VIP, 53), (VIP, 54)],
        Filter(Family.IPV4, VIP, 53): [(VIP, 53)],
        Filter(Family.IPV4, "", 53): [(VIP, 53), (OTHER, 53)],
        Filter(Family.IPV6): [],
    }
    with scene.node.entered(), ConnectionTable() as table:
        for wanted, flows in expected.items():
            before = table.listed
            found = [(tracked.flow.destination, tracked.flow.port) for tracked in table.udp_flows(wanted)]
            assert sorted(found) == sorted(flows)
            assert table.listed - before == len(flows)


def test_svc_75_an_entry_that_replaced_another_stays(scene: Scene) -> None:
    """Right after, when the kernel gives it the same place in memory and so the same number."""
    scene.add_entries([(UDP, CLIENT, 1000, VIP, 53, "10.244.1.8")])
    with scene.node.entered(), ConnectionTable() as table:
        stale = list(table.udp_flows(Filter(Family.IPV4, VIP, 53)))
        assert table.remove(stale) == 1
        scene.add_entries([(UDP, CLIENT, 1000, VIP, 53, "10.244.1.9")])
        assert table.remove(stale) == 0
    assert [entry.reply_source for entry in scene.entries()] == ["10.244.1.9"]


def test_own_addresses(scene: Scene) -> None:
    with scene.node.entered():
        assert {NODE, SECOND_ADDRESS, "127.0.0.1"} <= set(own_addresses(Family.IPV4))
        assert {NODE_V6, "::1"} <= set(own_addresses(Family.IPV6))
