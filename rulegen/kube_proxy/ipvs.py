"""What kube-proxy's mode ipvs leaves behind beside chains: virtual servers, the interface `kube-ipvs0`, sets of ipset.

In: what the kernel tells over netlink. Out: what there is, and what was removed, in words. A virtual server is
kube-proxy's when its address is one of `kube-ipvs0`, or when it is for a NodePort of kube-proxy's sets at an address of
this node; all others stay. Loads no kernel module: what is not loaded holds nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from rulegen.config import Family
from rulegen.errors import HostError
from rulegen.interfaces import own_addresses
from rulegen.paths import may_be_there

_DUMMY, _DUMMY_KIND = "kube-ipvs0", "dummy"
_SET_NAMES = (
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP",
    "NODE-PORT-LOCAL-SCTP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
)
_LONGEST_SET_NAME = 31
_NAMES_ONLY = 0x2  # IPSET_FLAG_LIST_SETNAME of linux/netfilter/ipset/ip_set.h
_IN_USE = 4100  # IPSET_ERR_BUSY
# nf_tables lets go of what a rule refers to a moment after the rule has gone.
_ATTEMPTS, _PAUSE_SECONDS = 40, 0.05
_SETS = frozenset(f"{prefix}{name}"[:_LONGEST_SET_NAME] for name in _SET_NAMES for prefix in ("KUBE-", "KUBE-6-"))
_PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}
_PROTOCOL_NAMES = {number: name.lower() for name, number in _PROTOCOLS.items()}


class Cleaned(NamedTuple):
    """In words: what was removed; what of kube-proxy's could not be; virtual servers that are others', or may be."""

    removed: list[str]
    left: list[str]
    others: list[str]


class _Server(NamedTuple):
    """A virtual server with an address; others, of firewall marks, are never kube-proxy's."""

    family: int
    protocol: int
    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.family == socket.AF_INET6 else self.address
        return f"virtual server {host}:{self.port}/{_PROTOCOL_NAMES.get(self.protocol, self.protocol)}"


def leftovers() -> list[str]:
    """What there is of kube-proxy's, in words; nothing where it cannot be read."""
    try:
        sets = _sets()
        servers, _ = _kube_proxys(_servers(), sets)
        interface = [f"interface {_DUMMY}"] if _dummy() is not None else []
    except HostError:
        return []
    return [*(f"ipset {name}" for name in sets), *interface, *map(str, servers)]


def clean_up() -> Cleaned:
    """Removes all of it, when the chains that name the sets are gone. Raises HostError when it cannot be read."""
    cleaned = Cleaned([], [], [])
    sets = _sets()
    servers, foreign = _kube_proxys(_servers(), sets)
    for server in servers:
        _attempt(cleaned, str(server), partial(_delete_server, server))
    cleaned.others.extend(map(str, foreign))
    dummy = _dummy()
    if dummy is not None and dummy.kind != _DUMMY_KIND:
        cleaned.left.append(f"interface {_DUMMY}: it is of the kind {dummy.kind or 'unknown'}, not {_DUMMY_KIND}")
    elif dummy is not None:
        _attempt(cleaned, f"interface {_DUMMY}", partial(_delete_link, dummy.number))
    for name in sets:
        _attempt(cleaned, f"ipset {name}", partial(_destroy, name))
    return cleaned


def _attempt(cleaned: Cleaned, what: str, remove: Callable[[], None]) -> None:
    try:
        remove()
    except HostError as error:
        cleaned.left.append(f"{what}: {error}")
    else:
        cleaned.removed.append(what)


def _kube_proxys(servers: Collection[_Server], sets: Collection[str]) -> tuple[list[_Server], list[_Server]]:
    """The virtual servers that are kube-proxy's, and those that are not."""
    if not servers:
        return [], []
    dummy = _dummy()
    bound = dummy.addresses if dummy is not None else frozenset()
    node_ports = {place for name in sets for place in _node_ports(name)}
    own = {address for family in Family for address in own_addresses(family)}

    def is_kube_proxys(server: _Server) -> bool:
        if server.address in bound:
            return True
        return server.address in own and (server.protocol, server.port) in node_ports

    return (
        [server for server in servers if is_kube_proxys(server)],
        [server for server in servers if not is_kube_proxys(server)],
    )


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """What the kernel refuses, as HostErrors."""
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise HostError(f"cannot {what}: {error.args[-1]}") from error
    except OSError as error:
        raise HostError(f"cannot {what}: {error.strerror or error}") from error


