"""Real UDP clients and endpoints around a node that has rulegen's rules and a Cleaner.

Objects come in, the rules follow and the clean-up's result goes out; sockets stay the same ones meanwhile. The client,
the node and all endpoints have a namespace each, joined by veth pairs; what no rule concerns leaves towards the client.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Self, TypeAlias

from rulegen.config import Family
from rulegen.conntrack.cleaner import Cleaned, Cleaner
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.kube.objects import Endpoint, EndpointSlice, Node, Service, ServiceCIDR
from rulegen.services.store import Store
from tests.builders import CONFIGURATION, Item, endpoint_port, endpoint_slice, node, port, service
from tests.lab.fixtures import namespace_or_skip
from tests.nftables.host import Host
from tests.patience import patience

NODE, NODE_V6, SECOND_ADDRESS = "192.0.2.10", "2001:db8::10", "192.0.2.11"
CLIENT, CLIENT_V6 = "192.0.2.9", "2001:db8::9"
ENDPOINTS = tuple(f"10.244.1.{number}" for number in range(1, 4))
ENDPOINTS_V6 = tuple(f"fd00:10:244:1::{number}" for number in range(1, 4))
TARGET = 5353
REFUSED = "refused"
_GATEWAY, _GATEWAY_V6 = "10.244.1.254", "fd00:10:244:1::254"
_WAIT_SECONDS = 20

# As beside other programs, connections are tracked even while rulegen has no rules.
_TRACK = "table inet lab { chain forward { type filter hook forward priority 300; ct state new accept; }; }"
_SYSCTLS = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/client/send_redirects": 0,
    "ipv4/icmp_ratelimit": 0,
    "ipv6/icmp/ratelimit": 0,
    "ipv6/conf/all/forwarding": 1,
}


Made: TypeAlias = tuple[int, str, int, str, int, str]


class Entry(NamedTuple):
    """A connection as pyroute2 lists it."""

    protocol: int
    source: str
    source_port: int
    destination: str
    port: int
    reply_source: str
    zone: int


class Scene:
    """The node, at first without rules and Services. A context manager."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str, str]] = set()
        self._store = Store(CONFIGURATION)
        self.cleaner = Cleaner()
        with ExitStack() as opened:
            self.opened = opened
            self.node, self.client, pods = (opened.enter_context(namespace_or_skip()) for _ in range(3))
            _join(self.node, "client", [f"{NODE}/24", f"{SECOND_ADDRESS}/24", f"{NODE_V6}/64"], self.client)
            _join(self.node, "pods", [f"{_GATEWAY}/24", f"{_GATEWAY_V6}/64"], pods)
            _settle(self.client, [f"{CLIENT}/24", f"{CLIENT_V6}/64"], (NODE, NODE_V6))
            inside = [*(f"{text}/24" for text in ENDPOINTS), *(f"{text}/64" for text in ENDPOINTS_V6)]
            _settle(pods, inside, (_GATEWAY, _GATEWAY_V6))
            _add_default_routes(self.node, (CLIENT, CLIENT_V6))
            for name, value in _SYSCTLS.items():
                self.node.set_sysctl(name, value)
            self._host = Host(self.node)
            opened.callback(self._host.close)
            self._host.nft(_TRACK)
            self._servers = [self._open(pods, text, TARGET) for text in (*ENDPOINTS, *ENDPOINTS_V6)]
            self.opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def apply(self, *items: Item) -> None:
        """The cluster is exactly these objects and the node; the rules are in force, and the Cleaner knows."""
        items = (node(addresses=[NODE, NODE_V6]), *items)
        known = {_key(item) for item in items}
        for kind, namespace, name in self._known - known:
            if kind == "Service":
                self._store.remove_service(namespace, name)
            elif kind == "ServiceCIDR":
                self._store.remove_service_cidr(name)
            else:
                self._store.remove_slice(namespace, name)
        self._known = known
        self._store.set_objects(items)
        self.cleaner.note(self._store.take_changes())
        self._host.apply(*items)

    def clean(self) -> Cleaned:
        """On the node."""
        with self.node.entered():
            return self.cleaner.clean()

    def removed(self) -> int:
        """How many connections a clean-up removes."""
        return sum(self.clean().removed.values())

    def open_client(self, source_port: int = 0, address: str = CLIENT) -> Client:
        """A UDP socket outside the node."""
        return Client(self._open(self.client, address, source_port), self._servers)

    def entries(self) -> list[Entry]:
        """All connections of the node."""
        from pyroute2 import NFCTSocket

        with self.node.entered(), NFCTSocket(nfgen_family=socket.AF_UNSPEC) as table:
            return sorted(_entry(message) for message in table.dump())

    def add_entries(self, tuples: Iterable[Made], zone: int | None = None) -> None:
        """Connections of which no packet was ever sent: protocol, source, port, destination, port, who replies."""
        from pyroute2 import NFCTSocket
        from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

        opened: dict[int, Any] = {}
        with self.node.entered(), ExitStack() as tables:
            for protocol, source, source_port, destination, number, reply in tuples:
                family = socket.AF_INET6 if ":" in source else socket.AF_INET
                if family not in opened:
                    opened[family] = tables.enter_context(NFCTSocket(nfgen_family=family))
                reply_port = TARGET if reply in ENDPOINTS else number
                opened[family].entry(
                    "add",
                    timeout=600,
                    zone=zone,
                    tuple_orig=NFCTAttrTuple(family, source, destination, protocol, source_port, number),
                    tuple_reply=NFCTAttrTuple(family, reply, source, protocol, reply_port, source_port),
                )

    def nft(self, commands: str) -> None:
        """As another program."""
        self._host.nft(commands)

    def delete_rules(self) -> None:
        """As if another program had."""
        self._host.nft("delete table ip rulegen; delete table ip6 rulegen")

    def _open(self, namespace: NetworkNamespace, address: str, number: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with namespace.entered():
            opened = self.opened.enter_context(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            _bind(opened, address, number)
        return opened


def _bind(opened: socket.socket, address: str, number: int) -> None:
    """An IPv6 address can be used once its veth pair has a carrier."""
    end = time.monotonic() + patience(_WAIT_SECONDS)
    while True:
        try:
            opened.bind((address, number))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


class Client:
    """Keeps its address and port, whomever it asks."""

    def __init__(self, connected: socket.socket, servers: Sequence[socket.socket]) -> None:
        self._socket = connected
        self._servers = servers

    def send(self, address: str, number: int) -> None:
        """One datagram that nobody may get."""
        self._socket.connect((address, number))
        self._socket.send(b"who")

    def ask(self, address: str, number: int) -> str:
        """The endpoint that a datagram reaches and that answers it, or REFUSED."""
        self.send(address, number)
        reached = ""
        end = time.monotonic() + patience(_WAIT_SECONDS)
        while time.monotonic() < end:
            readable, _, _ = select.select([self._socket, *self._servers], [], [], 1)
            for ready in readable:
                if ready is self._socket:
                    try:
                        ready.recv(64)
                    except ConnectionRefusedError:
                        return REFUSED
                    return reached
                data, asker = ready.recvfrom(64)
                ready.sendto(data, asker)
                reached = str(ready.getsockname()[0])
        raise AssertionError(f"nobody answers {address} port {number}")


def name_server(
    endpoints: Sequence[Endpoint | str],
    name: str = "dns",
    address: str = "10.96.0.10",
    **more: Any,
) -> tuple[Service, EndpointSlice]:
    """A Service for UDP port 53 and TCP port 53; `more` is for the Service."""
    number = int(more.pop("node_port", 0))
    ports = [port(53, "dns", "UDP", number), port(53, "dns-tcp")]
    targets = [endpoint_port(TARGET, "dns", "UDP"), endpoint_port(TARGET, "dns-tcp")]
    family = Family.IPV6 if ":" in address else Family.IPV4
    return (
        service(name, [address], ports, **more),
        endpoint_slice(endpoints, service_name=name, name=f"{name}-1", family=family.value, ports=targets),
    )


def _entry(message: Any) -> Entry:
    there, back = message.get_attr("CTA_TUPLE_ORIG"), message.get_attr("CTA_TUPLE_REPLY")
    address, answering, proto = (
        there.get_attr("CTA_TUPLE_IP"),
        back.get_attr("CTA_TUPLE_IP"),
        there.get_attr("CTA_TUPLE_PROTO"),
    )
    version = "V4" if address.get_attr("CTA_IP_V4_SRC") else "V6"
    return Entry(
        proto.get_attr("CTA_PROTO_NUM"),
        address.get_attr(f"CTA_IP_{version}_SRC"),
        proto.get_attr("CTA_PROTO_SRC_PORT") or 0,
        address.get_attr(f"CTA_IP_{version}_DST"),
        proto.get_attr("CTA_PROTO_DST_PORT") or 0,
        answering.get_attr(f"CTA_IP_{version}_SRC"),
        message.get_attr("CTA_ZONE") or 0,
    )


def _key(item: Item) -> tuple[str, str, str]:
    match item:
        case Service() | EndpointSlice():
            return type(item).__name__, item.metadata.namespace, item.metadata.name
        case Node() | ServiceCIDR():
            return type(item).__name__, "", item.metadata.name


def _join(node_: NetworkNamespace, name: str, addresses: Sequence[str], other: NetworkNamespace) -> None:
    """A veth pair: `name` on the node, with these addresses, and `eth0` in the other namespace."""
    from pyroute2 import IPRoute

    for namespace in (node_, other):
        namespace.set_sysctl("ipv6/conf/default/accept_dad", 0)
    with node_.entered(), IPRoute() as ip:
        ip.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_fd": other.fd})
        _add_addresses(ip, name, addresses)


def _settle(namespace: NetworkNamespace, addresses: Sequence[str], gateways: Sequence[str]) -> None:
    from pyroute2 import IPRoute

    with namespace.entered(), IPRoute() as ip:
        _add_addresses(ip, "eth0", addresses)
    _add_default_routes(namespace, gateways)


def _add_addresses(ip: Any, name: str, addresses: Sequence[str]) -> None:
    from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD

    index = ip.link_lookup(ifname=name)[0]
    ip.link("set", index=index, state="up")
    for text in addresses:
        address, _, length = text.partition("/")
        # Nobody else is asked whether it is his: for a while no socket could be bound to it.
        ip.addr("add", index=index, address=address, prefixlen=int(length), flags=IFA_F_NODAD)


def _add_default_routes(namespace: NetworkNamespace, gateways: Sequence[str]) -> None:
    from pyroute2 import IPRoute

    with namespace.entered(), IPRoute() as ip:
        for gateway in gateways:
            ip.route("add", dst="::/0" if ":" in gateway else "0.0.0.0/0", gateway=gateway)
