"""The lab: a node of its own in a network namespace. Rules and Packets come in, an Outcome for each Packet goes out.

The node's interfaces are veth pairs with their other ends in a second namespace, where packet sockets send what shall
arrive at the node and see what leaves it. The node's own packets leave through raw sockets. Never touches the namespace
of the tests.
"""

from __future__ import annotations

import errno
import select
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from ipaddress import ip_address, ip_interface, ip_network
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from rulegen.demo.namespaces import NetworkNamespace
from tests.lab.conntrack import Connection, Conntrack, Tuple
from tests.lab.packets import (
    IPPROTO_ICMPV6,
    NODE,
    PROTOCOLS,
    Fate,
    Outcome,
    Packet,
    Passing,
    Unreachable,
    build,
    endpoint_text,
    is_ipv6,
    parse,
    parse_segment,
)
from tests.patience import patience

if TYPE_CHECKING:
    from pyroute2 import IPRoute

Interfaces: TypeAlias = Mapping[str, Sequence[str]]
# Interface, protocol, packet type, hardware type, hardware address.
HardwareAddress: TypeAlias = tuple[str, int, int, int, bytes]

POD_INTERFACES: Interfaces = {"pods": ("10.128.0.0/24", "fd00:10:128::/64")}
NODE_ADDRESSES = ("192.0.2.10/24", "2001:db8:0:1::10/64")
UPLINK = "eth0"

_ETH_P_ALL = 0x0003
_LOCAL_ROUTE = 2  # RTN_LOCAL (linux/rtnetlink.h)
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_ITSELF = ""  # in place of an interface: the node sends the packet
# Few enough that the smallest socket buffer does not overflow before all is read.
_BATCH = 64
# Nearly always all has happened when the call that sends returns; silence of this length means that it has.
_SETTLE_SECONDS = 0.05
_QUEUE_SECONDS = 0.001
_ADDRESS_SECONDS = 1.0
_RECEIVED = [
    *((socket.AF_INET, protocol) for protocol in PROTOCOLS.values()),
    *((socket.AF_INET6, PROTOCOLS[name]) for name in ("TCP", "UDP", "SCTP")),
    (socket.AF_INET6, IPPROTO_ICMPV6),
]
_REFUSED = (errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EACCES)
_FIRST_PORT, _LAST_PORT = 2000, 64000

# Connections are tracked from the start, so that a packet that no rule concerns is reported too.
_TRACK = """
table inet lab {
  chain forward { type filter hook forward priority 300; ct state new accept; }
}
"""
_SYSCTLS = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
    "ipv4/icmp_ratelimit": 0,
    "ipv4/icmp_ratemask": 0,
}
_IPV6_SYSCTLS = {
    "ipv6/conf/all/forwarding": 1,
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/addr_gen_mode": 1,
    "ipv6/icmp/ratelimit": 0,
    # Of the types with a limit, which hold for the whole host too, keep one that nobody sends.
    "ipv6/icmp/ratemask": 0,
}