# ---- sets ----


def _sets() -> list[str]:
    """The names of kube-proxy's sets, sorted. Raises HostError."""
    if not may_be_there("/sys/module/ip_set"):
        return []
    with _refusals("read the sets of ipset"):
        from pyroute2 import IPSet

        with IPSet() as ipset:
            names = {message.get_attr("IPSET_ATTR_SETNAME") for message in ipset.list(flags=_NAMES_ONLY)}
    return sorted(names & _SETS)


def _node_ports(name: str) -> Iterator[tuple[int, int]]:
    """The protocols and ports of a set of NodePorts. Raises HostError."""
    words = name.removeprefix("KUBE-6-").removeprefix("KUBE-").split("-")
    protocol = next((_PROTOCOLS[word] for word in words if word in _PROTOCOLS), None)
    if words[:2] != ["NODE", "PORT"] or protocol is None:
        return
    with _refusals(f"read the set {name}"):
        from pyroute2 import IPSet

        with IPSet() as ipset:
            messages = list(ipset.list(name))
    for message in messages:
        elements = message.get_attr("IPSET_ATTR_ADT")
        for element in elements.get_attrs("IPSET_ATTR_DATA") if elements else ():
            port = element.get_attr("IPSET_ATTR_PORT") or element.get_attr("IPSET_ATTR_PORT_FROM")
            if port is not None:
                yield protocol, port


def _destroy(name: str) -> None:
    from pyroute2 import IPSet, NetlinkError

    with _refusals("destroy it"), IPSet() as ipset:
        for _ in range(_ATTEMPTS):
            try:
                ipset.destroy(name)
            except NetlinkError as error:
                if error.code != _IN_USE:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return
    raise HostError("a rule of another program uses it")


# ---- virtual servers ----


def _servers() -> list[_Server]:
    """All of them that have an address. Raises HostError."""
    if not may_be_there("/proc/thread-self/net/ip_vs"):
        return []
    found = []
    with _refusals("read the virtual servers of IPVS"):
        from pyroute2 import IPVS

        with IPVS() as ipvs:
            for message in ipvs.service("dump"):
                service = message.get_attr("IPVS_CMD_ATTR_SERVICE")
                if address := service.get_attr("IPVS_SVC_ATTR_ADDR"):
                    family, protocol = (service.get_attr(f"IPVS_SVC_ATTR_{name}") for name in ("AF", "PROTOCOL"))
                    found.append(_Server(family, protocol, address, service.get_attr("IPVS_SVC_ATTR_PORT")))
    return sorted(found)


def _delete_server(server: _Server) -> None:
    with _refusals("delete it"):
        from pyroute2 import IPVS, IPVSService

        with IPVS() as ipvs:
            key = {"af": server.family, "addr": server.address, "port": server.port, "protocol": server.protocol}
            ipvs.service("del", service=IPVSService(**key))


# ---- the interface ----


class _Dummy(NamedTuple):
    number: int
    kind: str
    addresses: frozenset[str]


def _dummy() -> _Dummy | None:
    """The interface that kube-proxy gives its addresses to. Raises HostError."""
    with _refusals(f"read the interface {_DUMMY}"):
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            for index in ip.link_lookup(ifname=_DUMMY):
                (link,) = ip.get_links(index)
                information = link.get_attr("IFLA_LINKINFO")
                kind = information.get_attr("IFLA_INFO_KIND") if information else ""
                addresses = frozenset(entry.get_attr("IFA_ADDRESS") for entry in ip.get_addr(index=index))
                return _Dummy(index, kind or "", addresses)
    return None


def _delete_link(index: int) -> None:
    with _refusals("delete it"):
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            ip.link("del", index=index)
