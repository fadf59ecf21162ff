"""Two nodes in network namespaces, the pods of the table on both: Probes come in, those that arrived go out.

A probe leaves a packet socket at the far end of its source's interface, is forwarded by the source's node, by the
destination's if that is another one, and is seen by a packet socket at the far end of the destination's interface:

    x/a ... ─┐ pods of node-1              pods of node-2 ┌─ x/c ...
             node-1 ═══════════ wire ═══════════ node-2
    outside ─┘

The kernel handles what one processor sends in order. So the last packet of a batch, which no policy concerns, is seen
after all others of the batch: what has not arrived by then was dropped, and nobody waits.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache
from types import TracebackType
from typing import NamedTuple

from rulegen.demo.namespaces import NetworkNamespace
from tests.lab.conntrack import Conntrack
from tests.lab.packets import Packet, Passing, build, parse
from tests.patience import patience
from tests.policies.cluster import NODE_1, NODE_2, NODE_ADDRESSES, OUTSIDE, POD_CIDRS, PODS, Party, Probe

NODES = (NODE_1, NODE_2)
_WIRE, _OUTSIDE, _EXIT = "wire", "outside", "exit"
# Both ends have it: an interface without ARP sends to its own address.
_WIRE_ADDRESS = "02:00:00:00:00:01"
_ETH_P_ALL = 0x0003
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 64 << 20
# Fewer than the kernel queues for a processor (net.core.netdev_max_backlog) and than its receivers' buffers hold.
_BATCH = 256
_ARRIVAL_SECONDS = 1.0
_FIRST_PORT, _PORTS = 20_000, 40_000
# Neither is a pod's or a node's; what goes from one to the other crosses both nodes.
_MARKER = Packet("203.0.113.250", "198.51.100.1", 9, "UDP", source_port=9)
_SYSCTLS = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
    "ipv4/icmp_ratelimit": 0,
    "ipv4/icmp_ratemask": 0,
    "ipv6/conf/all/disable_ipv6": 0,
    "ipv6/conf/default/disable_ipv6": 0,
    "ipv6/conf/all/forwarding": 1,
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/addr_gen_mode": 1,
    "ipv6/icmp/ratelimit": 0,
}


# As the rules of Services do on every node: without a rule that asks for it, no connection is tracked.
_TRACKING = "table inet tracking { chain forward { type filter hook forward priority 300; ct state new; }; }"


class LabError(AssertionError):
    """The lab itself lost a packet: nothing that it says about the rules counts."""


class Frame(NamedTuple):
    """A packet from its IP header on, and the interface of a node that it arrives at or has left through."""

    interface: str
    data: bytes


class Lab:
    """The two nodes, without rules. A context manager.

    Raises HostError or OSError where namespaces are not to be had.
    """

    def __init__(self) -> None:
        with ExitStack() as opened:
            self._far = opened.enter_context(_namespace({"ipv6/conf/default/disable_ipv6": 1}))
            self.namespaces = {node: opened.enter_context(_namespace(_SYSCTLS)) for node in NODES}
            self._connect_nodes()
            self._hardware = {name: address for node in NODES for name, address in self._add_interfaces(node)}
            for node in NODES:
                self._add_routes(node)
                self.nft(node, _TRACKING)
            with self._far.entered():
                self._wire = opened.enter_context(_open_wire())
            self._conntrack: dict[str, Conntrack] = {}
            self._own: dict[tuple[str, int], socket.socket] = {}
            for node in NODES:
                with self.entered(node):
                    self._conntrack[node] = Conntrack()
                    opened.callback(self._conntrack[node].close)
                    for family in _ETHERTYPES:
                        self._own[node, family] = opened.enter_context(_open_own(family))
            self._resources = opened.pop_all()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Removes the nodes."""
        self._resources.close()

    def entered(self, node: str) -> AbstractContextManager[None]:
        """The calling thread is on the node meanwhile; so are the processes that it starts."""
        return self.namespaces[node].entered()

    def nft(self, node: str, text: str) -> None:
        """Runs nft commands on a node. Raises AssertionError when nft refuses."""
        with self.entered(node):
            run = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
        assert not run.returncode, run.stderr

    def forget_connections(self) -> None:
        """Empties the connection tracking tables of both nodes."""
        for conntrack in self._conntrack.values():
            conntrack.flush()
            conntrack.forget_reports()

    def arrived(self, probes: Sequence[Probe]) -> list[bool]:
        """Sends each as the first packet of a connection that nobody remembers, and says which ones came out."""
        self.forget_connections()
        return self.sent(probes)

    def sent(self, probes: Sequence[Probe], first: int = 0) -> list[bool]:
        """The same with connections remembered; probes with other numbers, from `first` on, are other connections."""
        found: list[bool] = []
        with _on_one_processor():
            for start in range(0, len(probes), _BATCH):
                found += self._batch(probes[start : start + _BATCH], first + start)
        return found

    def exchange(self, frames: Sequence[Frame]) -> list[Frame]:
        """Sends them one after the other and returns what came out because of it, in order."""
        with _on_one_processor():
            self._drain()
            for frame in frames:
                self._leave(frame)
            return self._until_marker()

    def came_out(self) -> list[Frame]:
        """What has come out since the last call of any of these."""
        with _on_one_processor():
            return self._until_marker()

    def _batch(self, probes: Sequence[Probe], first: int) -> Iterator[bool]:
        numbered = list(enumerate(probes, first))
        self._drain()
        for number, probe in numbered:
            self._inject(probe, number)
        seen: dict[int, str] = {}
        for interface, data in self._until_marker():
            match parse(data):
                case Passing(number):
                    seen[number] = interface
        for number, probe in numbered:
            way = seen.get(number)
            assert way in (None, interface_of(probe.destination)), f"{probe} came out at {way}"
        return (number in seen for number, _ in numbered)

    def _inject(self, probe: Probe, number: int) -> None:
        if probe.source.name not in NODES:
            self._leave(Frame(interface_of(probe.source), _packet(probe, number)))
            return
        destination = probe.destination.addresses.of(probe.family)
        try:
            self._own[probe.source.name, probe.family].sendto(_packet(probe, number), (destination, 0))
        except OSError as error:
            # To its sender a packet that a rule drops on the way out is refused.
            if error.errno != errno.EPERM:
                raise

    def _leave(self, frame: Frame) -> None:
        """Lets a packet arrive at a node."""
        interface, data = frame
        self._wire.sendto(data, (interface, _ETHERTYPES[data[0] >> 4], 0, 0, self._hardware[interface]))

    def _drain(self) -> None:
        while self._receive() is not None:
            pass

    def _until_marker(self) -> list[Frame]:
        """What has come out until the marker has, which is sent last."""
        marker = build(_MARKER, 0)[-12:]
        self._leave(Frame(_OUTSIDE, build(_MARKER, 0)))
        found, end = [], time.monotonic() + patience(_ARRIVAL_SECONDS)
        while True:
            frame = self._receive()
            if frame is None:
                if time.monotonic() > end:
                    raise LabError("a packet that no policy concerns did not cross the nodes")
                select.select([self._wire], [], [], 0.01)
            elif frame.interface == _EXIT and frame.data[-12:] == marker:
                break
            else:
                found.append(frame)
        _, lost = struct.unpack("II", self._wire.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        if lost:
            raise LabError(f"the receiver's buffer was too small for {lost} packets")
        return found

    def _receive(self) -> Frame | None:
        try:
            data, address = self._wire.recvfrom(1 << 16)
        except BlockingIOError:
            return None
        return Frame(address[0], data)

    # -- the two nodes --

    def _connect_nodes(self) -> None:
        from pyroute2 import IPRoute

        first, second = (self.namespaces[node] for node in NODES)
        with first.entered(), IPRoute() as ip:
            peer = {"ifname": _WIRE, "net_ns_fd": second.fd, "address": _WIRE_ADDRESS}
            ip.link("add", ifname=_WIRE, kind="veth", address=_WIRE_ADDRESS, peer=peer)

    def _add_interfaces(self, node: str) -> Iterator[tuple[str, bytes]]:
        """Those towards the far side, with their hardware addresses."""
        from pyroute2 import IPRoute

        names = [interface_of(pod) for pod in PODS if pod.node == node]
        for name in (*names, _OUTSIDE if node == NODE_1 else _EXIT):
            with self.entered(node), IPRoute() as ip:
                ip.link("add", ifname=name, kind="veth", peer={"ifname": name, "net_ns_fd": self._far.fd})
                index = ip.link_lookup(ifname=name)[0]
                ip.link("set", index=index, state="up", arp=False)
                hardware_address = ip.link("get", index=index)[0].get("address")
            with self._far.entered(), IPRoute() as ip:
                ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up", arp=False)
            yield name, bytes.fromhex(hardware_address.replace(":", ""))

    def _add_routes(self, node: str) -> None:
        from pyroute2 import IPRoute

        with self.entered(node), IPRoute() as ip:
            index = {link.get("ifname"): link["index"] for link in ip.get_links()}
            ip.link("set", index=index[_WIRE], state="up", arp=False)
            for address, length in zip(NODE_ADDRESSES[node], (24, 64), strict=True):
                ip.addr("add", index=index[_WIRE], address=address, prefixlen=length)
            for destination, name in _routes(node):
                ip.route("add", dst=destination, oif=index[name])


def interface_of(party: Party) -> str:
    """The name of the interface, at both of its ends."""
    return party.name.replace("/", "-") if party.node else _OUTSIDE


def _routes(node: str) -> Iterator[tuple[str, str]]:
    """Destinations and interfaces."""
    for pod in PODS:
        if pod.node == node:
            yield f"{pod.addresses.v4}/32", interface_of(pod)
            yield f"{pod.addresses.v6}/128", interface_of(pod)
    other = NODE_2 if node == NODE_1 else NODE_1
    for cidr in POD_CIDRS[other]:
        yield cidr, _WIRE
    yield f"{_MARKER.destination}/32", _WIRE if node == NODE_1 else _EXIT
    for party in OUTSIDE:
        yield f"{party.addresses.v4}/32", _OUTSIDE if node == NODE_1 else _WIRE
        yield f"{party.addresses.v6}/128", _OUTSIDE if node == NODE_1 else _WIRE


# What is sent once for each case of a table, and not what goes on and on.
@lru_cache(maxsize=8192)
def _packet(probe: Probe, number: int) -> bytes:
    source, destination = (party.addresses.of(probe.family) for party in (probe.source, probe.destination))
    port = _FIRST_PORT + number % _PORTS
    return build(Packet(source, destination, probe.port, probe.protocol, source_port=port), number)


def _namespace(sysctls: dict[str, int]) -> NetworkNamespace:
    made = NetworkNamespace()
    for name, value in sysctls.items():
        made.set_sysctl(name, value)
    return made


def _open_wire() -> socket.socket:
    """Sends by and receives from all interfaces of the caller's namespace."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL))
    wire.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    try:
        wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        # Inside a user namespace the system's limit holds.
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    return wire


def _open_own(family: int) -> socket.socket:
    """For packets that the caller's node sends itself, IP header included."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    return socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)


@contextmanager
def _on_one_processor() -> Iterator[None]:
    """The calling thread is on one processor meanwhile: what it sends is handled in order there."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_processor(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _processor(allowed: set[int]) -> int:
    """Another one for each process of tests, as far as there are any."""
    return sorted(allowed)[os.getpid() % len(allowed)]
