"""Who owns a Frontend that several service-ports claim (rule 14, D2). Claims come in, owners go out.

A ClusterIP beats every other kind; then the Service created first; then namespace, name and port in their order. When
the owner goes, the next claimant takes over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.routing.model import Frontend, FrontendKind, ServiceKey, ServicePortName
from rulegen.routing.services import PortIntent, ServiceIntent

# Family, address ("" for a NodePort), port, protocol.
FrontendKey: TypeAlias = tuple[Family, str, int, str]


class Claim(NamedTuple):
    """Sorts before the claims that it beats."""

    is_external: bool
    created: float
    name: ServicePortName

    @property
    def service(self) -> ServiceKey:
        """The Service that claims."""
        return self.name.namespace, self.name.name


class Ownership:
    """The claims to each Frontend, the owner's first."""

    def __init__(self) -> None:
        self._claims: dict[FrontendKey, tuple[Claim, ...]] = {}

    def replace(self, before: ServiceIntent | None, after: ServiceIntent | None) -> set[ServiceKey]:
        """Exchanges the claims of one Service; returns the other Services that share a Frontend with either."""
        shared: set[ServiceKey] = set()
        old, new = dict(_claims(before)), dict(_claims(after))
        if old == new:
            return shared
        for key, claim in old.items():
            rest = tuple(other for other in self._claims[key] if other != claim)
            shared.update(other.service for other in rest)
            if rest:
                self._claims[key] = rest
            else:
                del self._claims[key]
        for key, claim in new.items():
            present = self._claims.get(key)
            if present:
                shared.update(other.service for other in present)
            self._claims[key] = tuple(sorted((*present, claim))) if present else (claim,)
        return shared

    def owner(self, intent: PortIntent, frontend: Frontend) -> ServicePortName:
        """The service-port that a claimed Frontend belongs to."""
        return self._claims[frontend_key(intent, frontend)][0].name


def frontend_key(intent: PortIntent, frontend: Frontend) -> FrontendKey:
    """What no two service-ports can share."""
    return intent.family, frontend.address, frontend.port, intent.name.protocol


def _claims(intent: ServiceIntent | None) -> Iterable[tuple[FrontendKey, Claim]]:
    """A Service that claims a Frontend twice, by two ports, keeps the better claim, so the others come first."""
    if intent is None:
        return ()
    claims = [
        (
            frontend_key(port, frontend),
            Claim(frontend.kind is not FrontendKind.CLUSTER_IP, intent.created, port.name),
        )
        for port in intent.ports
        for frontend in port.frontends
    ]
    return sorted(claims, key=lambda claim: claim[1], reverse=True) if len(claims) > 1 else claims
