"""Clients that keep their port reach the right endpoint after each change (SVC-72 to SVC-76, D5)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from rulegen.config import Family
from rulegen.conntrack.channel import Channel
from rulegen.conntrack.cleaner import LISTINGS_AT_MOST
from rulegen.errors import ConntrackError
from rulegen.kube.objects import Endpoint
from rulegen.netlink.messages import DUMP_INTERRUPTED, HEADER, NLMSG_DONE
from tests.builders import endpoint, node, port, service, service_cidr
from tests.conntrack.scene import (
    CLIENT,
    CLIENT_V6,
    ENDPOINTS,
    ENDPOINTS_V6,
    NODE,
    NODE_V6,
    REFUSED,
    SECOND_ADDRESS,
    TARGET,
    Entry,
    Scene,
    name_server,
)

pytestmark = pytest.mark.kernel

PORT, NODE_PORT = 53, 30053
UDP, TCP = socket.IPPROTO_UDP, socket.IPPROTO_TCP
CLIENT_PORT = 40053
CONNTRACK_ENTRY = 0x100
EXTERNAL = "203.0.113.53"


class Side(NamedTuple):
    """One IP family's addresses."""

    family: Family
    vip: str
    client: str
    node: str
    endpoints: Sequence[str]

    def others(self, reached: str) -> list[str]:
        assert reached in self.endpoints
        return [address for address in self.endpoints if address != reached]


IPV4 = Side(Family.IPV4, "10.96.0.10", CLIENT, NODE, ENDPOINTS[:2])
IPV6 = Side(Family.IPV6, "fd00:10:96::10", CLIENT_V6, NODE_V6, ENDPOINTS_V6[:2])
VIP = IPV4.vip

both_families = pytest.mark.parametrize("side", [IPV4, IPV6], ids=["ipv4", "ipv6"])


def entries_to(scene: Scene, address: str, number: int = PORT) -> list[Entry]:
    return [entry for entry in scene.entries() if (entry.destination, entry.port) == (address, number)]


@both_families
def test_an_endpoint_gone_the_same_client_reaches_another_at_once(scene: Scene, side: Side) -> None:
    scene.apply(*name_server(side.endpoints, address=side.vip))
    client = scene.open_client(CLIENT_PORT, side.client)
    first = client.ask(side.vip, PORT)
    scene.apply(*name_server(side.others(first), address=side.vip))
    assert client.ask(side.vip, PORT) == first
    cleaned = scene.clean()
    assert (cleaned.frontends, cleaned.listed, cleaned.removed) == (1, 1, {side.family: 1})
    assert [client.ask(side.vip, PORT)] == side.others(first)
    assert not scene.cleaner.is_pending


@both_families
def test_the_last_endpoint_gone_is_refused_at_once(scene: Scene, side: Side) -> None:
    scene.apply(*name_server(side.endpoints[:1], address=side.vip))
    client = scene.open_client(CLIENT_PORT, side.client)
    assert client.ask(side.vip, PORT) == side.endpoints[0]
    scene.apply(*name_server([], address=side.vip))
    assert client.ask(side.vip, PORT) == side.endpoints[0]
    assert scene.removed() == 1
    assert client.ask(side.vip, PORT) == REFUSED
    scene.apply(*name_server(side.endpoints[1:], address=side.vip))
    scene.clean()
    assert client.ask(side.vip, PORT) == side.endpoints[1]


@both_families
def test_a_flow_from_before_the_rules_moves_when_they_come(scene: Scene, side: Side) -> None:
    client = scene.open_client(CLIENT_PORT, side.client)
    client.send(side.vip, PORT)
    assert [entry.reply_source for entry in entries_to(scene, side.vip)] == [side.vip]
    scene.apply(*name_server(side.endpoints, address=side.vip))
    client.send(side.vip, PORT)  # goes where the first one went: the rules are asked once for each entry
    assert [entry.reply_source for entry in entries_to(scene, side.vip)] == [side.vip]
    assert scene.removed() == 1
    assert client.ask(side.vip, PORT) in side.endpoints


