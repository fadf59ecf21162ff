"""The same cluster in the layout of kube-proxy's nftables mode, loaded by `nft -f -`.

Written from kube-proxy's documentation and what `nft list ruleset` shows on a node with kube-proxy 1.36: a verdict map
from each frontend to a chain of the Service's own, and in that an anonymous map from as many numbers as there are
endpoints to the endpoints; with session affinity a set and a chain for each endpoint. What kube-proxy computes itself
is not part of it, only what nft and the kernel do.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence

from bench.clock import Numbers, measured, watched_children
from bench.clusters import (
    ENDPOINTS,
    NODE_ADDRESS,
    POD_CIDRS,
    SERVICE_CIDR,
    SOURCE_RANGE,
    Kind,
    Shape,
    cluster_ip,
    endpoint_address,
    node_port,
    service_name,
    vip,
)
from bench.product import timed

_TABLE = "ip kube-proxy"

_PROGRAM = f"""\
table ip kube-proxy {{
	set cluster-ips {{ type ipv4_addr; }}
	set nodeport-ips {{ type ipv4_addr; elements = {{ {NODE_ADDRESS} }}; }}
	set hairpin-connections {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; }}
	map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
	map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
	map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
	map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
	map service-nodeports {{ type inet_proto . inet_service : verdict; }}
	chain masquerading {{
		meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random
		ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
	}}
	chain services {{
		ip daddr @cluster-ips ip saddr != {POD_CIDRS[0]} meta mark set meta mark | 0x4000
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}}
	chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips; }}
	chain nodeport-endpoints-check {{ ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}
	chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
	chain cluster-ips-check {{
		ip daddr @cluster-ips reject
		ip daddr {SERVICE_CIDR} drop
	}}
	chain filter-prerouting-pre-dnat {{
		type filter hook prerouting priority -110
		ct state new jump firewall-check
	}}
	chain filter-output-pre-dnat {{
		type filter hook output priority -110
		ct state new jump firewall-check
	}}
	chain filter-input {{
		type filter hook input priority 0
		ct state new jump nodeport-endpoints-check
		ct state new jump service-endpoints-check
	}}
	chain filter-forward {{
		type filter hook forward priority 0
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}}
	chain filter-output {{
		type filter hook output priority 0
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}}
	chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
	chain nat-output {{ type nat hook output priority -100; jump services; }}
	chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
"""


def _name(index: int) -> str:
    return f"ABCDEFGH-team-{index % 50}/{service_name(index)}/tcp/http"


def _endpoint_chain(index: int, endpoint: int) -> str:
    return f"endpoint-{_name(index)}__{endpoint_address(index, endpoint)}/8080"


def _affinity_set(index: int, endpoint: int) -> str:
    return f"affinity-{_name(index)}__{endpoint_address(index, endpoint)}/8080"


def _slots(values: Sequence[str]) -> str:
    return ", ".join(f"{slot} : {value}" for slot, value in enumerate(values))


def _balance(index: int, endpoints: Sequence[int]) -> str:
    targets = _slots([f"{endpoint_address(index, endpoint)} . 8080" for endpoint in endpoints])
    return f"meta l4proto tcp dnat ip to numgen random mod {len(endpoints)} map {{ {targets} }}"


def _hairpins(index: int, endpoints: Sequence[int]) -> str:
    addresses = [endpoint_address(index, endpoint) for endpoint in endpoints]
    return ", ".join(f"{address} . {address} . tcp . 8080" for address in addresses)


def _plain(index: int, endpoints: Sequence[int]) -> Iterator[str]:
    yield f"add chain {_TABLE} service-{_name(index)}"
    yield f"add rule {_TABLE} service-{_name(index)} {_balance(index, endpoints)}"
    yield f"add element {_TABLE} cluster-ips {{ {cluster_ip(index)} }}"
    yield f"add element {_TABLE} service-ips {{ {cluster_ip(index)} . tcp . 80 : goto service-{_name(index)} }}"


def _external(index: int) -> Iterator[str]:
    chain = f"external-{_name(index)}"
    yield f"add chain {_TABLE} {chain}"
    yield f"add rule {_TABLE} {chain} meta mark set meta mark | 0x4000"
    yield f"add rule {_TABLE} {chain} goto service-{_name(index)}"


def _node_port(index: int) -> Iterator[str]:
    yield from _external(index)
    yield f"add element {_TABLE} service-nodeports {{ tcp . {node_port(index)} : goto external-{_name(index)} }}"


def _ranges(index: int) -> Iterator[str]:
    yield from _external(index)
    yield f"add chain {_TABLE} firewall-{_name(index)}"
    yield f"add rule {_TABLE} firewall-{_name(index)} ip saddr != {{ {SOURCE_RANGE} }} drop"
    yield f"add element {_TABLE} firewall-ips {{ {vip(index)} . tcp . 80 : goto firewall-{_name(index)} }}"
    yield f"add element {_TABLE} service-ips {{ {vip(index)} . tcp . 80 : goto external-{_name(index)} }}"


def _local(index: int) -> Iterator[str]:
    external, local = f"external-{_name(index)}", f"local-{_name(index)}"
    yield f"add chain {_TABLE} {local}"
    yield f"add rule {_TABLE} {local} {_balance(index, [0])}"
    yield f"add chain {_TABLE} {external}"
    yield f"add rule {_TABLE} {external} ip saddr {POD_CIDRS[0]} goto service-{_name(index)}"
    yield f"add rule {_TABLE} {external} fib saddr type local meta mark set meta mark | 0x4000"
    yield f"add rule {_TABLE} {external} fib saddr type local goto service-{_name(index)}"
    yield f"add rule {_TABLE} {external} goto {local}"
    yield f"add element {_TABLE} service-ips {{ {vip(index)} . tcp . 80 : goto {external} }}"


def _affinity(index: int) -> Iterator[str]:
    chain, endpoints = f"service-{_name(index)}", range(ENDPOINTS)
    for endpoint in endpoints:
        remembered, own = _affinity_set(index, endpoint), _endpoint_chain(index, endpoint)
        flags = "type ipv4_addr; size 65535; flags dynamic,timeout; timeout 3h;"
        yield f"add set {_TABLE} {remembered} {{ {flags} }}"
        yield f"add chain {_TABLE} {own}"
        yield f"add rule {_TABLE} {own} update @{remembered} {{ ip saddr }}"
        yield f"add rule {_TABLE} {own} meta l4proto tcp dnat to {endpoint_address(index, endpoint)}:8080"
    yield f"add chain {_TABLE} {chain}"
    for endpoint in endpoints:
        remembered, own = _affinity_set(index, endpoint), _endpoint_chain(index, endpoint)
        yield f"add rule {_TABLE} {chain} ip saddr @{remembered} goto {own}"
    targets = _slots([f"goto {_endpoint_chain(index, endpoint)}" for endpoint in endpoints])
    yield f"add rule {_TABLE} {chain} numgen random mod {ENDPOINTS} vmap {{ {targets} }}"
    yield f"add element {_TABLE} cluster-ips {{ {cluster_ip(index)} }}"
    yield f"add element {_TABLE} service-ips {{ {cluster_ip(index)} . tcp . 80 : goto {chain} }}"


_BESIDE = {Kind.NODE_PORT: _node_port, Kind.RANGES: _ranges, Kind.LOCAL: _local}


def _special(index: int, kind: Kind) -> Iterator[str]:
    if kind is Kind.AFFINITY:
        yield from _affinity(index)
        return
    yield from _plain(index, range(ENDPOINTS))
    yield from _BESIDE[kind](index)


def commands(shape: Shape) -> Iterator[str]:
    """The whole ruleset, a command a line."""
    yield _PROGRAM
    for index in range(shape.services):
        yield from _plain(index, range(ENDPOINTS))
        yield f"add element {_TABLE} hairpin-connections {{ {_hairpins(index, range(ENDPOINTS))} }}"
    for index, kind in shape.kinds.items():
        yield from _special(index, kind)


def _replace_first_endpoint(index: int) -> Iterator[str]:
    """What a sync sends for one changed Service: only its own chain is written anew."""
    yield f"add element {_TABLE} hairpin-connections {{ {_hairpins(index, [ENDPOINTS])} }}"
    yield f"flush chain {_TABLE} service-{_name(index)}"
    yield f"add rule {_TABLE} service-{_name(index)} {_balance(index, [*range(1, ENDPOINTS), ENDPOINTS])}"
    yield f"delete element {_TABLE} hairpin-connections {{ {_hairpins(index, [0])} }}"


def run_nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def load(shape: Shape) -> Numbers:
    """The first load: seconds, and the memory of nft."""
    numbers: Numbers = {}
    text = "\n".join(commands(shape))
    with watched_children(numbers, "nft memory"), measured(numbers, "load"):
        run_nft(text)
    return numbers


def change(shape: Shape, repeats: int) -> dict[str, list[float]]:
    """Seconds for one endpoint replaced."""
    run_nft("\n".join(commands(shape)))
    picked = range(0, shape.services, max(1, shape.services // repeats))[:repeats]
    texts = ["\n".join(_replace_first_endpoint(index)) for index in picked]
    return {"endpoint replaced": timed(run_nft, texts)}
