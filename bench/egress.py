"""What egress masquerading takes: of every packet, beside ip-masq-agent's chain, and of time when Nodes come and go.

Packets are measured as in `packets.py`, with ratios to a node where the same connections are tracked and none is
masqueraded. ip-masq-agent's chain is written from its documentation, with the defaults of its file.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from bench.clusters import NODE
from bench.kube_proxy import run_nft
from bench.packets import Packets, compared
from bench.product import timed
from rulegen.config import Family, NodeConfiguration, Target
from rulegen.drivers import make_driver
from rulegen.egress.feature import EgressMasquerade
from rulegen.iptables.binaries import Variant
from rulegen.kube.objects import Metadata, Node, NodeSpec
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler
from rulegen.reference import ObjectReference

NONE = "no masquerading"
OURS, OURS_IPTABLES, AGENT = "rulegen", "rulegen, iptables-nft", "ip-masq-agent, iptables-nft"
OUTSIDE, INSIDE, LATER, FOREIGN = (
    "first packet of a pod to outside",
    "first packet to a pod of another node",
    "later packet",
    "first packet of no pod",
)
_TRACKED = "table ip tracked { chain forward { type filter hook forward priority 300; ct state new accept; }; }"
# Each Node's range has addresses that no other range is beside.
POD, OTHER_POD, SERVER, _CLIENT = "10.255.0.1", "10.2.1.5", "198.51.100.7", "203.0.113.9"
_AGENT = """\
*nat
:IP-MASQ-AGENT - [0:0]
-A POSTROUTING -m comment --comment "ip-masq-agent" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
-A IP-MASQ-AGENT -d 169.254.0.0/16 -m comment --comment "ip-masq-agent: local" -j RETURN
-A IP-MASQ-AGENT -d 10.0.0.0/8 -m comment --comment "ip-masq-agent: local" -j RETURN
-A IP-MASQ-AGENT -d 172.16.0.0/12 -m comment --comment "ip-masq-agent: local" -j RETURN
-A IP-MASQ-AGENT -d 192.168.0.0/16 -m comment --comment "ip-masq-agent: local" -j RETURN
-A IP-MASQ-AGENT -m comment --comment "ip-masq-agent: outbound" -j MASQUERADE --random-fully
COMMIT
"""


def packets(nodes: int, rounds: int, chunk: int) -> dict[str, list[float]]:
    """For each kind of packets and layout its ratios to a node that masquerades nothing; and that one's seconds.

    `chunk`: packets sent for one figure.
    """
    sent = Packets(POD, SERVER, has_endpoints=False)
    kinds = {
        OUTSIDE: sent,
        INSIDE: sent._replace(destination=OTHER_POD),
        LATER: sent._replace(destination=OTHER_POD, is_later=True),
        FOREIGN: sent._replace(source=_CLIENT),
    }
    layouts: dict[str, Callable[[], None]] = {
        NONE: _track,
        OURS: partial(_load_ours, nodes, None),
        OURS_IPTABLES: partial(_load_ours, nodes, Variant.NFT),
        AGENT: _load_agent,
    }
    return compared(layouts, {kind: dict.fromkeys(layouts, one) for kind, one in kinds.items()}, rounds, chunk)


def changes(nodes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds from a Node that comes or goes to the committed kernel, on nftables."""
    with ExitStack() as opened:
        kept = _Kept(opened, None)
        kept.change(cluster(nodes))
        coming = [node(nodes + number) for number in range(repeats)]
        return {
            "node added": timed(lambda item: kept.change([item]), coming),
            "node removed": timed(lambda item: kept.change(gone=[item]), coming),
        }


def cluster(nodes: int) -> list[Node]:
    """Every second /24, so that none of them are neighbours; the first one is the own node's."""
    own = Node(metadata=Metadata(name=NODE), spec=NodeSpec(pod_cidrs=["10.255.0.0/16"]))
    return [own, *map(node, range(nodes))]


def node(number: int) -> Node:
    """One of the others."""
    cidr = f"10.{2 + number // 128}.{number % 128 * 2 + 1}.0/24"
    return Node(metadata=Metadata(name=f"other-{number}"), spec=NodeSpec(pod_cidrs=[cidr]))


def _track() -> None:
    run_nft(_TRACKED)


def _load_ours(nodes: int, variant: Variant | None) -> None:
    _track()
    with ExitStack() as opened:
        _Kept(opened, variant).change(cluster(nodes))


def _load_agent() -> None:
    _track()
    subprocess.run(["iptables-nft-restore", "--noflush"], input=_AGENT, text=True, check=True)


class _Kept:
    """A node that is kept equal to a cluster's ranges, in the caller's network namespace; without Services."""

    def __init__(self, opened: ExitStack, variant: Variant | None) -> None:
        configuration = NodeConfiguration(node_name=NODE, families=(Family.IPV4,))
        driver = make_driver(Target.NFTABLES if variant is None else Target.IPTABLES, variant)
        found = [EgressMasquerade(configuration)]
        kernel = opened.enter_context(driver.open())
        self._reconciler = Reconciler(found, kernel.rules(CompilerSet.of(found, driver.name, configuration)))

    def change(self, items: Iterable[Any] = (), gone: Iterable[Any] = ()) -> None:
        """From changed objects to the committed kernel."""
        for item in items:
            self._reconciler.put(item)
        for item in gone:
            self._reconciler.remove(type(item), ObjectReference.of(item))
        self._reconciler.sync()