@both_families
def test_a_node_port_is_cleaned_where_it_is_accepted_and_nowhere_else(scene: Scene, side: Side) -> None:
    scene.apply(*name_server(side.endpoints, address=side.vip, kind="NodePort", node_port=NODE_PORT))
    client = scene.open_client(CLIENT_PORT, side.client)
    first = client.ask(side.node, NODE_PORT)
    elsewhere = "2001:db8:ffff::1" if side is IPV6 else "198.51.100.77"
    foreign = [(UDP, side.client, 1111, elsewhere, NODE_PORT, elsewhere)]
    if side is IPV4:
        foreign.append((UDP, CLIENT, 1112, SECOND_ADDRESS, NODE_PORT, SECOND_ADDRESS))
        foreign.append((UDP, "127.0.0.1", 1113, "127.0.0.1", NODE_PORT, "127.0.0.1"))
    scene.add_entries(foreign)
    scene.apply(*name_server(side.others(first), address=side.vip, kind="NodePort", node_port=NODE_PORT))
    assert client.ask(side.node, NODE_PORT) == first
    assert scene.removed() == 1
    assert [client.ask(side.node, NODE_PORT)] == side.others(first)
    assert len([entry for entry in scene.entries() if entry.source_port in {1111, 1112, 1113}]) == len(foreign)


def test_a_service_deleted_ends_what_was_translated_and_nothing_else(scene: Scene) -> None:
    scene.apply(*name_server(IPV4.endpoints, external_ips=[EXTERNAL]))
    client = scene.open_client(CLIENT_PORT)
    assert client.ask(EXTERNAL, PORT) in IPV4.endpoints
    scene.add_entries([(UDP, CLIENT, 1111, EXTERNAL, PORT, EXTERNAL)])
    scene.apply()
    assert scene.removed() == 1
    assert [entry.source_port for entry in entries_to(scene, EXTERNAL)] == [1111]


def test_a_vip_removed_ends_flows_to_it_and_no_others(scene: Scene) -> None:
    scene.apply(*name_server(ENDPOINTS, kind="LoadBalancer", vips=[EXTERNAL]))
    first, second = scene.open_client(CLIENT_PORT), scene.open_client(CLIENT_PORT + 1)
    reached = first.ask(VIP, PORT)
    second.ask(EXTERNAL, PORT)
    scene.clean()
    scene.apply(*name_server(ENDPOINTS, kind="LoadBalancer"))
    cleaned = scene.clean()
    assert (cleaned.frontends, cleaned.removed) == (1, {Family.IPV4: 1})
    assert entries_to(scene, EXTERNAL) == []
    assert first.ask(VIP, PORT) == reached


def test_a_port_removed_ends_flows_to_it(scene: Scene) -> None:
    service_, slice_ = name_server(ENDPOINTS)
    scene.apply(service_, slice_)
    scene.open_client().ask(VIP, PORT)
    scene.apply(service("dns", [VIP], [port(53, "dns-tcp")]), slice_)
    assert scene.removed() == 1
    assert entries_to(scene, VIP) == []


def test_a_frontend_that_moves_is_judged_by_its_new_owner(scene: Scene) -> None:
    old = name_server(ENDPOINTS[:1], "old", external_ips=[EXTERNAL], created="2026-01-01T00:00:00Z")
    new = name_server(ENDPOINTS[1:2], "new", "10.96.0.11", external_ips=[EXTERNAL], created="2026-01-02T00:00:00Z")
    scene.apply(*old, *new)
    scene.clean()
    client = scene.open_client()
    assert client.ask(EXTERNAL, PORT) == ENDPOINTS[0]
    scene.apply(*new)
    assert scene.removed() == 1
    assert client.ask(EXTERNAL, PORT) == ENDPOINTS[1]


