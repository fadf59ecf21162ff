"""The same cluster in the layout of kube-proxy's iptables mode, as `iptables-restore` takes it.

Written from kube-proxy's documentation and what `iptables-save` shows on a node with kube-proxy 1.36: a chain for each
Service, one for each endpoint, rules with a probability between them, and one long chain of all frontends.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.clusters import (
    ENDPOINTS,
    POD_CIDRS,
    SOURCE_RANGE,
    Kind,
    Shape,
    cluster_ip,
    endpoint_address,
    node_port,
    vip,
)

_FIXED_NAT = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
"""
_FIXED_FILTER = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
"""
_LAST = "-A KUBE-SERVICES ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"


def rules(shape: Shape) -> Iterator[str]:
    """The whole ruleset, a rule a line."""
    yield from _FIXED_NAT.splitlines()
    for index in range(shape.services):
        yield from _service(index, None)
    for index, kind in shape.kinds.items():
        yield from _service(index, kind)
    yield _LAST
    yield "COMMIT"
    yield from _FIXED_FILTER.splitlines()
    for index, kind in shape.kinds.items():
        if kind is Kind.RANGES:
            yield f"-A KUBE-PROXY-FIREWALL -d {vip(index)}/32 -p tcp -m tcp --dport 80 -j DROP"
    yield "COMMIT"


def _service(index: int, kind: Kind | None) -> Iterator[str]:
    cluster = f"KUBE-SVC-{index:016}"
    frontend = f"-d {cluster_ip(index)}/32 -p tcp -m tcp --dport 80"
    yield f":{cluster} - [0:0]"
    yield from (f":{_endpoint_chain(index, endpoint)} - [0:0]" for endpoint in range(ENDPOINTS))
    yield f"-A KUBE-SERVICES {frontend} -j {cluster}"
    yield f"-A {cluster} ! -s {POD_CIDRS[0]} {frontend} -j KUBE-MARK-MASQ"
    if kind is Kind.AFFINITY:
        for endpoint in range(ENDPOINTS):
            asked = f"-m recent --rcheck --seconds 10800 --reap --name {_endpoint_chain(index, endpoint)}"
            target = _endpoint_chain(index, endpoint)
            yield f"-A {cluster} {asked} --mask 255.255.255.255 --rsource -j {target}"
    for endpoint in range(ENDPOINTS):
        left = ENDPOINTS - endpoint
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield f"-A {cluster} {chance}-j {_endpoint_chain(index, endpoint)}"
        yield from _endpoint(index, endpoint, remembers=kind is Kind.AFFINITY)
    if kind is not None and kind is not Kind.AFFINITY:
        yield from _external(index, kind, cluster)


def _endpoint_chain(index: int, endpoint: int) -> str:
    return f"KUBE-SEP-{index:012}{endpoint:04}"


def _endpoint(index: int, endpoint: int, *, remembers: bool) -> Iterator[str]:
    chain, address = _endpoint_chain(index, endpoint), endpoint_address(index, endpoint)
    remembered = f"-m recent --set --name {chain} --mask 255.255.255.255 --rsource " if remembers else ""
    yield f"-A {chain} -s {address}/32 -j KUBE-MARK-MASQ"
    yield f"-A {chain} -p tcp {remembered}-m tcp -j DNAT --to-destination {address}:8080"


def _external(index: int, kind: Kind, cluster: str) -> Iterator[str]:
    external, local = f"KUBE-EXT-{index:016}", f"KUBE-SVL-{index:016}"
    yield f":{external} - [0:0]"
    if kind is Kind.LOCAL:
        yield f":{local} - [0:0]"
        yield f"-A {external} -s {POD_CIDRS[0]} -j {cluster}"
        yield f"-A {external} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"
        yield f"-A {external} -m addrtype --src-type LOCAL -j {cluster}"
        yield f"-A {external} -j {local}"
        yield f"-A {local} -j {_endpoint_chain(index, 0)}"
    else:
        yield f"-A {external} -j KUBE-MARK-MASQ"
        yield f"-A {external} -j {cluster}"
    if kind is Kind.NODE_PORT:
        yield f"-A KUBE-NODEPORTS -p tcp -m tcp --dport {node_port(index)} -j {external}"
        return
    target = external
    if kind is Kind.RANGES:
        target = f"KUBE-FW-{index:016}"
        yield f":{target} - [0:0]"
        yield f"-A {target} -s {SOURCE_RANGE} -j {external}"
    yield f"-A KUBE-SERVICES -d {vip(index)}/32 -p tcp -m tcp --dport 80 -j {target}"
