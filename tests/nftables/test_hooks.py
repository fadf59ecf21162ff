"""All hooks are of type nat and see the first packet of a connection: what follows from that, beside other programs."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest

from rulegen.claims import HOOKS
from rulegen.config import Family
from rulegen.nftables.elements import IP_KEYWORD
from tests.builders import Item, endpoint, endpoint_slice, node, service, service_cidr
from tests.lab import UPLINK, Fate, Lab, Packet
from tests.lab.packets import NODE, build
from tests.nftables.host import Host, host_in

pytestmark = pytest.mark.kernel

POD, CLIENT, VIP, ENDPOINT = "10.244.0.9", "203.0.113.9", "10.96.0.10", "10.244.1.1"
POD_V6, VIP_V6, ENDPOINT_V6 = "fd00:10:244::9", "fd00:10:96::10", "fd00:10:244:1::1"
# In the ServiceCIDRs, but of Services that another proxy serves.
LABELLED, LABELLED_V6 = "10.96.7.7", "fd00:10:96::7:7"
THEIRS, THEIRS_V6 = "10.244.9.9", "fd00:10:244:9::9"
ITEMS: list[Item] = [
    node(addresses=["192.0.2.10", "2001:db8:0:1::10"]),
    service_cidr("10.96.0.0/16", "fd00:10:96::/108"),
    service(cluster_ips=[VIP, VIP_V6]),
    endpoint_slice([endpoint(ENDPOINT)]),
    endpoint_slice([endpoint(ENDPOINT_V6)], name="web-2", family="IPv6"),
]
SIDES = [
    pytest.param(POD, VIP, LABELLED, THEIRS, id="ipv4"),
    pytest.param(POD_V6, VIP_V6, LABELLED_V6, THEIRS_V6, id="ipv6"),
]


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    """The lab's node with ITEMS in force."""
    with host_in(lab.namespace) as made:
        made.apply(*ITEMS)
        yield made


def sent(lab: Lab, sources: Sequence[str], destination: str, port: int = 80) -> set[tuple[Fate, str]]:
    """The fates and endpoints of a connection from each source."""
    outcomes = lab.send(Packet(source, destination, port) for source in sources)
    return {(outcome.fate, outcome.endpoint.rpartition(":")[0].strip("[]")) for outcome in outcomes}


def test_every_hook_is_of_type_nat_and_no_two_stand_in_one_place(host: Host) -> None:
    for family in Family:
        listing = json.loads(host.run("nft", "-j", "list", "table", IP_KEYWORD[family], "rulegen").stdout)
        chains = [item["chain"] for item in listing["nftables"] if "hook" in item.get("chain", {})]
        found = {chain["name"]: (chain["type"], chain["hook"], chain["prio"]) for chain in chains}
        assert found == {name: tuple(hook) for name, hook in HOOKS.items()}
        assert {chain["type"] for chain in chains} == {"nat"}
        assert len({(chain["hook"], chain["prio"]) for chain in chains}) == len(chains)


def _other_proxy(priority: int) -> str:
    tables = ""
    for ip, address, theirs in (("ip", LABELLED, THEIRS), ("ip6", LABELLED_V6, f"[{THEIRS_V6}]")):
        rule = f"{ip} daddr {address} tcp dport 80 dnat {ip} to {theirs}:8080"
        chains = "".join(
            f"chain {hook} {{ type nat hook {hook} priority {priority}; {rule}; }}\n"
            for hook in ("prerouting", "output")
        )
        tables += f"table {ip} other-proxy {{\n{chains}}}\n"
    return tables