class Lab:
    """A node with forwarding on.

    `interfaces`: the names of those on the pods' side, with the CIDRs routed there; all else is routed through UPLINK.
    `addresses`: the node's own, with their prefix lengths, on UPLINK. `ipv6` False: IPv6 is disabled on the node.
    Raises HostError or OSError where namespaces are not to be had. A context manager.
    """

    def __init__(
        self,
        interfaces: Interfaces = POD_INTERFACES,
        addresses: Sequence[str] = NODE_ADDRESSES,
        *,
        ipv6: bool = True,
    ) -> None:
        self._routes = [(ip_network(cidr), name) for name, cidrs in interfaces.items() for cidr in cidrs]
        self._versions = (4, 6) if ipv6 else (4,)
        self._addresses = {"127.0.0.1", "::1"}
        self._next_port = _FIRST_PORT
        self._next_number = 0
        with ExitStack() as opened:
            self.namespace = opened.enter_context(NetworkNamespace())
            self._outside = opened.enter_context(NetworkNamespace())
            self._set_sysctls(ipv6)
            self._wires = {name: self._add_interface(name, opened) for name in (*interfaces, UPLINK)}
            with self.entered():
                self._senders = {version: _open_sender(version, opened) for version in (4, 6)}
                self._receivers = [_open_receiver(*kind, opened) for kind in _RECEIVED]
                self._conntrack = Conntrack()
                opened.callback(self._conntrack.close)
            self._add_routes()
            for address in addresses:
                self.add_address(address)
            self.nft(_TRACK)
            self._resources = opened.pop_all()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Removes the node."""
        self._resources.close()

    def entered(self) -> AbstractContextManager[None]:
        """The calling thread is on the node meanwhile; so are the processes that it starts."""
        return self.namespace.entered()

    def nft(self, text: str) -> str:
        """Runs nft commands on the node and returns what they print."""
        with self.entered():
            run = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
        if run.returncode:
            raise AssertionError(f"nft: {run.stderr}")
        return run.stdout

    def add_address(self, address: str) -> None:
        """Gives the node one more address, such as `198.51.100.7/32`, on UPLINK."""
        self._change_address("add", address)
        self._addresses.add(str(ip_interface(address).ip))

    def remove_address(self, address: str) -> None:
        """Takes an address from the node."""
        self._change_address("del", address)
        self._addresses.discard(str(ip_interface(address).ip))

    def forget_connections(self) -> None:
        """Empties the connection tracking table."""
        self._conntrack.flush()
        self._conntrack.forget_reports()

    def send(self, packets: Iterable[Packet]) -> list[Outcome]:
        """Sends all and says what became of each, in the same order."""
        packets = list(packets)
        outcomes = self._send([self._completed(packet) for packet in packets])
        doubtful = [index for index, packet in enumerate(packets) if self._doubtful(packet, outcomes[index])]
        second = self._send_again(packets, doubtful)
        torn = [index for index in doubtful if second[index].masqueraded != outcomes[index].masqueraded]
        for index, outcome in (second | self._send_again(packets, torn)).items():
            outcomes[index] = outcome
        return outcomes

    def _send_again(self, packets: Sequence[Packet], indexes: Sequence[int]) -> dict[int, Outcome]:
        outcomes = self._send([self._completed(packets[index]) for index in indexes])
        return dict(zip(indexes, outcomes, strict=True))

    def _set_sysctls(self, ipv6: bool) -> None:
        for name, value in (_SYSCTLS | _IPV6_SYSCTLS).items():
            self.namespace.set_sysctl(name, value)
        for scope in ("all", "default"):
            self.namespace.set_sysctl(f"ipv6/conf/{scope}/disable_ipv6", 0 if ipv6 else 1)
            self._outside.set_sysctl(f"ipv6/conf/{scope}/disable_ipv6", 1)

    def _add_interface(self, name: str, opened: ExitStack) -> Wire:
        """An interface without ARP, and what is connected to it."""
        from pyroute2 import IPRoute

        with self.entered(), IPRoute() as ip:
            ip.link("add", ifname=name, kind="veth", peer={"ifname": name, "net_ns_fd": self._outside.fd})
            index = ip.link_lookup(ifname=name)[0]
            ip.link("set", index=index, state="up", arp=False)
            hardware_address = ip.link("get", index=index)[0].get("address")
        with self._outside.entered(), IPRoute() as ip:
            ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up", arp=False)
            return Wire(name, bytes.fromhex(hardware_address.replace(":", "")), opened)

    def _add_routes(self) -> None:
        from pyroute2 import IPRoute

        defaults = [(ip_network(cidr), UPLINK) for cidr in ("0.0.0.0/0", "::/0")]
        with self.entered(), IPRoute() as ip:
            index = {name: ip.link_lookup(ifname=name)[0] for name in self._wires}
            for network, name in self._routes + defaults:
                if network.version in self._versions:
                    ip.route("add", dst=str(network), oif=index[name])

    def _change_address(self, command: str, address: str) -> None:
        from pyroute2 import IPRoute

        interface = ip_interface(address)
        if interface.version not in self._versions:
            return
        with self.entered(), IPRoute() as ip:
            ip.addr(
                command,
                index=ip.link_lookup(ifname=UPLINK)[0],
                address=str(interface.ip),
                prefixlen=interface.network.prefixlen,
            )
            # Whether an address is the node's is a question to the routes, where the kernel puts an IPv6 one later.
            wanted, end = command == "add", time.monotonic() + patience(_ADDRESS_SECONDS)
            while _is_local(ip, str(interface.ip)) is not wanted and time.monotonic() < end:
                time.sleep(0.005)

    def _completed(self, packet: Packet) -> Packet:
        """The packet with canonical addresses, the interface where it arrives (or _ITSELF), and a source port."""
        destination = str(ip_address(packet.destination))
        if packet.source == NODE:
            source = self._source_towards(destination)
        else:
            source = str(ip_address(packet.source))
        return packet._replace(
            source=source,
            destination=destination,
            interface=self._interface_of(source) if packet.interface is None else packet.interface,
            source_port=packet.source_port or self._pick_port(),
        )

    def _source_towards(self, destination: str) -> str:
        """The address that the node would choose; loopback when there is no way, so that the kernel refuses to send."""
        family = socket.AF_INET6 if is_ipv6(destination) else socket.AF_INET
        with self.entered(), socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((destination, 9))
            except OSError:
                return "::1" if is_ipv6(destination) else "127.0.0.1"
            return str(probe.getsockname()[0])

    def _interface_of(self, source: str) -> str:
        if source in self._addresses:
            return _ITSELF
        address = ip_address(source)
        found = [(network.prefixlen, name) for network, name in self._routes if address in network]
        return max(found)[1] if found else UPLINK

    def _pick_port(self) -> int:
        """A port of no connection that is still remembered."""
        if self._next_port > _LAST_PORT:
            self.forget_connections()
            self._next_port = _FIRST_PORT
        self._next_port += 1
        return self._next_port - 1

    def _doubtful(self, packet: Packet, outcome: Outcome) -> bool:
        """Whether it shows at all that the node's own packet was masqueraded, or was not, is a matter of chance.

        Masquerading chooses, once in 64,512 times, the very port it had; and when a masqueraded connection to the same
        endpoint holds that port already, it changes without any masquerading. What happens twice is no coincidence.
        """
        own = packet.source == NODE or packet.source in self._addresses
        return own and not packet.source_port and outcome.fate is Fate.DELIVERED

    def _send(self, packets: Sequence[Packet]) -> list[Outcome]:
        first = self._next_number
        self._next_number = (first + len(packets)) % (1 << 31)
        seen = _Seen()
        self._collect(_Seen())
        for start in range(0, len(packets), _BATCH):
            for offset, packet in enumerate(packets[start : start + _BATCH], first + start):
                self._inject(packet, offset)
            self._collect(seen)
        numbered = list(enumerate(packets, first))
        while any(seen.outcome(*one).fate is Fate.DROPPED for one in numbered):
            before = len(seen)
            time.sleep(_SETTLE_SECONDS)
            self._collect(seen)
            if len(seen) == before:
                break
        return [seen.outcome(number, packet) for number, packet in numbered]

    def _inject(self, packet: Packet, number: int) -> None:
        data = build(packet, number)
        if packet.interface:
            self._wires[packet.interface].send(data)
            return
        try:
            self._senders[6 if is_ipv6(packet.destination) else 4].sendto(data, (packet.destination, 0))
        except OSError as error:
            # What a rule on the way out drops or rejects is refused to the sender, and so is what has no route.
            if error.errno not in _REFUSED:
                raise

    def _collect(self, seen: _Seen) -> None:
        """Adds to `seen` all that has happened by now."""
        for connection in self._conntrack.new_connections():
            seen.connections[connection.original] = connection
        for interface, wire in self._wires.items():
            while data := _receive(wire.socket):
                seen.add(parse(data), interface)
        for receiver in self._receivers:
            while data := _receive(receiver):
                # Only an IPv4 socket gives the IP header too.
                ipv4 = receiver.family == socket.AF_INET
                seen.add(parse(data) if ipv4 else parse_segment(receiver.proto, data), _ITSELF)


class Wire:
    """The other end of a node's interface."""

    def __init__(self, name: str, hardware_address: bytes, opened: ExitStack) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        self.socket = opened.enter_context(socket.socket(socket.AF_PACKET, kind, 0))
        self.socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self.socket.bind((name, _ETH_P_ALL))
        self._to = {version: (name, ethertype, 0, 0, hardware_address) for version, ethertype in _ETHERTYPES.items()}

    def send(self, data: bytes) -> None:
        """Lets a packet, from the IP header on, arrive at the node."""
        send_waiting(self.socket, data, self._to[data[0] >> 4])


