"""Beside a firewall whose policy is DROP, connections and their replies pass as with kube-proxy's iptables mode (D14).

Real connections through a node: a client outside, two pods on the node, one on another node. What is expected is what
kube-proxy's own rules do, which are loaded for the same Services.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import pytest

from rulegen.config import Family
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.iptables.binaries import Variant
from rulegen.iptables.kernel import remove_rules
from rulegen.kube_proxy.removal import remove_iptables_rules
from tests.builders import Item, endpoint, endpoint_slice, node, port, service
from tests.iptables.host import Host
from tests.patience import patience

pytestmark = pytest.mark.kernel

# So long nobody answers; and so long an answer takes at most on an idle machine.
_SILENCE = 0.7
_ANSWER = 5.0


class Addresses(NamedTuple):
    """Of one family. `pods`: two on this node, one on another."""

    node: str
    client: str
    gateway: str
    pods: tuple[str, str, str]
    pod_range: str
    cluster_ips: tuple[str, str, str]
    vip: str
    length: int

    @property
    def is_ipv6(self) -> bool:
        return self.length == 128


ADDRESSES = {
    Family.IPV4: Addresses(
        "192.0.2.10",
        "192.0.2.9",
        "10.244.0.254",
        ("10.244.0.1", "10.244.0.2", "10.244.1.1"),
        "10.244.0.0/16",
        ("10.96.0.10", "10.96.0.11", "10.96.0.12"),
        "203.0.113.80",
        32,
    ),
    Family.IPV6: Addresses(
        "2001:db8::10",
        "2001:db8::9",
        "fd00:10:244::fe",
        ("fd00:10:244::1", "fd00:10:244::2", "fd00:10:244:1::1"),
        "fd00:10:244::/56",
        ("fd00:10:96::10", "fd00:10:96::11", "fd00:10:96::12"),
        "2001:db8:80::1",
        128,
    ),
}
NEAR, FAR, LOCAL = 30080, 30081, 30082
HEALTH = 30666


class Site:
    """The namespaces, a server in each pod that says where it is, and the node's health check."""

    def __init__(self, variant: Variant, opened: ExitStack) -> None:
        self.host = opened.enter_context(Host(variant))
        self.node = self.host.namespace
        self.client = opened.enter_context(NetworkNamespace())
        self.pods = [opened.enter_context(NetworkNamespace()) for _ in range(3)]
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.node.set_sysctl(name, 1)
        self._join("client", self.client, {a.client: (a.node, 24 if not a.is_ipv6 else 64) for a in ADDRESSES.values()})
        for number, pod in enumerate(self.pods):
            self._join(f"pod{number}", pod, {a.pods[number]: (a.gateway, a.length) for a in ADDRESSES.values()})
        for addresses in ADDRESSES.values():
            for number, pod in enumerate(self.pods):
                self._serve(pod, addresses.pods[number], 8080, opened)
            self._serve(self.node, addresses.node, HEALTH, opened)

    def connects(self, source: NetworkNamespace, address: str, number: int, seconds: float = _SILENCE) -> str:
        """Who answers on a connection, "" when nobody does."""
        with suppress(OSError):
            with source.entered():
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                connection = socket.socket(family, socket.SOCK_STREAM)
            with connection:
                connection.settimeout(seconds)
                connection.connect((address, number))
                return connection.recv(100).decode()
        return ""

    def flows(self, family: Family, expected: Set[str] = frozenset()) -> dict[str, str]:
        """Who answers, by what is tried. `expected`: what is waited for, as somebody should answer."""
        a = ADDRESSES[family]
        pod, other = self.pods[0], self.pods[1]
        tried = {
            "NodePort to a pod here": (self.client, a.node, NEAR),
            "NodePort to a pod elsewhere": (self.client, a.node, FAR),
            "NodePort, policy Local": (self.client, a.node, LOCAL),
            "LoadBalancer": (self.client, a.vip, 80),
            "ClusterIP from outside": (self.client, a.cluster_ips[1], 80),
            "ClusterIP from the node": (self.node, a.cluster_ips[1], 80),
            "pod to a Service on another node": (other, a.cluster_ips[1], 80),
            "pod to a Service on this node": (other, a.cluster_ips[0], 80),
            "pod to itself": (pod, a.cluster_ips[0], 80),
            "pod to a NodePort": (other, a.node, FAR),
            "health check": (self.client, a.node, HEALTH),
            "a port of the node": (self.client, a.node, HEALTH + 1),
            "pod to pod": (other, a.pods[2], 8080),
        }
        with ThreadPoolExecutor(len(tried)) as threads:
            waits = [patience(_ANSWER) if name in expected else _SILENCE for name in tried]
            answers = threads.map(self.connects, *zip(*tried.values(), strict=True), waits)
            return dict(zip(tried, answers, strict=True))

    def run(self, command: str) -> None:
        for family in Family:
            self.host.run(command, family=family)

    def _join(self, name: str, other: NetworkNamespace, addresses: Mapping[str, tuple[str, int]]) -> None:
        from pyroute2 import IPRoute

        for namespace in (self.node, other):
            namespace.set_sysctl("ipv6/conf/default/accept_dad", 0)
        with self.node.entered(), IPRoute() as ip:
            ip.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_fd": other.fd})
            index = _add(ip, name, dict(addresses.values()))
            for address, (_, length) in addresses.items():
                if length in {32, 128}:
                    ip.route("add", dst=f"{address}/{length}", oif=index)
        with other.entered(), IPRoute() as ip:
            index = _add(ip, "eth0", {address: length for address, (_, length) in addresses.items()})
            for mine, length in addresses.values():
                family = socket.AF_INET6 if ":" in mine else socket.AF_INET
                if length in {32, 128}:
                    ip.route("add", dst=f"{mine}/{length}", oif=index, family=family, scope=253)
                ip.route("add", dst="::/0" if ":" in mine else "0.0.0.0/0", gateway=mine, family=family)

    def _serve(self, namespace: NetworkNamespace, address: str, number: int, opened: ExitStack) -> None:
        with namespace.entered():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.bind((address, number))
            listener.listen()
        threading.Thread(target=_answer, args=(listener, address), daemon=True).start()
        opened.callback(listener.shutdown, socket.SHUT_RDWR)