@pytest.mark.parametrize("priority", [-110, -100, -90])
@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize(("pod", "vip", "labelled", "theirs"), SIDES)
def test_a_proxy_for_labelled_services_keeps_them(
    lab: Lab, priority: int, ours_first: bool, pod: str, vip: str, labelled: str, theirs: str
) -> None:
    """Before and after ours, and though their ClusterIPs are none of ours but in the ServiceCIDRs (SVC-67)."""
    with host_in(lab.namespace) as made:
        if ours_first:
            made.apply(*ITEMS)
        made.nft(_other_proxy(priority))
        if not ours_first:
            made.apply(*ITEMS)
        ours = ENDPOINT if vip == VIP else ENDPOINT_V6
        for source in (pod, NODE):
            assert sent(lab, [source], labelled) == {(Fate.DELIVERED, theirs)}
            assert sent(lab, [source], vip) == {(Fate.DELIVERED, ours)}
            assert sent(lab, [source], labelled, 81) == {(Fate.DROPPED, "")}
            assert sent(lab, [source], vip, 81) == {(Fate.REJECTED, "")}


def test_who_translates_first_has_it(lab: Lab, host: Host) -> None:
    """Another program's DNAT of a frontend of ours, ahead of ours: as it was asked to, to wherever it says."""
    host.nft(
        f"table ip early {{ chain c {{ type nat hook prerouting priority -150; ip daddr {VIP} dnat to {THEIRS}; }}; }}"
    )
    assert sent(lab, [POD], VIP) == {(Fate.DELIVERED, THEIRS)}
    assert sent(lab, [POD], VIP, 81) == {(Fate.DELIVERED, THEIRS)}


def test_what_is_translated_is_not_asked_again(lab: Lab, host: Host) -> None:
    """D20: an endpoint that is another Service's ClusterIP, at a port that it does not have."""
    host.apply(*ITEMS, service("other", ["10.96.0.20"]), endpoint_slice(["10.96.0.20"]))
    for source in (POD, NODE):
        assert sent(lab, [source], VIP) == {(Fate.DELIVERED, "10.96.0.20")}
        assert sent(lab, [source], "10.96.0.20", 8080) == {(Fate.REJECTED, "")}


@pytest.mark.parametrize(("vip", "client", "ours"), [(VIP, CLIENT, ENDPOINT), (VIP_V6, POD_V6, ENDPOINT_V6)])
def test_a_cluster_ip_that_the_node_has_stays_reachable(lab: Lab, host: Host, vip: str, client: str, ours: str) -> None:
    """As NodeLocal DNS has it: what the Service does not have is the node's; its own port is balanced."""
    assert sent(lab, [client], vip, 9253) == {(Fate.REJECTED, "")}
    lab.add_address(f"{vip}/{128 if ':' in vip else 32}")
    assert sent(lab, [client], vip, 9253) == {(Fate.PASSED, vip)}
    assert lab.send([Packet(client, vip, protocol="ICMP")])[0].fate is Fate.PASSED
    assert sent(lab, [client], vip) == {(Fate.DELIVERED, ours)}


@pytest.mark.parametrize("number", [80, 81])
def test_what_is_not_tracked_is_left_alone(lab: Lab, host: Host, number: int) -> None:
    hooks = "".join(
        f"chain {hook} {{ type filter hook {hook} priority raw; ip daddr {VIP} notrack; }}\n"
        for hook in ("prerouting", "output")
    )
    host.nft(f"table ip untracked {{\n{hooks}}}")
    assert sent(lab, [POD, CLIENT], VIP, number) == {(Fate.PASSED, VIP)}


# ---- packets that are no first ones ----