def send_waiting(sender: socket.socket, data: bytes, to: HardwareAddress) -> None:
    """Sends a packet by a socket that does not block, when there is room: a slow machine may not keep up with us."""
    while True:
        try:
            sender.sendto(data, to)
        except BlockingIOError:
            select.select([], [sender], [], 1.0)
        except OSError as error:
            # Of a queue between the socket and the wire nobody says when it has room.
            if error.errno != errno.ENOBUFS:
                raise
            time.sleep(_QUEUE_SECONDS)
        else:
            return


class _Seen:
    """What was observed while packets were under way."""

    def __init__(self) -> None:
        self.connections: dict[Tuple, Connection] = {}
        self.arrived: dict[int, str] = {}
        self.rejected: set[int] = set()

    def __len__(self) -> int:
        return len(self.connections) + len(self.arrived) + len(self.rejected)

    def add(self, found: Passing | Unreachable | None, interface: str) -> None:
        """What left through `interface`, or arrived at the node itself."""
        match found:
            case Unreachable(number):
                self.rejected.add(number)
            case Passing(number):
                self.arrived[number] = interface

    def outcome(self, number: int, packet: Packet) -> Outcome:
        """What arrived was not refused, even if a closed port answers; where it went, its connection tells."""
        interface = self.arrived.get(number)
        if interface is None:
            return Outcome(Fate.REJECTED if number in self.rejected else Fate.DROPPED)
        connection = self.connections.get(_original(packet))
        if connection is None:
            return Outcome(Fate.PASSED, endpoint_text(packet.destination, packet.port), interface=interface)
        fate = Fate.DELIVERED if connection.destination_translated else Fate.PASSED
        port = 0 if packet.protocol == "ICMP" else connection.reply.source_port
        endpoint = endpoint_text(connection.reply.source, port)
        return Outcome(fate, endpoint, connection.source_translated, interface)


