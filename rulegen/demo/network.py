"""The playground's network: a client, a node and pods, each in a namespace of its own, joined by veth pairs.

Addresses come in, namespaces that can be entered come out. Programs no rules.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

from rulegen.demo.namespaces import NetworkNamespace

NODE_ADDRESS = "192.0.2.10"
CLIENT_ADDRESS = "192.0.2.9"
_PODS_GATEWAY = "10.128.0.1"
_SCOPE_LINK = 253


class Network:
    """A node that forwards between one client and the pods of `pod_addresses` (IPv4).

    A context manager; leaving it lets the kernel remove everything. Raises HostError without the privilege.
    """

    def __init__(self, pod_addresses: list[str]) -> None:
        with ExitStack() as opened:
            self.node = opened.enter_context(NetworkNamespace())
            self.client = opened.enter_context(NetworkNamespace())
            self.pods = {address: opened.enter_context(NetworkNamespace()) for address in pod_addresses}
            self._connect()
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _connect(self) -> None:
        self.node.set_sysctl("ipv4/ip_forward", 1)
        # All connections come from one client, which would be told of a refusal only once in a second.
        self.node.set_sysctl("ipv4/icmp_ratelimit", 0)
        _join(self.node, "client", f"{NODE_ADDRESS}/24", self.client, f"{CLIENT_ADDRESS}/24")
        _add_default_route(self.client, NODE_ADDRESS)
        _add_default_route(self.node, CLIENT_ADDRESS)
        for number, (address, pod) in enumerate(self.pods.items(), 1):
            name = f"pod{number}"
            _join(self.node, name, f"{_PODS_GATEWAY}/32", pod, f"{address}/32")
            with self.node.entered(), _routing() as ip:
                ip.route("add", dst=f"{address}/32", oif=_index(ip, name))
            with pod.entered(), _routing() as ip:
                ip.route("add", dst=f"{_PODS_GATEWAY}/32", oif=_index(ip, "eth0"), scope=_SCOPE_LINK)
            _add_default_route(pod, _PODS_GATEWAY)


def _routing() -> Any:
    from pyroute2 import IPRoute

    return IPRoute()


def _index(ip: Any, name: str) -> int:
    return int(ip.link_lookup(ifname=name)[0])


def _join(node: NetworkNamespace, name: str, address: str, other: NetworkNamespace, other_address: str) -> None:
    """A veth pair: `name` on the node, `eth0` in the other namespace."""
    with node.entered(), _routing() as ip:
        ip.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_fd": other.fd})
        _set_up(ip, name, address)
    with other.entered(), _routing() as ip:
        _set_up(ip, "eth0", other_address)


def _set_up(ip: Any, name: str, address: str) -> None:
    text, _, length = address.partition("/")
    ip.addr("add", index=_index(ip, name), address=text, prefixlen=int(length))
    ip.link("set", index=_index(ip, name), state="up")


def _add_default_route(namespace: NetworkNamespace, gateway: str) -> None:
    with namespace.entered(), _routing() as ip:
        ip.route("add", dst="default", gateway=gateway)
