"""The truth table's cluster: nine pods, three names in each of three namespaces, on two nodes; and who else.

Beside the nine stand pods that must not count: finished ones, ones on a host's network, and a terminating one whose
address has a new owner. One of the nine is terminating and counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from tests.policies import documents
from tests.policies.documents import Document, Labels, container_port
from tests.policies.oracle import Flow

NODE_1, NODE_2, NODE_3 = "node-1", "node-2", "node-3"
NAMESPACES = ("x", "y", "z")
NAMES = ("a", "b", "c")
PORTS = (80, 81)
PROTOCOLS = ("TCP", "UDP", "SCTP")
FAMILIES = (4, 6)


class Addresses(NamedTuple):
    """One of each family."""

    v4: str
    v6: str

    def of(self, family: int) -> str:
        return self.v4 if family == 4 else self.v6


POD_CIDRS = {
    NODE_1: Addresses("10.128.0.0/24", "fd00:10:128::/64"),
    NODE_2: Addresses("10.128.1.0/24", "fd00:10:128:1::/64"),
}
NODE_ADDRESSES = {
    NODE_1: Addresses("192.0.2.11", "2001:db8:0:1::11"),
    NODE_2: Addresses("192.0.2.12", "2001:db8:0:1::12"),
    # Only its address is there, among those outside.
    NODE_3: Addresses("192.0.2.13", "2001:db8:0:1::13"),
}
# Each namespace and each name has pods on both nodes.
_ON = {
    "x/a": NODE_1,
    "x/b": NODE_1,
    "x/c": NODE_2,
    "y/a": NODE_2,
    "y/b": NODE_1,
    "y/c": NODE_1,
    "z/a": NODE_1,
    "z/b": NODE_2,
    "z/c": NODE_2,
}
NAMESPACE_LABELS: dict[str, Labels] = {
    "x": {"ns": "x", "env": "prod", "team": "red"},
    "y": {"ns": "y", "env": "dev"},
    "z": {"ns": "z", "env": "prod"},
}
POD_LABELS: dict[str, Labels] = {
    "a": {"pod": "a", "tier": "front", "app.kubernetes.io/name": "shop"},
    "b": {"pod": "b", "tier": "back"},
    "c": {"pod": "c"},
}
# By the name of the pod: what one name means differs from pod to pod, in the number and in the protocol.
POD_PORTS: dict[str, Sequence[Document]] = {
    "a": [
        *(container_port(80, f"web-{protocol.lower()}", protocol) for protocol in PROTOCOLS),
        *(container_port(81, f"alt-{protocol.lower()}", protocol) for protocol in PROTOCOLS),
        container_port(81, "odd", "TCP"),
    ],
    "b": [
        *(container_port(81, f"web-{protocol.lower()}", protocol) for protocol in PROTOCOLS),
        *(container_port(80, f"alt-{protocol.lower()}", protocol) for protocol in PROTOCOLS),
        container_port(81, "odd", "SCTP"),
    ],
    "c": [container_port(80, "web-tcp", "TCP"), container_port(80, "odd", "UDP")],
}


class Party(NamedTuple):
    """Who sends and receives. `node`: where a pod runs, "" for those outside the two nodes."""

    name: str
    addresses: Addresses
    node: str = ""


def _pod_addresses(key: str) -> Addresses:
    namespace, name = key.split("/")
    number = NAMESPACES.index(namespace) * 16 + NAMES.index(name) + 1
    v4, v6 = POD_CIDRS[_ON[key]]
    return Addresses(v4.replace("0/24", str(number)), v6.replace("/64", f"{number:x}"))


PODS = tuple(Party(key, _pod_addresses(key), node) for key, node in _ON.items())
OUTSIDE = (
    Party("outside-1", Addresses("203.0.113.9", "2001:db8:9::9")),
    Party("outside-2", Addresses("203.0.113.77", "2001:db8:9::77")),
    Party(NODE_3, NODE_ADDRESSES[NODE_3]),
)
BY_NAME = {party.name: party for party in (*PODS, *OUTSIDE)}


def pairs() -> Iterator[tuple[Party, Party]]:
    """All 81 directed pairs of the nine, and each of them with each of those outside, both ways."""
    everybody = (*PODS, *OUTSIDE)
    return (
        (source, destination)
        for source in everybody
        for destination in everybody
        if source in PODS or destination in PODS
    )


class Probe(NamedTuple):
    """One packet of the table."""

    source: Party
    destination: Party
    family: int
    protocol: str
    port: int

    @property
    def flow(self) -> Flow:
        """The same for the oracle."""
        return _flow(self)

    def __str__(self) -> str:
        return f"{self.source.name} -> {self.destination.name}:{self.port}/{self.protocol}, IPv{self.family}"


@cache
def _flow(probe: Probe) -> Flow:
    source, destination = (party.addresses.of(probe.family) for party in (probe.source, probe.destination))
    return Flow(source, destination, probe.protocol, probe.port)


PROBES = tuple(
    Probe(source, destination, family, protocol, port)
    for family in FAMILIES
    for source, destination in pairs()
    for protocol in PROTOCOLS
    for port in PORTS
)


def namespace_documents() -> list[Document]:
    return [documents.namespace(name, labels) for name, labels in NAMESPACE_LABELS.items()]


def node_documents() -> list[Document]:
    return [
        documents.node(name, addresses, POD_CIDRS.get(name, ()), {"role": "edge" if name == NODE_3 else "worker"})
        for name, addresses in NODE_ADDRESSES.items()
    ]


def pod_document(key: str) -> Document:
    """One of the nine, `namespace/name`."""
    namespace, name = key.split("/")
    return documents.pod(
        namespace,
        name,
        BY_NAME[key].addresses,
        _ON[key],
        POD_LABELS[name],
        POD_PORTS[name],
        terminating=key == "y/c",
    )


def _bystanders() -> list[Document]:
    """Pods that must not count, each labelled so that it would show if it did."""
    ports = POD_PORTS["b"]
    newer, older = "2026-01-01T05:00:00Z", "2025-12-01T00:00:00Z"
    return [
        documents.pod("x", "done", BY_NAME["z/c"].addresses, NODE_2, POD_LABELS["a"], phase="Succeeded", created=newer),
        documents.pod("y", "failed", BY_NAME["x/a"].addresses, NODE_1, POD_LABELS["b"], phase="Failed", created=newer),
        documents.pod("x", "host", NODE_ADDRESSES[NODE_3], NODE_3, POD_LABELS["a"], ports, host_network=True),
        documents.pod("y", "host", NODE_ADDRESSES[NODE_1], NODE_1, POD_LABELS["b"], ports, host_network=True),
        documents.pod("z", "stale", BY_NAME["x/b"].addresses, NODE_1, POD_LABELS["c"], created=older, terminating=True),
        documents.pod("y", "scheduled", (), NODE_2, POD_LABELS["a"], ports, phase="Pending"),
    ]


def objects() -> list[Document]:
    """The cluster without a policy."""
    return [*node_documents(), *namespace_documents(), *(pod_document(party.name) for party in PODS), *_bystanders()]
