"""The same cluster in the layout of kube-proxy's nftables mode, loaded by `nft -f -`.

Written from kube-proxy's documentation and what `nft list ruleset` shows on a node: a verdict map from each frontend to
a chain of the Service's own, with an anonymous map over as many numbers as there are endpoints, and a chain of its own
for each endpoint. What kube-proxy computes itself is not part of it, only what nft and the kernel do.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from bench.clock import Numbers, measured, watched_children
from bench.clusters import ENDPOINTS, POD_CIDRS, Shape, cluster_ip, endpoint_address, service_name
from bench.product import timed

_TABLE = "ip kube-proxy"

_PROGRAM = """\
table ip kube-proxy {
	set cluster-ips { typeof ip daddr; }
	set nodeport-ips { typeof ip daddr; }
	map firewall-ips { typeof ip daddr . meta l4proto . th dport : verdict; }
	map no-endpoint-services { typeof ip daddr . meta l4proto . th dport : verdict; }
	map no-endpoint-nodeports { typeof meta l4proto . th dport : verdict; }
	map service-ips { typeof ip daddr . meta l4proto . th dport : verdict; }
	map service-nodeports { typeof meta l4proto . th dport : verdict; }
	chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
	chain masquerading {
		meta mark & 0x4000 == 0 return
		meta mark set meta mark ^ 0x4000
		masquerade fully-random
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
	chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }
	chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
	chain cluster-ips-check { ip daddr @cluster-ips reject; }
	chain filter-prerouting-pre-dnat {
		type filter hook prerouting priority -110
		ct state new jump firewall-check
	}
	chain filter-output-pre-dnat {
		type filter hook output priority -110
		ct state new jump firewall-check
	}
	chain filter-input {
		type filter hook input priority 0
		ct state new jump nodeport-endpoints-check
		ct state new jump service-endpoints-check
	}
	chain filter-forward {
		type filter hook forward priority 0
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain filter-output {
		type filter hook output priority 0
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }
}
"""


def _chain(index: int) -> str:
    return f"service-ABCDEFGH-team-{index % 50}/{service_name(index)}/tcp/http"


def _endpoint_chain(index: int, endpoint: int) -> str:
    address = endpoint_address(index, endpoint)
    return f"endpoint-ABCDEFGH-team-{index % 50}/{service_name(index)}/tcp/http__{address}/8080"


def _endpoint_rules(index: int, endpoint: int) -> Iterator[str]:
    chain, address = _endpoint_chain(index, endpoint), endpoint_address(index, endpoint)
    yield f"add rule {_TABLE} {chain} ip saddr {address} jump mark-for-masquerade"
    yield f"add rule {_TABLE} {chain} meta l4proto tcp dnat to {address}:8080"


def _service_rules(index: int, endpoints: list[int]) -> Iterator[str]:
    chain = _chain(index)
    targets = ", ".join(f"{slot} : goto {_endpoint_chain(index, endpoint)}" for slot, endpoint in enumerate(endpoints))
    yield (
        f"add rule {_TABLE} {chain} ip daddr {cluster_ip(index)} tcp dport 80 ip saddr != {POD_CIDRS[0]} "
        "jump mark-for-masquerade"
    )
    yield f"add rule {_TABLE} {chain} numgen random mod {len(endpoints)} vmap {{ {targets} }}"


def commands(services: int) -> Iterator[str]:
    """The whole ruleset, a command a line."""
    yield _PROGRAM
    endpoints = list(range(ENDPOINTS))
    for index in range(services):
        yield f"add chain {_TABLE} {_chain(index)}"
        for endpoint in endpoints:
            yield f"add chain {_TABLE} {_endpoint_chain(index, endpoint)}"
            yield from _endpoint_rules(index, endpoint)
        yield from _service_rules(index, endpoints)
        yield f"add element {_TABLE} cluster-ips {{ {cluster_ip(index)} }}"
        yield f"add element {_TABLE} service-ips {{ {cluster_ip(index)} . tcp . 80 : goto {_chain(index)} }}"


def _replace_first_endpoint(index: int) -> Iterator[str]:
    """What a sync sends for one changed Service: only its own chains are written anew."""
    yield f"add chain {_TABLE} {_endpoint_chain(index, ENDPOINTS)}"
    yield from _endpoint_rules(index, ENDPOINTS)
    yield f"flush chain {_TABLE} {_chain(index)}"
    yield from _service_rules(index, [*range(1, ENDPOINTS), ENDPOINTS])
    yield f"flush chain {_TABLE} {_endpoint_chain(index, 0)}"
    yield f"delete chain {_TABLE} {_endpoint_chain(index, 0)}"


def run_nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def load(shape: Shape) -> Numbers:
    """The first load: seconds, and the memory of nft."""
    numbers: Numbers = {}
    text = "\n".join(commands(shape.services))
    with watched_children(numbers, "nft memory"), measured(numbers, "load"):
        run_nft(text)
    return numbers


def change(shape: Shape, repeats: int) -> dict[str, list[float]]:
    """Seconds for one endpoint replaced."""
    run_nft("\n".join(commands(shape.services)))
    picked = range(0, shape.services, max(1, shape.services // repeats))[:repeats]
    texts = ["\n".join(_replace_first_endpoint(index)) for index in picked]
    return {"endpoint replaced": timed(run_nft, texts)}
