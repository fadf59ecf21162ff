"""Source ranges of VIPs (SVC-13, SVC-50 to SVC-54) in the kernel: large lists, the node itself, what comes first."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.flows.scene import CLIENT, CLIENT_V6, EVERYBODY, NODE, NODE_V6, POD, POD_V6, SECOND, Scene
from tests.flows.world import HERE, Endpoint, Port, Service, State
from tests.lab import Fate

pytestmark = pytest.mark.kernel

VIP, SECOND_VIP, VIP_V6 = "198.18.0.1", "198.18.0.2", "2001:db8:f::1"
EXTERNAL_IP = "198.19.0.1"
ENDPOINTS = (
    Endpoint("10.128.0.5", HERE),
    Endpoint("10.128.1.7"),
    Endpoint("fd00:10:128::5", HERE),
    Endpoint("fd00:10:128:1::7"),
)
SERVICE = Service(
    "web",
    ("10.96.0.1", "fd00:10:96::1"),
    (Port(80, "TCP", 30080), Port(80, "UDP", 30080), Port(80, "SCTP", 30080)),
    ENDPOINTS,
    external_ips=(EXTERNAL_IP,),
    vips=(VIP, SECOND_VIP, VIP_V6),
    ranges=("203.0.113.0/25", "2001:db8:a::/64"),
)
ALLOWED, ALLOWED_V6 = "203.0.113.9", "2001:db8:a::9"


def many_ranges(seed: int) -> tuple[str, ...]:
    """A thousand, both families: single addresses, nested, adjacent, overlapping, some of them twice."""
    chance = random.Random(seed)
    chosen = []
    for _ in range(450):
        length = chance.choice((12, 16, 20, 24, 28, 31, 32))
        chosen.append(ip_network((chance.randrange(0x15000000, 0x16000000), length), strict=False))
        length = chance.choice((40, 48, 63, 64, 65, 96, 127, 128))
        address = 0x2600 << 112 | chance.getrandbits(20) << 80 | chance.getrandbits(8) << 56
        chosen.append(ip_network((address, length), strict=False))
    chosen += chance.choices(chosen, k=100)
    return tuple(map(str, chosen))


def edges(ranges: tuple[str, ...], seed: int) -> Iterator[str]:
    """Just inside and just outside of some of the ranges."""
    for cidr in random.Random(seed).sample(ranges, 60):
        network = ip_network(cidr)
        first, last = int(network[0]), int(network[-1])
        yield from (str(type(network[0])(number)) for number in (first - 1, first, last, last + 1))


def test_a_thousand_ranges(scene: Scene) -> None:
    ranges = many_ranges(1)
    assert len(ranges) == 1000
    single = replace(SERVICE, endpoints=ENDPOINTS[1::2])
    scene.services(replace(single, ranges=ranges))
    sources = list(edges(ranges, 1))
    scene.check([source for source in sources if ip_address(source).version == 4], VIP)
    scene.check([source for source in sources if ip_address(source).version == 6], VIP_V6)
    scene.services(replace(single, ranges=ranges[::2]))
    scene.check([source for source in sources if ip_address(source).version == 4], VIP)
    scene.check([source for source in sources if ip_address(source).version == 6], VIP_V6)


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_svc_50_only_vips_are_restricted(running: Scene, protocol: str) -> None:
    running.services(SERVICE)
    running.check((*EVERYBODY, ALLOWED), (VIP, SECOND_VIP, EXTERNAL_IP, "10.96.0.1"), 80, protocol)
    running.check((*EVERYBODY, ALLOWED), NODE, 30080, protocol)
    running.check((*EVERYBODY, ALLOWED), VIP, 81, protocol)
    running.check((CLIENT_V6, POD_V6, NODE_V6, ALLOWED_V6), (VIP_V6, "fd00:10:96::1"), 80, protocol)
    assert running.send(CLIENT, EXTERNAL_IP, 80, protocol)[0].fate is Fate.DELIVERED


def test_svc_51_dropped_before_the_short_circuit(running: Scene) -> None:
    """Policy Local lets pods and the node reach every endpoint, but not past the ranges."""
    for endpoints in (ENDPOINTS, ENDPOINTS[1:2] + ENDPOINTS[3:]):
        running.services(replace(SERVICE, external="Local", endpoints=endpoints))
        running.check((*EVERYBODY, ALLOWED), VIP)
        running.check((CLIENT_V6, POD_V6, NODE_V6, ALLOWED_V6), VIP_V6)
        for source in (POD, NODE, CLIENT):
            assert running.send(source, VIP)[0].fate is Fate.DROPPED
    running.services(replace(SERVICE, external="Local", ranges=(f"{POD}/32", f"{NODE}/32")))
    for source in (POD, NODE):
        assert running.send(source, VIP)[0].fate is Fate.DELIVERED


def test_svc_52_the_node_is_allowed_by_its_own_vip(scene: Scene) -> None:
    """Where a range holds the node's address; a VIP bound on the node is what its packets to it come from."""
    held = (*scene.world.addresses, f"{VIP}/32", f"{VIP_V6}/128")
    scene.change_node(addresses=held)
    for ranges in (("192.0.2.0/28", "2001:db8:0:1::/64"), ("192.0.2.128/28", "2001:db8:a::/64")):
        scene.services(replace(SERVICE, ranges=ranges))
        scene.check((VIP, NODE, SECOND, CLIENT), VIP)
        scene.check((VIP, SECOND_VIP), SECOND_VIP)
        scene.check((VIP_V6, NODE_V6, CLIENT_V6), VIP_V6)
    scene.services(replace(SERVICE, ranges=("192.0.2.0/28",)))
    assert scene.send(VIP, VIP)[0].fate is Fate.DELIVERED
    # Its address changes, and with it whether the exception holds.
    scene.change_node(internal_ips=("198.51.100.10", "2001:db8:0:2::10"))
    scene.check((VIP, NODE, SECOND), VIP)
    assert scene.send(VIP, VIP)[0].fate is Fate.DROPPED