def _segment(source: str, destination: str, flags: int, number: int = 1) -> bytes:
    """A TCP segment with other flags than SYN."""
    data = bytearray(build(Packet(source, destination, 80, source_port=4000 + number), number))
    header = 40 if ":" in source else 20
    before = struct.unpack_from("!H", data, header + 12)[0]
    after = 0x5000 | flags
    checksum = struct.unpack_from("!H", data, header + 16)[0]
    # RFC 1624: the checksum follows the word that changes.
    total = (~checksum & 0xFFFF) + (~before & 0xFFFF) + after
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!HH", data, header + 12, after, 65535)
    struct.pack_into("!H", data, header + 16, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    return bytes(data)


def _counted(host: Host, matches: dict[str, str]) -> None:
    """Counts forwarded packets, each kind under its name."""
    counters = "".join(f"counter {name} {{ }}\n" for name in matches)
    rules = "".join(f"{match} counter name {name}\n" for name, match in matches.items())
    chain = f"chain forward {{ type filter hook forward priority 200;\n{rules}}}\n"
    host.nft(f"table inet watch {{\n{counters}{chain}}}")


def _count(host: Host, name: str) -> int:
    listing = host.run("nft", "-j", "list", "counter", "inet", "watch", name).stdout
    return int(json.loads(listing)["nftables"][-1]["counter"]["packets"])


ACK, FIN_RST = 0x10, 0x05


@pytest.mark.parametrize(
    ("client", "vip", "ip", "ours"), [(CLIENT, VIP, "ip", ENDPOINT), (POD_V6, VIP_V6, "ip6", ENDPOINT_V6)]
)
def test_a_connection_picked_up_in_the_middle_is_balanced(
    lab: Lab, host: Host, client: str, vip: str, ip: str, ours: str
) -> None:
    """As after a restart that lost the table of connections (nf_conntrack_tcp_loose)."""
    _counted(host, {"translated": f"{ip} daddr {ours} tcp flags ack", "untouched": f"{ip} daddr {vip}"})
    interface = lab._completed(Packet(client, vip, 80)).interface
    for number in range(1, 11):
        lab._wires[interface or UPLINK].send(_segment(client, vip, ACK, number))
    assert (_count(host, "translated"), _count(host, "untouched")) == (10, 0)


def test_what_connection_tracking_calls_invalid_is_not_dropped(lab: Lab, host: Host) -> None:
    """SVC-70, D1: there is nothing of ours that would see it."""
    _counted(host, {"invalid": f"ip daddr {VIP} ct state invalid"})
    for number in range(1, 6):
        lab._wires[UPLINK].send(_segment(CLIENT, VIP, FIN_RST, number))
    assert _count(host, "invalid") == 5


# ---- the scratch register ----

_REGISTER = """
table inet register {
  counter in-use { }
  counter kept { }
  chain used { type filter hook prerouting priority -90; meta priority & 0x80000000 != 0 counter name in-use; }
  chain used-by-node { type filter hook output priority -90; meta priority & 0x80000000 != 0 counter name in-use; }
  chain left { type filter hook postrouting priority 200; meta priority & 0x80000000 != 0 counter name kept; }
  chain received { type filter hook input priority 200; meta priority & 0x80000000 != 0 counter name kept; }
}
"""
_MASQUERADE = "table %s other { chain c { type nat hook postrouting priority srcnat; masquerade; }; }\n"


@pytest.mark.parametrize("beside_others", [True, False])
@pytest.mark.parametrize("ours_first", [True, False])
def test_no_packet_leaves_with_the_scratch_register(lab: Lab, beside_others: bool, ours_first: bool) -> None:
    """Another program's masquerade keeps the kernel from calling chains of type nat behind it; forwarded IPv6 packets
    and the node's own keep their priority."""
    on_node = endpoint_slice([endpoint("2001:db8:0:1::10")], name="on-node-1", service_name="on-node", family="IPv6")
    items = [*ITEMS, service("on-node", ["fd00:10:96::20"]), on_node]
    with host_in(lab.namespace) as made:
        others = _MASQUERADE % "ip" + _MASQUERADE % "ip6" if beside_others else ""
        if ours_first:
            made.apply(*items)
        made.nft(_REGISTER + others)
        if not ours_first:
            made.apply(*items)
        packets = [Packet(source, VIP, 80) for source in (POD, CLIENT, NODE)]
        packets += [Packet(source, VIP_V6, 80) for source in (POD_V6, "2001:db8:b::9", NODE)]
        packets.append(Packet(POD_V6, "fd00:10:96::20", 80))
        fates = Counter(outcome.fate for outcome in lab.send(packets))
        assert fates == {Fate.DELIVERED: len(packets)}
        listing = json.loads(made.run("nft", "-j", "list", "counters", "table", "inet", "register").stdout)
        counts = {
            item["counter"]["name"]: item["counter"]["packets"] for item in listing["nftables"] if "counter" in item
        }
    assert counts["kept"] == 0
    assert counts["in-use"] >= len(packets)


def test_a_foreign_packet_keeps_its_mark_and_a_marked_one_is_masqueraded(lab: Lab, host: Host) -> None:
    """SVC-46, whoever has marked it."""
    assert not lab.send([Packet(POD, "198.51.100.7", 80)])[0].masqueraded
    host.nft("table ip marking { chain c { type filter hook prerouting priority -150; meta mark set 0x4000; }; }")
    assert lab.send([Packet(POD, "198.51.100.7", 80)])[0].masqueraded


# ---- who is given itself ----


def _translated_to(address: str, endpoint_: str, ip: str) -> str:
    return (
        f"table {ip} theirs {{ chain c {{ type nat hook prerouting priority -90; "
        f"{ip} daddr {address} tcp dport 80 dnat {ip} to {endpoint_}; }}; }}"
    )


@pytest.mark.parametrize(
    ("ip", "vip", "foreign", "itself"),
    [
        ("ip", VIP, "198.51.100.7", f"{ENDPOINT}:8080"),
        ("ip6", VIP_V6, "2001:db8:7::7", f"[{ENDPOINT_V6}]:8080"),
    ],
)
def test_whom_somebody_else_translates_to_itself_keeps_its_source(
    lab: Lab, host: Host, ip: str, vip: str, foreign: str, itself: str
) -> None:
    """SVC-44 is for those who asked for a Service; an endpoint that asked for something else is no business of ours."""
    host.nft(_translated_to(foreign, itself, ip))
    pod = itself.rpartition(":")[0].strip("[]")
    ours, theirs = lab.send([Packet(pod, vip, 80), Packet(pod, foreign, 80)])
    assert (ours.endpoint, theirs.endpoint) == (itself, itself)
    assert (ours.masqueraded, theirs.masqueraded) == (True, False)


@pytest.mark.parametrize("family", Family)
def test_addresses_that_differ_in_one_byte_are_two(lab: Lab, host: Host, family: Family) -> None:
    """And those that are the same are one, whatever their bytes."""
    network = "10.244.1.1" if family is Family.IPV4 else "fd00:10:244:1::1"
    packed = ip_address(network).packed
    length = len(packed)
    # The first byte of IPv4, and the first two of IPv6, say where the lab's pods are.
    for index in range(2 if family is Family.IPV4 else 8, length):
        for flipped in (0x01, 0x80):
            other = bytearray(packed)
            other[index] ^= flipped
            pod = str(ip_address(bytes(other)))
            assert [outcome.masqueraded for outcome in lab.send([Packet(pod, VIP if length == 4 else VIP_V6, 80)])] == [
                False
            ], pod
    assert lab.send([Packet(network, VIP if length == 4 else VIP_V6, 80)])[0].masqueraded


# ---- a lookup that misses ----


@pytest.mark.parametrize(("pod", "vip", "_", "__"), SIDES)
def test_a_cluster_ip_that_the_first_lookup_misses_is_found_by_the_second(
    lab: Lab, host: Host, pod: str, vip: str, _: str, __: str
) -> None:
    """Before Linux 6.17 an element that changes is missed for a moment; here the first lookup is taken away."""
    for ip in IP_KEYWORD.values():
        host.nft(f"flush chain {ip} rulegen prerouting\nflush chain {ip} rulegen output")
    for source in (pod, NODE):
        assert sent(lab, [source], vip) == {(Fate.DELIVERED, ENDPOINT if vip == VIP else ENDPOINT_V6)}
        assert sent(lab, [source], vip, 81) == {(Fate.REJECTED, "")}