def _original(packet: Packet) -> Tuple:
    protocol = PROTOCOLS[packet.protocol]
    if protocol == socket.IPPROTO_ICMP:
        number = IPPROTO_ICMPV6 if is_ipv6(packet.destination) else protocol
        return Tuple(packet.source, packet.destination, number, packet.source_port, packet.source_port)
    return Tuple(packet.source, packet.destination, protocol, packet.source_port, packet.port)


def count_endpoints(lab: Lab, packet: Packet, count: int) -> Counter[str]:
    """Sends `packet` `count` times from differing source ports; how often each endpoint got it ("" for nobody)."""
    return Counter(outcome.endpoint for outcome in lab.send([packet] * count))


def _is_local(ip: IPRoute, address: str) -> bool:
    """Whether packets to `address` end at the node."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        (route,) = ip.route("get", dst=address)
    except NetlinkError:  # nothing leads there
        return False
    return bool(route["type"] == _LOCAL_ROUTE)


def _open_sender(version: int, opened: ExitStack) -> socket.socket:
    """A socket for whole packets, IP header included."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return opened.enter_context(socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW))


def _open_receiver(family: int, protocol: int, opened: ExitStack) -> socket.socket:
    """Receives what is delivered to the node itself, after all hooks, whether or not a port is open."""
    return opened.enter_context(socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol))


def _receive(receiver: socket.socket) -> bytes:
    try:
        return receiver.recv(1 << 16)
    except BlockingIOError:
        return b""
