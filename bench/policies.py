"""What network policies take: of time when they come and change, and of every packet.

Packets are measured as in `packets.py`, with ratios to a node without policies, where connections are tracked all the
same; and beside a linear layout of the same policies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench import kube_router, policy_clusters
from bench.clusters import NODE
from bench.kube_proxy import run_nft
from bench.packets import Packets, compared
from bench.policy_clusters import PORT, Shape, client_and_server
from rulegen.config import Family
from tests.policies.whole import nftables_text

NONE, OURS, LINEAR = "no policies", "rulegen", "a linear layout"
FIRST, LATER, FOREIGN = "first packet of a connection", "later packet of a connection", "first packet of no pod"
_TRACKED = "table ip tracked { chain forward { type filter hook forward priority 300; ct state new accept; }; }"
# Neither is a pod's.
_OUTSIDE = ("203.0.113.9", "198.51.100.7")


def packets(pods: int, policies: int, rounds: int, chunk: int) -> dict[str, list[float]]:
    """For each kind of packets and layout its ratios to a node without policies, one a round; and that one's seconds.

    `chunk`: packets sent for one figure.
    """
    shape = Shape(pods, policies)
    client, server = client_and_server(shape)
    sent = Packets(client, server, PORT, has_endpoints=False)
    foreign = Packets(*_OUTSIDE, PORT, has_endpoints=False)
    kinds = {FIRST: sent, LATER: sent._replace(is_later=True), FOREIGN: foreign}
    layouts: dict[str, Callable[[], None]] = {
        NONE: _track,
        OURS: partial(_load_ours, shape),
        LINEAR: partial(_load_linear, shape),
    }
    by_layout = {kind: dict.fromkeys(layouts, one) for kind, one in kinds.items()}
    return compared(layouts, by_layout, rounds, chunk)


def _track() -> None:
    run_nft(_TRACKED)


def _load_ours(shape: Shape) -> None:
    _track()
    run_nft(nftables_text(policy_clusters.items(shape), node_name=NODE, family=Family.IPV4))


def _load_linear(shape: Shape) -> None:
    _track()
    kube_router.load(shape)
