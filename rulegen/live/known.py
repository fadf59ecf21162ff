"""Which Services there are: what clients connect to, and the share of each endpoint by its weight. Only values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.conntrack.connections import Connection
from rulegen.services.model import ServicePort


class ServiceId(NamedTuple):
    """A service-port in one family. `name`: `default/web:http`; `protocol`: as conntrack has it, `tcp`."""

    name: str
    family: Family
    protocol: str


# Family, protocol, address ("" for every address of the node) and port.
FrontendKey: TypeAlias = tuple[Family, str, str, int]
# Endpoints as `10.128.0.5:8080`, with what they get of the new connections; all together 1.
Shares: TypeAlias = Mapping[str, float]


@dataclass
class Known:
    """Those that somebody has told of."""

    frontends: dict[FrontendKey, ServiceId] = field(default_factory=dict)
    shares: dict[ServiceId, Shares] = field(default_factory=dict)

    def add(self, frontends: Iterable[FrontendKey], service: ServiceId) -> None:
        for key in frontends:
            self.frontends.setdefault(key, service)
        self.shares.setdefault(service, {})

    def service_of(self, connection: Connection) -> ServiceId | None:
        """Whose frontend it was made to."""
        family, protocol = connection.family, connection.protocol
        found = self.frontends.get((family, protocol, connection.destination, connection.port))
        return found or self.frontends.get((family, protocol, "", connection.port))


def known_of_objects(service_ports: Iterable[ServicePort]) -> Known:
    """What ServicePorts say; where there is a Cluster list its weights count, else those of the Local one."""
    known = Known()
    for service_port in service_ports:
        protocol = service_port.name.protocol.lower()
        service = ServiceId(str(service_port.name), service_port.family, protocol)
        family = service_port.family
        known.add(((family, protocol, one.address, one.port) for one in service_port.frontends), service)
        backends = service_port.cluster_endpoints or service_port.local_endpoints
        known.shares[service] = shares({str(backend): backend.weight for backend in backends})
    return known


def shares(weights: Mapping[str, float]) -> Shares:
    """Each as a part of the whole."""
    total = sum(weights.values())
    return {endpoint: weight / total for endpoint, weight in weights.items()} if total else {}