def test_svc_54_without_endpoints_allowed_sources_are_rejected_and_others_dropped(running: Scene) -> None:
    for endpoints in ((), (Endpoint("10.128.0.5", HERE, State.UNREADY), Endpoint("fd00:10:128::5", HERE, State.ENDED))):
        running.services(replace(SERVICE, endpoints=endpoints))
        running.check((*EVERYBODY, ALLOWED), (VIP, SECOND_VIP))
        running.check((CLIENT_V6, POD_V6, NODE_V6, ALLOWED_V6), VIP_V6)
        assert running.send(ALLOWED, VIP)[0].fate is Fate.REJECTED
        assert running.send(CLIENT, VIP)[0].fate is Fate.DROPPED


def test_svc_13_a_range_of_length_0_opens(scene: Scene) -> None:
    for ranges in (("0.0.0.0/0", "203.0.113.0/25"), ("203.0.113.0/25", "::/0"), ("::/0",), ()):
        scene.services(replace(SERVICE, ranges=ranges))
        scene.check((*EVERYBODY, ALLOWED), VIP)
        scene.check((CLIENT_V6, POD_V6, ALLOWED_V6), VIP_V6)


def test_ranges_come_and_go_and_move(scene: Scene) -> None:
    for ranges in (("203.0.113.0/25",), ("203.0.113.128/25",), ("203.0.113.0/24",), (), ("203.0.113.200/32",)):
        scene.services(replace(SERVICE, ranges=ranges))
        scene.check((ALLOWED, CLIENT, POD), (VIP, SECOND_VIP))
    scene.services(replace(SERVICE, ranges=(f"{CLIENT}/32",), vips=(SECOND_VIP,)))
    scene.check((ALLOWED, CLIENT, POD), (VIP, SECOND_VIP))