def _add(ip: Any, name: str, addresses: Mapping[str, int]) -> int:
    from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD

    index = int(ip.link_lookup(ifname=name)[0])
    for address, length in addresses.items():
        # Nobody else is asked whether it is his: for a while no socket could be bound to it.
        ip.addr("add", index=index, address=address, prefixlen=length, flags=IFA_F_NODAD)
    ip.link("set", index=index, state="up")
    return index


def _answer(listener: socket.socket, name: str) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(name.encode())


@pytest.fixture(params=Variant, ids=lambda variant: variant.value)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as opened:
        yield Site(request.param, opened)


def objects() -> list[Item]:
    v4, v6 = ADDRESSES.values()
    made: list[Item] = [node(addresses=[v4.node, v6.node])]
    for number, name, target in ((0, "near", 0), (1, "far", 2), (2, "local", 0)):
        local = name == "local"
        made.append(
            service(
                name,
                [v4.cluster_ips[number], v6.cluster_ips[number]],
                [port(80, node_port=NEAR + number)],
                kind="LoadBalancer",
                vips=[v4.vip, v6.vip] if name == "far" else [],
                external="Local" if local else "Cluster",
                health_check_port=HEALTH if local else 0,
            )
        )
        for family, addresses in ADDRESSES.items():
            where = endpoint(addresses.pods[target], node="node-1" if target == 0 else "node-2")
            made.append(endpoint_slice([where], service_name=name, name=f"{name}-{family.value}", family=family.value))
    return made


def kube_proxy(family: Family) -> str:
    """What kube-proxy 1.36 has for these objects in iptables mode; comments left out."""
    a = ADDRESSES[family]
    lines = ["*filter", *(f":KUBE-{name} - [0:0]" for name in ("FORWARD", "NODEPORTS"))]
    lines += [
        "-I INPUT -j KUBE-NODEPORTS",
        "-I FORWARD -j KUBE-FORWARD",
        "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A KUBE-NODEPORTS -p tcp -m tcp --dport {HEALTH} -j ACCEPT",
        "COMMIT",
        "*nat",
        *(f":KUBE-{name} - [0:0]" for name in ("SERVICES", "NODEPORTS", "POSTROUTING", "MARK-MASQ")),
        *(f":KUBE-{kind}-{name} - [0:0]" for kind in ("SVC", "SEP", "EXT") for name in ("NEAR", "FAR", "LOCAL")),
        ":KUBE-SVL-LOCAL - [0:0]",
        "-I PREROUTING -j KUBE-SERVICES",
        "-I OUTPUT -j KUBE-SERVICES",
        "-I POSTROUTING -j KUBE-POSTROUTING",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    ]
    for number, (name, target) in enumerate((("NEAR", 0), ("FAR", 2), ("LOCAL", 0))):
        address, pod = a.cluster_ips[number], a.pods[target]
        endpoint_text = f"[{pod}]:8080" if a.is_ipv6 else f"{pod}:8080"
        lines += [
            f"-A KUBE-SERVICES -d {address} -p tcp -m tcp --dport 80 -j KUBE-SVC-{name}",
            f"-A KUBE-SVC-{name} ! -s {a.pod_range} -d {address} -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ",
            f"-A KUBE-SVC-{name} -j KUBE-SEP-{name}",
            f"-A KUBE-SEP-{name} -s {pod} -j KUBE-MARK-MASQ",
            f"-A KUBE-SEP-{name} -p tcp -m tcp -j DNAT --to-destination {endpoint_text}",
            f"-A KUBE-NODEPORTS -d {a.node} -p tcp -m tcp --dport {NEAR + number} -j KUBE-EXT-{name}",
        ]
        if name == "LOCAL":
            lines += [
                f"-A KUBE-EXT-{name} -s {a.pod_range} -j KUBE-SVC-{name}",
                f"-A KUBE-EXT-{name} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
                f"-A KUBE-EXT-{name} -m addrtype --src-type LOCAL -j KUBE-SVC-{name}",
                f"-A KUBE-EXT-{name} -j KUBE-SVL-{name}",
                f"-A KUBE-SVL-{name} -j KUBE-SEP-{name}",
            ]
        else:
            lines += [f"-A KUBE-EXT-{name} -j KUBE-MARK-MASQ", f"-A KUBE-EXT-{name} -j KUBE-SVC-{name}"]
    lines.append(f"-A KUBE-SERVICES -d {a.vip} -p tcp -m tcp --dport 80 -j KUBE-EXT-FAR")
    return "\n".join([*lines, "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS", "COMMIT", ""])


