"""The same policies in a linear layout as kube-router's, loaded by `nft -f -`.

Written from public descriptions of its rules: at forward two rules for each pod of the node, one for what it sends and
one for what it receives, which lead to a chain of the pod's own; in that one rule for each policy that selects the
pod, which leads to a chain of the policy's own; there two rules for each rule of the policy, of which the first marks
what it allows, with sets for the pods on both sides, and the second returns. What comes back unmarked is dropped.
kube-router itself writes this with iptables and ipset; as nftables it is compared with nftables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.kube_proxy import run_nft
from bench.policy_clusters import (
    LOCAL_PODS,
    Kind,
    Shape,
    application_of,
    client_and_server,
    kind_of,
    namespace_of,
    pod_address,
)

_TABLE = "ip kube-router"
_ALLOWED, _DONE = "0x10000", "0x20000"


def commands(shape: Shape) -> Iterator[str]:
    """The whole ruleset, a command a line."""
    yield f"add table {_TABLE}"
    yield f"add chain {_TABLE} FORWARD {{ type filter hook forward priority 0; }}"
    local = range(min(LOCAL_PODS, shape.pods))
    members: dict[tuple[int, int], list[int]] = {}
    for pod in range(shape.pods):
        members.setdefault((namespace_of(shape, pod), application_of(shape, pod)), []).append(pod)
    namespaces = {namespace_of(shape, pod) for pod in local}
    # Policies without a pod on the node have no rules there.
    chosen = [number for number in range(shape.policies) if number % shape.namespaces in namespaces]
    for number in chosen:
        yield from _policy(shape, number, members)
    for pod in _in_order(shape, local):
        yield from _pod(shape, pod, chosen)
    yield f"add rule {_TABLE} FORWARD meta mark & {_DONE} != 0 accept"


def _in_order(shape: Shape, local: Sequence[int]) -> Iterator[int]:
    """Those that the measured packets are of stand in the middle, as they do on average."""
    measured = [pod for pod in local if pod_address(pod) in client_and_server(shape)]
    others = [pod for pod in local if pod not in measured]
    middle = len(others) // 2
    yield from (*others[:middle], *measured, *others[middle:])


def load(shape: Shape) -> None:
    """Raises CalledProcessError."""
    run_nft("\n".join(commands(shape)))


def _pods(members: dict[tuple[int, int], list[int]], namespace: int, application: int | None) -> list[int]:
    return [
        pod
        for (its_namespace, its_application), pods in members.items()
        if its_namespace == namespace and application in (None, its_application)
        for pod in pods
    ]


def _set(name: str, pods: list[int]) -> Iterator[str]:
    yield f"add set {_TABLE} {name} {{ type ipv4_addr; }}"
    if pods:
        yield f"add element {_TABLE} {name} {{ {', '.join(map(pod_address, pods))} }}"


def _policy(shape: Shape, number: int, members: dict[tuple[int, int], list[int]]) -> Iterator[str]:
    kind, namespace = kind_of(shape, number), number % shape.namespaces
    chain = f"KUBE-NWPLCY-{number}"
    yield f"add chain {_TABLE} {chain}"
    if kind.denies:
        return
    yield from _set(f"KUBE-SUBJECT-{number}", _pods(members, namespace, kind.subject))
    if kind.block is None:
        yield from _set(f"KUBE-PEER-{number}", _pods(members, namespace, kind.peer))
    mine, theirs = ("daddr", "saddr") if kind.direction == "ingress" else ("saddr", "daddr")
    match = f"{_peer(kind, number, theirs)} ip {mine} @KUBE-SUBJECT-{number}{_ports(kind)}"
    yield f"add rule {_TABLE} {chain} {match} meta mark set meta mark | {_ALLOWED}"
    yield f"add rule {_TABLE} {chain} {match} meta mark & {_ALLOWED} != 0 return"


def _peer(kind: Kind, number: int, side: str) -> str:
    if kind.block is None:
        return f"ip {side} @KUBE-PEER-{number}"
    cidr, without = kind.block
    return f"ip {side} != {without}" if cidr == "0.0.0.0/0" else f"ip {side} {cidr} ip {side} != {without}"


def _ports(kind: Kind) -> str:
    if kind.ports is None:
        return ""
    first, last = kind.ports
    return f" tcp dport {first}" if first == last else f" tcp dport {first}-{last}"


def _pod(shape: Shape, pod: int, chosen: list[int]) -> Iterator[str]:
    namespace, application = namespace_of(shape, pod), application_of(shape, pod)
    chain = f"KUBE-POD-FW-{pod}"
    mine = [
        number
        for number in chosen
        if number % shape.namespaces == namespace and kind_of(shape, number).subject in (None, application)
    ]
    yield f"add chain {_TABLE} {chain}"
    yield f"add rule {_TABLE} {chain} ct state established,related accept"
    yield f"add rule {_TABLE} {chain} ct state invalid drop"
    for direction, side in (("ingress", "daddr"), ("egress", "saddr")):
        policies = [number for number in mine if kind_of(shape, number).direction == direction]
        for number in policies:
            yield f"add rule {_TABLE} {chain} ip {side} {pod_address(pod)} jump KUBE-NWPLCY-{number}"
        if not policies:
            # What no policy isolates in a direction is allowed in it.
            yield f"add rule {_TABLE} {chain} ip {side} {pod_address(pod)} meta mark set meta mark | {_ALLOWED}"
    yield f"add rule {_TABLE} {chain} meta mark & {_ALLOWED} == 0 drop"
    yield f"add rule {_TABLE} {chain} meta mark set meta mark & 0xfffeffff"
    yield f"add rule {_TABLE} {chain} meta mark set meta mark | {_DONE}"
    yield f"add rule {_TABLE} FORWARD ip saddr {pod_address(pod)} jump {chain}"
    yield f"add rule {_TABLE} FORWARD ip daddr {pod_address(pod)} jump {chain}"
