"""What a packet pays for the rules: several layouts side by side, each in a network namespace of its own.

Packets leave a packet socket, cross a veth pair and arrive at the node, which forwards them to an interface without a
carrier, where they end; the call that sends lasts until the kernel has done all of that, and is timed on the processor.
A round times every layout, one after the other in random order, so that what else the machine does meets all alike, and
forgets all connections after each. A figure is the median, over the rounds, of the ratio to the floor of the same
round: one DNAT rule and nothing else. On processors that count them, the kernel's instructions per packet stand beside
the time.
"""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from socket import IPPROTO_TCP, inet_aton
from statistics import median
from typing import NamedTuple

from bench import iptables, kube_proxy
from bench.clusters import ENDPOINTS, NODE_ADDRESS, Kind, Shape, cluster_ip, endpoint_address, node_port, vip
from bench.instructions import Instructions
from bench.product import started
from bench.wire import Burst, link_address
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.iptables.binaries import Variant

_POD, _OUTSIDE = "10.255.0.1", "203.0.113.9"
_FOREIGN = "198.51.100.7"
_SOURCES = ("10.255.0.0/16", "203.0.113.0/24")
_FIRST_PORT = 2_000
_ETHERTYPE_IPV4 = 0x0800
_SYN, _ACK = 0x02, 0x10
_SYSCTLS = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/in/rp_filter": 0,
    "ipv4/conf/out/rp_filter": 0,
    "netfilter/nf_conntrack_checksum": 0,
}

_ONE_RULE = "table ip one { chain prerouting { type nat hook prerouting priority -100; %s; }; }"
_DNAT = "ip daddr %s tcp dport 80 dnat to %s:8080"

FLOOR = "one DNAT rule"
NOTHING = "no rules, no conntrack"
FIRST = "first packet of a connection"


class Packets(NamedTuple):
    """Of one kind: where they come from and go to. `is_later`: not the first ones of their connections.

    `has_endpoints`: the destination is a Service's, and its endpoints answer; else it answers itself.
    """

    source: str
    destination: str
    port: int = 80
    is_later: bool = False
    has_endpoints: bool = True


def common_packets(shape: Shape) -> dict[str, Packets]:
    """Those for which there are targets, by what the tables call them."""
    target = cluster_ip(shape.services - 1)
    return {
        FIRST: Packets(_POD, target),
        "later packet of a connection": Packets(_POD, target, is_later=True),
        "first packet to an address of no Service": Packets(_POD, _FOREIGN),
    }


def special_packets(shape: Shape) -> dict[str, Packets]:
    """First packets to the other kinds of frontends, which a node with one DNAT rule does not have."""
    index = {kind: number for number, kind in shape.kinds.items()}
    return {
        "NodePort": Packets(_OUTSIDE, NODE_ADDRESS, node_port(index[Kind.NODE_PORT])),
        "VIP with source ranges": Packets(_OUTSIDE, vip(index[Kind.RANGES])),
        "VIP of policy Local": Packets(_OUTSIDE, vip(index[Kind.LOCAL])),
        "session affinity": Packets(_POD, cluster_ip(index[Kind.AFFINITY])),
    }


class Node:
    """A namespace with a layout's rules, and the wire to it."""

    def __init__(self, opened: ExitStack, load: Callable[[], None]) -> None:
        self._namespace = opened.enter_context(NetworkNamespace())
        outside = opened.enter_context(NetworkNamespace())
        with self._namespace.entered():
            hardware_address = _set_up(outside)
            load()
        with outside.entered():
            _run("ip link set peer up")
            self._wire = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
            self._to = link_address(socket.if_nametoindex("peer"), _ETHERTYPE_IPV4, hardware_address)

    def burst(self, packets: Sequence[bytes]) -> Burst:
        """Packets that arrive one after the other, once they are sent."""
        return Burst(self._wire, self._to, packets)

    def tracked(self) -> int:
        """How many connections the node knows."""
        with self._namespace.entered():
            return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())

    def forget(self) -> None:
        """Empties the table of connections."""
        from pyroute2 import NFCTSocket

        with self._namespace.entered(), NFCTSocket() as conntrack:
            conntrack.flush()


