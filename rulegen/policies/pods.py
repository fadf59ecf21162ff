"""Pods as policies see them: what is remembered of each, and who counts where several claim one address.

In: Pod objects. Out: `PodRecord`s. Labels are packed; pods whose labels look the same to all selectors are one
`PodClass`, which is what selectors are matched with.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING

import msgspec

from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import Container, Pod
from rulegen.policies.model import PROTOCOLS, Address, Combinations, PodPort

if TYPE_CHECKING:
    from rulegen.policies.selected import Selected

_FINISHED = frozenset({"Succeeded", "Failed"})
_ALWAYS = "Always"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, str]).decode


def packed(address: str) -> Address | None:
    """An address in network order, or None when it is none."""
    canonical = canonical_address(address)
    if canonical is None:
        return None
    return inet_pton(AF_INET6 if ":" in canonical else AF_INET, canonical)


def addresses_of(pod: Pod) -> tuple[Address, ...]:
    """The addresses that policies know the pod by: none once it has finished, nor on the host's network."""
    status, spec = pod.status, pod.spec
    if status is None or (spec is not None and spec.host_network) or status.phase in _FINISHED:
        return ()
    texts = [item.ip for item in status.pod_ips or ()] or [status.pod_ip or ""]
    found = (packed(text) for text in texts)
    return tuple(dict.fromkeys(address for address in found if address is not None))


def named_ports(pod: Pod) -> tuple[PodPort, ...]:
    """The ports that the pod's containers name; of init containers, those of the ones that stay."""
    if pod.spec is None:
        return ()
    staying = [item for item in pod.spec.init_containers or () if item.restart_policy == _ALWAYS]
    containers: Iterable[Container] = (*staying, *(pod.spec.containers or ()))
    found = {
        PodPort(port.name, port.protocol or "TCP", port.container_port)
        for container in containers
        for port in container.ports or ()
        if port.name and 0 < port.container_port <= 65535
    }
    return tuple(sorted(port for port in found if port.protocol in PROTOCOLS))


class PodClass:
    """The pods of a namespace that no selector tells apart.

    `selected`: by which selectors. `addresses`: those that its pods hold; `local`: of them, those of this node's pods.
    `combinations`: of ingress and egress, None until somebody asks. `pods`: how many there are.
    """

    __slots__ = ("addresses", "combinations", "labels", "local", "namespace", "pods", "selected")

    def __init__(self, namespace: str, labels: Mapping[str, str]) -> None:
        self.namespace = namespace
        self.labels = labels
        self.selected: set[Selected] = set()
        self.addresses: set[Address] = set()
        self.local: set[Address] = set()
        self.combinations: Combinations | None = None
        self.pods = 0


class PodRecord(msgspec.Struct, gc=False):
    """What is remembered of a pod with an address. `labels`: packed, all of them.

    `rank`: the higher one holds an address that two claim.
    """

    namespace: str
    name: str
    uid: str
    addresses: tuple[Address, ...]
    labels: bytes
    ports: tuple[PodPort, ...]
    is_local: bool
    rank: str
    pod_class: PodClass

    def __str__(self) -> str:
        """`default/web-1`."""
        return f"{self.namespace}/{self.name}"


def rank_of(pod: Pod) -> str:
    """A pod that stays before one that goes, a running one before others, then the newer."""
    metadata = pod.metadata
    stays = metadata.deletion_timestamp is None
    is_running = pod.status is not None and pod.status.phase == "Running"
    return f"{stays:d}{is_running:d}{metadata.creation_timestamp or ''}"


def pack_labels(labels: Mapping[str, str]) -> bytes:
    """Labels as few bytes, the same for the same labels."""
    return _encode(dict(sorted(labels.items())))


def unpack_labels(data: bytes) -> dict[str, str]:
    """The inverse."""
    return _decode(data)


class Claims:
    """Who claims an address. Nearly always one pod does."""

    def __init__(self) -> None:
        self._alone: dict[Address, PodRecord] = {}
        # The one that holds it last.
        self._disputed: dict[Address, list[PodRecord]] = {}

    def of(self, address: Address) -> tuple[PodRecord, ...]:
        """All that claim an address, the one that holds it first."""
        alone = self._alone.get(address)
        return (alone,) if alone is not None else tuple(reversed(self._disputed.get(address, ())))

    def add(self, address: Address, record: PodRecord) -> None:
        """A pod claims an address."""
        claims = self._disputed.get(address)
        if claims is not None:
            insort(claims, record, key=_order)
        elif (alone := self._alone.pop(address, None)) is not None:
            self._disputed[address] = sorted((alone, record), key=_order)
        else:
            self._alone[address] = record

    def remove(self, address: Address, record: PodRecord) -> None:
        """A pod gives an address up."""
        if self._alone.get(address) is record:
            del self._alone[address]
        claims = self._disputed.get(address)
        if claims is None:
            return
        place = bisect_left(claims, _order(record), key=_order)
        if place < len(claims) and claims[place] is record:
            del claims[place]
        if len(claims) == 1:
            self._alone[address] = claims[0]
            del self._disputed[address]

    def first(self, address: Address) -> PodRecord | None:
        """The one that holds an address."""
        alone = self._alone.get(address)
        if alone is not None:
            return alone
        claims = self._disputed.get(address)
        return claims[-1] if claims else None


def _order(record: PodRecord) -> tuple[str, str, str]:
    """The largest holds an address."""
    return record.rank, record.uid, str(record)
