"""What network policies take: of time when they come and change, and of every packet.

Packets are measured as in `packets.py`, with ratios to a node without policies, where connections are tracked all the
same; and beside a linear layout of the same policies. On iptables, of the variant nft, with ipset and without.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import msgspec

from bench import kube_router, policy_clusters
from bench.clock import Numbers, measured, peak_memory, resident_memory
from bench.clusters import NODE
from bench.kube_proxy import run_nft
from bench.packets import Packets, compared
from bench.policy_clusters import LOCAL_PODS, PORT, Shape, client_and_server
from bench.product import timed
from rulegen import gc_pause
from rulegen.config import Family, NodeConfiguration, PolicySettings, Target
from rulegen.drivers import make_driver
from rulegen.iptables.binaries import Variant
from rulegen.kube.decode import convert_object, decode_object
from rulegen.kube.objects import Namespace, NetworkPolicy, Node, Pod
from rulegen.policies.feature import NetworkPolicies
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler
from rulegen.reference import ObjectReference

NONE, OURS, LINEAR = "no policies", "rulegen", "a linear layout"
WITH_IPSET, PLAIN = "iptables with ipset", "iptables, plain chains"
_TARGETS = {
    OURS: (Target.NFTABLES, PolicySettings()),
    WITH_IPSET: (Target.IPTABLES, PolicySettings()),
    PLAIN: (Target.IPTABLES, PolicySettings(ipsets=False)),
}
FIRST, LATER, FOREIGN = "first packet of a connection", "later packet of a connection", "first packet of no pod"
_TRACKED = "table ip tracked { chain forward { type filter hook forward priority 300; ct state new accept; }; }"
_KINDS = {kind.__name__: kind for kind in (Namespace, NetworkPolicy, Node, Pod)}
# Kinds of changes, and what each may take.
CHANGES = {
    "pod added": "<= 3 ms",
    "pod relabelled": "<= 3 ms",
    "pod removed": "<= 3 ms",
    "policy added": "<= 20 ms",
    "policy removed": "",
}
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
        **{layout: partial(_load_ours, shape, layout) for layout in _TARGETS},
        LINEAR: partial(_load_linear, shape),
    }
    by_layout = {kind: dict.fromkeys(layouts, one) for kind, one in kinds.items()}
    return compared(layouts, by_layout, rounds, chunk)


def _track() -> None:
    run_nft(_TRACKED)


def _load_ours(shape: Shape, layout: str) -> None:
    _track()
    with ExitStack() as opened:
        _Kept(opened, layout).change(_decoded(policy_clusters.items(shape)))


def _load_linear(shape: Shape) -> None:
    _track()
    kube_router.load(shape)


class _Kept:
    """A node that is kept equal to a cluster's policies, in the caller's network namespace; without Services."""

    def __init__(self, opened: ExitStack, layout: str) -> None:
        target, settings = _TARGETS[layout]
        configuration = NodeConfiguration(node_name=NODE, families=(Family.IPV4,), policies=settings)
        driver = make_driver(target, Variant.NFT)
        found = [NetworkPolicies(configuration)]
        kernel = opened.enter_context(driver.open())
        rules = kernel.rules(CompilerSet.of(found, driver.name, configuration))
        self.reconciler = Reconciler(found, rules)

    def change(self, items: Iterable[Any] = (), gone: Iterable[Any] = ()) -> None:
        """From changed objects to the committed kernel."""
        for item in items:
            self.reconciler.put(item)
        for item in gone:
            self.reconciler.remove(type(item), ObjectReference.of(item))
        self.reconciler.sync()


def stages(pods: int, policies: int, layout: str = OURS) -> Numbers:
    """From decoded objects to rules in force, on a node that has none; and the peak memory of the process."""
    numbers: Numbers = {}
    objects = _decoded(policy_clusters.items(Shape(pods, policies)))
    with ExitStack() as opened, gc_pause.paused():
        kept = _Kept(opened, layout)
        with measured(numbers, "compile and first apply"):
            kept.change(objects)
    numbers["peak memory"] = peak_memory()
    return numbers


def memory(pods: int, namespaces: int, policies: int) -> Numbers:
    """What is resident once the objects of a cluster have come one by one, as an API server sends them."""
    shape = Shape(pods, namespaces * len(policy_clusters.KINDS))
    numbers: Numbers = {}
    with ExitStack() as opened:
        kept = _Kept(opened, OURS)
        wanted = (item for item in policy_clusters.items(shape) if _is_among(item, policies))
        for text in map(msgspec.json.encode, wanted):
            kind = _KINDS[msgspec.json.decode(text, type=_Header).kind]
            kept.reconciler.put(decode_object(kind, text))
        with measured(numbers, "compile and first apply"):
            kept.reconciler.sync()
        gc.collect()
        numbers["resident"] = resident_memory()
    numbers["peak memory"] = peak_memory()
    return numbers


class _Header(msgspec.Struct):
    kind: str


def _is_among(item: Mapping[str, Any], policies: int) -> bool:
    """All but policies beyond so many."""
    return item["kind"] != "NetworkPolicy" or int(item["metadata"]["name"].rpartition("-")[2]) < policies


def changes(pods: int, policies: int, repeats: int, layout: str = OURS) -> dict[str, list[float]]:
    """Seconds from a changed object to the committed kernel, for each kind of change."""
    shape = Shape(pods, policies)
    with ExitStack() as opened:
        kept = _Kept(opened, layout)
        kept.change(_decoded(policy_clusters.items(shape)))
        gc.collect()
        # Pods of other nodes, which become another application's; those that come have numbers that nobody has.
        others = [number for number in range(LOCAL_PODS, pods) if policy_clusters.application_of(shape, number)]
        old = random.Random(0).sample(others, repeats)
        coming = _decoded(policy_clusters.pod(shape, pods + number) for number in range(repeats))
        relabelled = _decoded(policy_clusters.pod(shape, number, {"app": "app-0"}) for number in old)
        added = _decoded(
            policy_clusters.policy(shape, number, f"added-{number}")
            for number in range(0, policies, policies // repeats)
        )
        return {
            "pod added": timed(lambda item: kept.change([item]), coming),
            "pod relabelled": timed(lambda item: kept.change([item]), relabelled),
            "pod removed": timed(lambda item: kept.change(gone=[item]), coming),
            "policy added": timed(lambda item: kept.change([item]), added[:repeats]),
            "policy removed": timed(lambda item: kept.change(gone=[item]), added[:repeats]),
        }


def _decoded(documents: Iterable[Mapping[str, Any]]) -> list[Any]:
    return [convert_object(_KINDS[document["kind"]], document) for document in documents]