def _set_up(outside: NetworkNamespace) -> bytes:
    """Interfaces, addresses and routes of a node, in the namespace of the caller; returns the address of `in`."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        for name, peer in (("in", "peer"), ("out", "unplugged")):
            ip.link("add", ifname=name, kind="veth", peer={"ifname": peer, "net_ns_fd": outside.fd})
            ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up", arp=False)
        hardware_address = ip.link("get", index=ip.link_lookup(ifname="in")[0])[0].get("address")
    _run(f"ip address add {NODE_ADDRESS}/24 dev out")
    _run("ip route add default dev out")
    for source in _SOURCES:
        _run(f"ip route add {source} dev in")
    for name, value in _SYSCTLS.items():
        Path("/proc/sys/net", name).write_text(str(value))
    return bytes.fromhex(hardware_address.replace(":", ""))


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def packets(shape: Shape, folder: Path, rounds: int, chunk: int, *names: str) -> dict[str, list[float]]:
    """For each kind of packets and layout its ratios to the floor, one a round; and the floor's seconds per packet.

    `names`: keys of `LAYOUTS`, besides the floor. `chunk`: packets sent for one figure.
    """
    common, special = common_packets(shape), special_packets(shape)
    layouts = {name: partial(LAYOUTS[name], shape, folder) for name in (FLOOR, *names)}
    kinds = {}
    for kind, sent in (common | special).items():
        # What only Services have is compared with the floor's first packet.
        of_floor = sent if kind in common else common[FIRST]
        kinds[kind] = {name: of_floor if name in {FLOOR, NOTHING} else sent for name in layouts}
    return compared(layouts, kinds, rounds, chunk)


def compared(
    layouts: Mapping[str, Callable[[], None]], kinds: Mapping[str, Mapping[str, Packets]], rounds: int, chunk: int
) -> dict[str, list[float]]:
    """For each kind of packets and layout its ratios to the first layout, one a round; and that one's seconds.

    `layouts`: what loads each. `kinds`: for each kind the packets that each layout gets.
    """
    figures: dict[str, list[float]] = {}
    floor = next(iter(layouts))
    with ExitStack() as opened:
        nodes = {name: Node(opened, load) for name, load in layouts.items()}
        counter = opened.enter_context(Instructions())
        for kind, by_layout in kinds.items():
            for number in range(rounds + 1):  # the first one warms up
                costs = _round(nodes, by_layout, chunk, random.Random(number), counter)
                if number:
                    _note(figures, kind, costs, floor)
    return figures


class _Cost(NamedTuple):
    """Of one packet."""

    seconds: float
    instructions: float


def _round(
    nodes: Mapping[str, Node],
    by_layout: Mapping[str, Packets],
    chunk: int,
    chance: random.Random,
    counter: Instructions,
) -> dict[str, _Cost]:
    costs = {}
    for name in chance.sample(list(nodes), len(nodes)):
        node = nodes[name]
        segments = _prepared(node, by_layout[name], chunk)
        chance.shuffle(segments)
        burst = node.burst(segments)
        counted, start = counter.read(), time.thread_time()
        burst.send()
        elapsed = time.thread_time() - start
        costs[name] = _Cost(elapsed / chunk, (counter.read() - counted) / chunk)
        if name != NOTHING and node.tracked() < chunk:
            raise AssertionError(f"{name}: the packets did not arrive")
        node.forget()
    return costs


def _note(figures: dict[str, list[float]], kind: str, costs: Mapping[str, _Cost], floor: str) -> None:
    for name, cost in costs.items():
        value = cost.seconds if name == floor else cost.seconds / costs[floor].seconds
        figures.setdefault(f"{kind}, {name}", []).append(value)
        if cost.instructions:
            figures.setdefault(f"{kind}, {name}, instructions", []).append(cost.instructions)


def _prepared(node: Node, sent: Packets, chunk: int) -> list[bytes]:
    """The segments to be timed, each of a connection of its own; those before them have been sent."""
    clients = [(sent.source, port) for port in range(_FIRST_PORT, _FIRST_PORT + chunk)]
    service = (sent.destination, sent.port)
    if not sent.is_later:
        return [_segment(client, service, _SYN, 1, 0) for client in clients]
    endpoints = [(one, 8080) for one in endpoints_of(sent.destination)] if sent.has_endpoints else [service]
    node.burst([_segment(client, service, _SYN, 1, 0) for client in clients]).send()
    # Only one of the endpoints was chosen; from the others this is no answer, and not tracked.
    answers = [_segment(endpoint, client, _SYN | _ACK, 1, 2) for client in clients for endpoint in endpoints]
    node.burst(answers).send()
    later = [_segment(client, service, _ACK, 2, 2) for client in clients]
    node.burst(later).send()
    return later


def endpoints_of(destination: str) -> list[str]:
    """The addresses of the endpoints of the Service with this ClusterIP."""
    index = int(ip_address(destination)) - int(ip_address(cluster_ip(0)))
    return [endpoint_address(index, number) for number in range(ENDPOINTS)]


def _segment(source: tuple[str, int], destination: tuple[str, int], flags: int, sequence: int, ack: int) -> bytes:
    """A TCP segment without data, from the IP header on; its own checksum is not looked at."""
    addresses = inet_aton(source[0]) + inet_aton(destination[0])
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, IPPROTO_TCP, 0)
    checksum = ~(sum(struct.unpack("!10H", header + addresses)) % 0xFFFF) & 0xFFFF
    tcp = struct.pack("!HHIIBBHHH", source[1], destination[1], sequence, ack, 5 << 4, flags, 65535, 0, 0)
    return header[:10] + struct.pack("!H", checksum) + addresses + tcp


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the bounds within which the median lies with 95 %, whatever the distribution."""
    ordered = sorted(ratios)
    reach = round(0.98 * len(ordered) ** 0.5)
    middle = len(ordered) // 2
    return median(ordered), ordered[max(0, middle - reach)], ordered[min(len(ordered) - 1, middle + reach)]