@pytest.mark.parametrize(
    ("changed", "weight"),
    [
        (endpoint(ENDPOINTS[0], ready=False, serving=True), None),
        (endpoint(ENDPOINTS[0], ready=False, serving=True, terminating=True), None),
        (endpoint(ENDPOINTS[0], ready=True, serving=False), None),
        (endpoint(ENDPOINTS[0]), f"{ENDPOINTS[0]}=0"),
    ],
    ids=["not ready", "draining", "published", "weight 0"],
)
def test_who_still_serves_keeps_the_flows(scene: Scene, changed: Endpoint, weight: str | None) -> None:
    scene.apply(*name_server(ENDPOINTS[:1]))
    client = scene.open_client()
    assert client.ask(VIP, PORT) == ENDPOINTS[0]
    scene.clean()
    annotations = {"rulegen.io/weights": weight} if weight else None
    scene.apply(*name_server([changed, ENDPOINTS[1]], annotations=annotations))
    scene.cleaner.note_all()
    assert scene.removed() == 0
    assert client.ask(VIP, PORT) == ENDPOINTS[0]


def test_who_does_not_serve_any_more_loses_them(scene: Scene) -> None:
    scene.apply(*name_server(ENDPOINTS[:1]))
    client = scene.open_client()
    assert client.ask(VIP, PORT) == ENDPOINTS[0]
    gone = endpoint(ENDPOINTS[0], ready=False, serving=False, terminating=True)
    scene.apply(*name_server([gone, ENDPOINTS[1]]))
    assert scene.removed() == 1
    assert client.ask(VIP, PORT) == ENDPOINTS[1]


# ---- flows that nobody has answered: no rule sees them again (SVC-36, SVC-37, SVC-51, SVC-60, SVC-67) ----


def one_way(scene: Scene, address: str, number: int = PORT, source_port: int = CLIENT_PORT) -> None:
    """A datagram that nobody answers, which leaves an entry all the same."""
    scene.open_client(source_port).send(address, number)
    assert [entry.source_port for entry in entries_to(scene, address, number)] == [source_port]


def test_source_ranges_that_exclude_a_client_end_its_one_way_flow(scene: Scene) -> None:
    def restricted(*ranges: str) -> None:
        scene.apply(*name_server(ENDPOINTS, kind="LoadBalancer", vips=[EXTERNAL], ranges=ranges))

    restricted()
    reached = scene.open_client(CLIENT_PORT + 1).ask(EXTERNAL, PORT)
    one_way(scene, VIP)
    scene.clean()
    sender = scene.open_client(CLIENT_PORT + 2)
    for ranges in (("192.0.2.0/28", "198.51.100.0/24"), ("192.0.2.0/24",), ()):
        sender.send(EXTERNAL, PORT)
        restricted(*ranges)
        assert scene.removed() == 0
    restricted("198.51.100.0/24")
    assert scene.removed() == 1
    sender.send(EXTERNAL, PORT)
    assert [(entry.source_port, entry.reply_source) for entry in entries_to(scene, EXTERNAL)] == [
        (CLIENT_PORT + 1, reached)
    ]
    assert len(entries_to(scene, VIP)) == 1


@both_families
def test_an_endpoint_that_serves_but_gets_nothing_new_keeps_only_who_was_answered(scene: Scene, side: Side) -> None:
    scene.apply(*name_server(side.endpoints[:1], address=side.vip))
    answered, sender = scene.open_client(CLIENT_PORT, side.client), scene.open_client(CLIENT_PORT + 1, side.client)
    assert answered.ask(side.vip, PORT) == side.endpoints[0]
    sender.send(side.vip, PORT)
    scene.clean()
    scene.apply(*name_server([endpoint(side.endpoints[0], ready=False, serving=True)], address=side.vip))
    assert scene.removed() == 1
    assert sender.ask(side.vip, PORT) == REFUSED
    assert [entry.source_port for entry in entries_to(scene, side.vip)] == [CLIENT_PORT]


OTHER_PROXY = f"""
table ip other-proxy {{
  chain prerouting {{
    type nat hook prerouting priority dstnat + 10
    ip daddr 10.96.7.7 udp dport 53 dnat to {ENDPOINTS[2]}:{TARGET}
  }}
}}
"""


