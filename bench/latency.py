"""What the first packet of a connection costs: SYNs written to a TUN device, each of a flow of its own.

The kernel works on a packet while `write` lasts: prerouting with DNAT, forwarding, and out by another TUN device that
nobody reads. What differs between rulesets is the rules. The clients are pods, so nothing is masqueraded.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from socket import IPPROTO_TCP, inet_aton

from bench import iptables, kube_proxy
from bench.clusters import Shape, cluster_ip, endpoint_address
from bench.product import started
from rulegen.iptables.programs import Variant

_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x1001
_FLOWS = 20_000
_PASSES = 3
_FIRST_PORT = 2_000
_CLIENT = "10.255.0.1"

_ONE_RULE = "table ip one { chain prerouting { type nat hook prerouting priority -100; %s; }; }"
_DNAT = "ip daddr %s tcp dport 80 dnat to %s:8080"


def first_packets(shape: Shape, folder: Path, rules: str) -> dict[str, list[float]]:
    """Seconds for each new flow to the last Service, one figure a pass. `rules`: a key of `RULES`."""
    index = shape.services - 1
    RULES[rules](shape, folder)
    device = _network()
    seconds = []
    for number in range(_PASSES):
        first = _FIRST_PORT + number * _FLOWS
        packets = [_syn(cluster_ip(index), port) for port in range(first, first + _FLOWS)]
        start = time.perf_counter()
        for packet in packets:
            os.write(device, packet)
        seconds.append((time.perf_counter() - start) / _FLOWS)
    assert _tracked() >= _FLOWS * _PASSES, "the flows did not arrive"
    return {rules: seconds}


def _load_ours(shape: Shape, folder: Path) -> None:
    proxy, _ = started(shape, folder)
    proxy.kernel.close()


def _load_one_rule(shape: Shape, _: Path) -> None:
    index = shape.services - 1
    kube_proxy.run_nft(_ONE_RULE % (_DNAT % (cluster_ip(index), endpoint_address(index, 0))))


def _load_kube_proxy(shape: Shape, _: Path) -> None:
    kube_proxy.run_nft("\n".join(kube_proxy.commands(shape.services)))


RULES: dict[str, Callable[[Shape, Path], None]] = {
    "one DNAT rule": _load_one_rule,
    "rulegen": _load_ours,
    "kube-proxy's layout": _load_kube_proxy,
    "rulegen, iptables-nft": partial(iptables.load_ours, Variant.NFT),
    "rulegen, iptables-legacy": partial(iptables.load_ours, Variant.LEGACY),
    "kube-proxy's layout, iptables-nft": partial(iptables.load_kube_proxy, Variant.NFT),
    "kube-proxy's layout, iptables-legacy": partial(iptables.load_kube_proxy, Variant.LEGACY),
}


def _network() -> int:
    """Two TUN devices, packets come in by the one returned, and the routes between them."""
    way_in, _ = _open_tun("in"), _open_tun("out")
    for words in ("link set in up", "link set out up", "route add 10.255.0.0/16 dev in", "route add default dev out"):
        subprocess.run(["ip", *words.split()], check=True)
    for name, value in (
        ("net/ipv4/ip_forward", 1),
        ("net/ipv4/conf/all/rp_filter", 0),
        ("net/ipv4/conf/in/rp_filter", 0),
        ("net/netfilter/nf_conntrack_checksum", 0),
    ):
        Path("/proc/sys", name).write_text(str(value))
    return way_in


def _open_tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _TUN_WITHOUT_HEADER))
    return device


def _syn(destination: str, port: int) -> bytes:
    addresses = inet_aton(_CLIENT) + inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, IPPROTO_TCP, 0)
    checksum = ~(sum(struct.unpack("!10H", header + addresses)) % 0xFFFF) & 0xFFFF
    tcp = struct.pack("!HHIIBBHHH", port, 80, 1, 0, 5 << 4, 2, 65535, 0, 0)  # its checksum is not looked at
    return header[:10] + struct.pack("!H", checksum) + addresses + tcp


def _tracked() -> int:
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