# ---- layouts ----


def _load_ours(shape: Shape, folder: Path) -> None:
    proxy, _ = started(shape, folder)
    proxy.kernel.close()


def _load_one_rule(shape: Shape, _: Path) -> None:
    destination = common_packets(shape)[FIRST].destination
    kube_proxy.run_nft(_ONE_RULE % (_DNAT % (destination, endpoints_of(destination)[0])))


def _load_kube_proxy(shape: Shape, _: Path) -> None:
    kube_proxy.run_nft("\n".join(kube_proxy.commands(shape)))


def _load_nothing(shape: Shape, folder: Path) -> None:
    """No chain of type nat, so that nothing is tracked."""
    del shape, folder


LAYOUTS: dict[str, Callable[[Shape, Path], None]] = {
    FLOOR: _load_one_rule,
    NOTHING: _load_nothing,
    "rulegen": _load_ours,
    "kube-proxy's layout": _load_kube_proxy,
    f"{FLOOR}, iptables-nft": partial(iptables.load_one_rule, Variant.NFT),
    f"{FLOOR}, iptables-legacy": partial(iptables.load_one_rule, Variant.LEGACY),
    "rulegen, iptables-nft": partial(iptables.load_ours, Variant.NFT),
    "kube-proxy's layout, iptables-nft": partial(iptables.load_kube_proxy, Variant.NFT),
    "rulegen, iptables-legacy": partial(iptables.load_ours, Variant.LEGACY),
    "kube-proxy's layout, iptables-legacy": partial(iptables.load_kube_proxy, Variant.LEGACY),
}