# What a firewall of others says, and how many of the flows that it concerns pass then.
FIREWALLS = {
    "open": [],
    "shut": ["-P FORWARD DROP", "-P INPUT DROP"],
    "a rule at the end": ["-A FORWARD -j DROP", "-A INPUT -j REJECT"],
    "open for pods": [
        "-P FORWARD DROP",
        "-P INPUT DROP",
        "-A FORWARD -s {range} -j ACCEPT",
        "-A FORWARD -d {range} -j ACCEPT",
    ],
}
# With a firewall that is shut: what kube-proxy promises, and what others (a CNI plugin) must accept.
PASS = {
    "NodePort to a pod here",
    "NodePort to a pod elsewhere",
    "LoadBalancer",
    "ClusterIP from outside",
    "pod to itself",
    "pod to a NodePort",
    "health check",
}
NEED_OTHERS = {
    "NodePort, policy Local",
    "pod to a Service on another node",
    "pod to a Service on this node",
    "pod to pod",
}
# The node itself gets no answers where INPUT accepts no replies.
EXPECTED = {
    "open": PASS | NEED_OTHERS,
    "shut": PASS,
    "a rule at the end": PASS,
    "open for pods": PASS | NEED_OTHERS,
}


@pytest.mark.parametrize("firewall", FIREWALLS)
def test_what_passes_is_what_passes_with_kube_proxy(site: Site, firewall: str) -> None:
    for family in Family:
        site.host.run("restore --noflush", kube_proxy(family), family)
        if family is Family.IPV6:
            # Neighbours must find each other.
            site.host.run("-A INPUT -p ipv6-icmp -j ACCEPT", family=family)
        for command in FIREWALLS[firewall]:
            site.host.run(command.format(range=ADDRESSES[family].pod_range), family=family)
    expected = EXPECTED[firewall]
    with_kube_proxy = {family: site.flows(family, expected) for family in Family}
    # A migration: ours in front, then kube-proxy's go.
    site.host.apply(*objects())
    with_both = {family: site.flows(family, expected) for family in Family}
    with site.node.entered():
        assert len(remove_iptables_rules()) == 4
    ours = {family: site.flows(family, expected) for family in Family}
    assert ours == with_both == with_kube_proxy
    for family, flows in ours.items():
        assert {name for name, answer in flows.items() if answer} == expected
        assert flows["NodePort to a pod elsewhere"] == ADDRESSES[family].pods[2]
        assert flows["pod to itself"] == ADDRESSES[family].pods[0]
    assert not site.host.apply(*objects())
    with site.node.entered():
        assert remove_rules([site.host.variant])
    left = [line for _, line in site.host.foreign()]
    assert not any("ESTABLISHED" in line for line in left)
    if firewall == "shut":
        assert not any(answer for family in Family for answer in site.flows(family).values())


def test_a_health_check_port_comes_and_goes_with_its_service(site: Site) -> None:
    site.run("-P INPUT DROP")
    site.host.run("-A INPUT -p ipv6-icmp -j ACCEPT", family=Family.IPV6)
    asked = [(ADDRESSES[family].node, HEALTH) for family in Family]
    site.host.apply(*objects())
    assert all(site.connects(site.client, *address, patience(_ANSWER)) for address in asked)
    site.host.apply(*objects()[:-3])
    assert not any(site.connects(site.client, *address) for address in asked)
    chains = {key.chain for key in site.host.read()}
    assert "RULEGEN-HEALTH-CHECKS" not in chains
    assert "HEALTH" not in site.host.run("-S INPUT")
    site.host.apply(*objects())
    assert all(site.connects(site.client, *address, patience(_ANSWER)) for address in asked)