def test_service_ranges_that_come_end_one_way_flows_to_what_nobody_has(scene: Scene) -> None:
    scene.apply(*name_server(ENDPOINTS))
    scene.nft(OTHER_PROXY)
    scene.open_client(CLIENT_PORT).ask(VIP, PORT)
    one_way(scene, "10.96.0.99", source_port=CLIENT_PORT + 2)
    one_way(scene, "10.97.0.99", source_port=CLIENT_PORT + 3)
    one_way(scene, "10.96.7.7", source_port=CLIENT_PORT + 4)
    scene.clean()
    scene.apply(*name_server(ENDPOINTS), service_cidr("10.96.0.0/16"))
    cleaned = scene.clean()
    # The kernel keeps the flow that was answered for itself.
    assert (cleaned.listed, cleaned.removed) == (3, {Family.IPV4: 1})
    assert entries_to(scene, "10.96.0.99") == []
    left = {entry.destination: entry.reply_source for entry in scene.entries()}
    assert left.keys() == {VIP, "10.97.0.99", "10.96.7.7"}
    assert left["10.96.7.7"] == ENDPOINTS[2]
    assert not scene.cleaner.is_pending


def test_a_cluster_ip_that_is_freed_is_closed(scene: Scene) -> None:
    """SVC-67 drops what is sent there from now on, and the flows of before are no exception."""
    ranges, other = service_cidr("10.96.0.0/16"), name_server(ENDPOINTS, "other", "10.96.0.11")
    scene.apply(*name_server(ENDPOINTS), *other, ranges)
    scene.clean()
    made = [(UDP, CLIENT, 4000 + number, address, 9999, address) for number, address in enumerate((VIP, "10.96.0.11"))]
    scene.add_entries(made)
    scene.apply(*other, ranges)
    cleaned = scene.clean()
    assert (cleaned.listed, cleaned.removed) == (1, {Family.IPV4: 1})
    assert [entry.destination for entry in scene.entries()] == ["10.96.0.11"]


def test_an_address_that_accepts_no_node_ports_any_more(scene: Scene) -> None:
    ports = name_server(ENDPOINTS, kind="NodePort", node_port=NODE_PORT)
    scene.apply(*ports)
    reached = scene.open_client(CLIENT_PORT + 1).ask(NODE, NODE_PORT)
    sender = scene.open_client(CLIENT_PORT)
    sender.send(NODE, NODE_PORT)
    scene.clean()
    assert len(entries_to(scene, NODE, NODE_PORT)) == 2
    scene.apply(node(addresses=[SECOND_ADDRESS, NODE_V6]), *ports)
    assert scene.removed() == 1
    assert [(entry.source_port, entry.reply_source) for entry in entries_to(scene, NODE, NODE_PORT)] == [
        (CLIENT_PORT + 1, reached)
    ]


# Nobody's business of a name server at 10.96.0.10 whose endpoint 10.244.1.9 went.
UNCONCERNED = [
    (TCP, CLIENT, 2001, VIP, PORT, "10.244.1.9"),
    (TCP, CLIENT, 2002, VIP, PORT, VIP),
    (UDP, CLIENT, 2003, VIP, 54, VIP),
    (UDP, CLIENT, 2004, "10.96.0.99", PORT, "10.244.1.9"),
    (UDP, CLIENT, 2005, VIP, PORT, ENDPOINTS[0]),
    (UDP, VIP, PORT, CLIENT, 2006, CLIENT),
    (UDP, CLIENT, PORT, "10.244.1.9", TARGET, "10.244.1.9"),
]
CONCERNED = [(UDP, CLIENT, 3001, VIP, PORT, "10.244.1.9"), (UDP, CLIENT, 3002, VIP, PORT, VIP)]


@pytest.mark.parametrize("many", [False, True], ids=["one by one", "in one pass"])
def test_all_other_connections_survive(scene: Scene, many: bool) -> None:
    more = [item for number in range(LISTINGS_AT_MOST) for item in name_server([], f"s{number}", f"10.96.1.{number}")]
    scene.apply(*name_server(ENDPOINTS[:1]), *(more if many else ()))
    scene.add_entries(UNCONCERNED)
    before = scene.entries()
    scene.add_entries(CONCERNED)
    scene.add_entries([(UDP, CLIENT, 3003, VIP, PORT, VIP)], zone=7)
    assert scene.removed() == 2
    after = scene.entries()
    assert [entry for entry in after if not entry.zone] == before
    assert [entry.source_port for entry in after if entry.zone] == [3003]


