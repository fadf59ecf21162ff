"""Which UDP Frontends there are, which of them a change concerns, and whether a flow to one is stale. Pure.

Changed ServicePorts come in; the Frontends to look at go out, then a verdict for each flow. Other protocols are passed
over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.services.model import Frontend, FrontendKind, ServicePort, ServicePortKey, Verdict

# The address of host ports that are accepted on every address of the node.
EVERYWHERE = "*"


class FrontendKey(NamedTuple):
    """A UDP Frontend; `address` is canonical, "" for a NodePort, EVERYWHERE for a host port without a hostIP."""

    family: Family
    address: str
    port: int


class Flow(NamedTuple):
    """A tracked UDP connection, as far as it matters here. Addresses are canonical.

    `destination` and `port`: where the client sent its first packet. `reply_source` and `reply_port`: who answers.
    `is_translated`: the destination was changed on the way. `source`: the client; `reply_destination`: where
    replies go, another address where the source was replaced. `is_replied`: somebody has answered.
    """

    family: Family
    destination: str
    port: int
    reply_source: str
    reply_port: int
    is_translated: bool
    source: str = ""
    is_replied: bool = True
    reply_destination: str = ""


class OwnedFrontend(NamedTuple):
    """A Frontend with the ServicePort that owns it (D2)."""

    service_port: ServicePort
    frontend: Frontend


Replies: TypeAlias = frozenset[tuple[str, int]]


class UdpFrontends:
    """All UDP Frontends, by what a packet says."""

    def __init__(self) -> None:
        self._service_ports: dict[ServicePortKey, ServicePort] = {}
        self._owned: dict[FrontendKey, OwnedFrontend] = {}

    def replace(self, service_ports: Mapping[ServicePortKey, ServicePort | None]) -> set[FrontendKey]:
        """Takes changed ServicePorts (None: gone). Returns the Frontends to which there may be stale flows now (D5).

        Those are the Frontends that are new, gone, or another ServicePort's, whose verdict or source ranges are others,
        and those of a ServicePort that lost an endpoint. One that moves between two ServicePorts is in both, and its
        new owner counts.
        """
        changed = {key: service_port for key, service_port in service_ports.items() if key[0].protocol == "UDP"}
        if not changed:
            return set()
        before: dict[FrontendKey, OwnedFrontend] = {}
        after: dict[FrontendKey, OwnedFrontend] = {}
        shrunk: set[ServicePortKey] = set()
        for key, service_port in changed.items():
            old = self._service_ports.pop(key, None)
            before.update(_frontends(old))
            after.update(_frontends(service_port))
            if service_port is not None:
                self._service_ports[key] = service_port
                if old is not None and _replies(old) - _replies(service_port):
                    shrunk.add(key)
        for gone in before.keys() - after.keys():
            # A new owner may have come into force before the old one gave it up.
            owner = self._owned.get(gone)
            if owner is not None and owner.service_port.name == before[gone].service_port.name:
                del self._owned[gone]
        self._owned |= after
        return {key for key in before.keys() | after.keys() if _is_concerned(before.get(key), after.get(key), shrunk)}

    def get(self, key: FrontendKey) -> OwnedFrontend | None:
        """The Frontend with its owner; None for one that is gone."""
        return self._owned.get(key)

    def all(self) -> Collection[FrontendKey]:
        """Every Frontend there is."""
        return self._owned.keys()

    def node_ports(self, family: Family) -> list[FrontendKey]:
        """The NodePorts of a family."""
        return [key for key in self._owned if key.family is family and not key.address]


class Judge:
    """Tells stale flows to some Frontends from others, with the ServicePorts as they are.

    `concerned`: the Frontends that are looked at; flows to others live on. `accepts_node_ports`: whether an address is
    the node's own and NodePorts are accepted on it (SVC-60 to SVC-63, SVC-66). `is_own`: whether the node has it, and
    it is no loopback (D21).
    """

    def __init__(
        self,
        frontends: UdpFrontends,
        concerned: Collection[FrontendKey],
        accepts_node_ports: Callable[[Family, str], bool],
        is_own: Callable[[Family, str], bool],
    ) -> None:
        self._frontends = frontends
        self._concerned = concerned
        self._is_own = is_own
        self._accepts_node_ports = accepts_node_ports
        self._replies: dict[ServicePortKey, Replies] = {}

    def is_stale(self, flow: Flow) -> bool:
        """Whether a new packet of the flow would go elsewhere, or nowhere, were it not for the entry (SVC-74).

        To a Frontend that exists: when who answers is not one of its ServicePort's endpoints, which includes nobody
        having translated it. To one that is gone: when it was translated; else it is not ours to judge.
        """
        addressed = FrontendKey(flow.family, flow.destination, flow.port)
        owned = self._frontends.get(addressed)
        concerned = addressed in self._concerned
        # An address of the node whose own Frontend has nobody behind it is still an address for NodePorts (SVC-64).
        if owned is None or owned.frontend.verdict is Verdict.REJECT:
            node_port = FrontendKey(flow.family, "", flow.port)
            owned_node_port = self._frontends.get(node_port)
            is_watched = node_port in self._concerned
            if (owned_node_port or is_watched) and self._accepts_node_ports(flow.family, flow.destination):
                concerned = concerned or is_watched
                owned = owned_node_port or owned
        if owned is None and self._is_own(flow.family, flow.destination):
            host_port = FrontendKey(flow.family, EVERYWHERE, flow.port)
            concerned = concerned or host_port in self._concerned
            owned = self._frontends.get(host_port)
        elif owned is not None and owned.frontend.kind is FrontendKind.HOST_PORT:
            # A hostIP is a frontend only where the node has it.
            concerned = concerned and self._is_own(flow.family, flow.destination)
        if not concerned:
            return False
        if owned is None:
            return flow.is_translated
        return (flow.reply_source, flow.reply_port) not in self._replies_of(owned.service_port)

    def _replies_of(self, service_port: ServicePort) -> Replies:
        key = (service_port.name, service_port.family)
        if key not in self._replies:
            self._replies[key] = _replies(service_port)
        return self._replies[key]


def _frontends(service_port: ServicePort | None) -> Iterator[tuple[FrontendKey, OwnedFrontend]]:
    if service_port is not None:
        for frontend in service_port.frontends:
            yield (
                FrontendKey(service_port.family, _place(frontend), frontend.port),
                OwnedFrontend(service_port, frontend),
            )


def _place(frontend: Frontend) -> str:
    everywhere = frontend.kind is FrontendKind.HOST_PORT and not frontend.address
    return EVERYWHERE if everywhere else frontend.address


def _replies(service_port: ServicePort) -> Replies:
    """Who may answer a flow to the ServicePort's Frontends (SVC-73, SVC-76)."""
    return frozenset([(backend.address, backend.port) for backend in service_port.serving])


def _is_concerned(
    before: OwnedFrontend | None, after: OwnedFrontend | None, shrunk: Collection[ServicePortKey]
) -> bool:
    if before is None or after is None or before.service_port.name != after.service_port.name:
        return True
    if before.frontend.verdict is not after.frontend.verdict:
        return True
    if before.frontend.allowed_sources != after.frontend.allowed_sources:
        return True
    return (after.service_port.name, after.service_port.family) in shrunk