def test_unconcerned_entries_are_never_copied(scene: Scene) -> None:
    scene.apply(*name_server(ENDPOINTS), *name_server(ENDPOINTS, "other", "10.96.0.11"))
    scene.clean()
    scene.add_entries((UDP, "203.0.113.9", 1000 + number, "10.96.0.11", PORT, "10.96.0.11") for number in range(2000))
    scene.add_entries((UDP, "203.0.113.9", 1000 + number, VIP, PORT, "10.244.1.9") for number in range(20))
    scene.apply(*name_server(ENDPOINTS[:2]), *name_server(ENDPOINTS, "other", "10.96.0.11"))
    cleaned = scene.clean()
    assert (cleaned.frontends, cleaned.listed, cleaned.removed) == (1, 20, {Family.IPV4: 20})
    assert len(entries_to(scene, "10.96.0.11")) == 2000
    scene.cleaner.note_all()
    assert scene.clean().removed == {Family.IPV4: 2000}


def test_of_ipv6_the_kernel_copies_what_has_the_same_port(scene: Scene) -> None:
    """By what it cannot be asked for more narrowly; see `narrowest_filter`."""
    other = "fd00:10:96::11"
    scene.apply(*name_server(ENDPOINTS_V6, address=IPV6.vip), *name_server(ENDPOINTS_V6, "other", other))
    scene.clean()
    sent_to = [(IPV6.vip, PORT), (other, PORT), (other, PORT + 1)]
    scene.add_entries((UDP, CLIENT_V6, 1000 + n, *to, "fd00::9") for n, to in enumerate(sent_to))
    scene.apply(*name_server(ENDPOINTS_V6[:2], address=IPV6.vip), *name_server(ENDPOINTS_V6, "other", other))
    cleaned = scene.clean()
    assert (cleaned.listed, cleaned.removed) == (2, {Family.IPV6: 1})
    assert len(scene.entries()) == 2


def test_rules_that_were_missing_for_a_while(scene: Scene) -> None:
    scene.apply(*name_server(ENDPOINTS))
    scene.clean()
    scene.delete_rules()
    client = scene.open_client()
    client.send(VIP, PORT)
    scene.apply(*name_server(ENDPOINTS))
    assert not scene.cleaner.is_pending
    scene.cleaner.note_all()
    assert scene.removed() == 1
    assert client.ask(VIP, PORT) in ENDPOINTS


class Interrupted:
    """The kernel's answers to the first listings, as if the table had been rearranged meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self._times = times
        self._receive = Channel._receive
        interrupted = self

        def receive(channel: Channel) -> bytes:
            return interrupted.mark(channel)

        monkeypatch.setattr(Channel, "_receive", receive)

    def mark(self, channel: Channel) -> bytes:
        data = bytearray(self._receive(channel))
        offset = 0
        while offset < len(data):
            length, kind, flags, _, _ = HEADER.unpack_from(data, offset)
            if self._times and kind in {CONNTRACK_ENTRY, NLMSG_DONE}:
                struct.pack_into("=H", data, offset + 6, flags | DUMP_INTERRUPTED)
                self._times -= kind == NLMSG_DONE
            offset += (length + 3) & ~3
        return bytes(data)


def test_an_interrupted_listing_is_processed_and_asked_for_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.apply(*name_server(ENDPOINTS[:1]))
    scene.add_entries(CONCERNED)
    Interrupted(monkeypatch, 4)
    cleaned = scene.clean()
    assert (cleaned.listed, cleaned.removed) == (2, {Family.IPV4: 2})


def test_a_listing_that_is_always_interrupted_leaves_nothing_but_itself_to_do(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.apply(*name_server(ENDPOINTS[:1]))
    scene.add_entries(CONCERNED)
    Interrupted(monkeypatch, 5)
    with pytest.raises(ConntrackError, match="interrupted 5 times"):
        scene.clean()
    assert entries_to(scene, VIP) == []
    assert scene.cleaner.is_pending
    assert scene.removed() == 0
    assert not scene.cleaner.is_pending
