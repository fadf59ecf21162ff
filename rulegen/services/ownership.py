"""Who owns a Frontend that several service-ports claim (SVC-14, D2). Claims come in, owners go out.

A ClusterIP beats every other kind; then the Service created first; then namespace, name and port in their order. When
the owner goes, the next claimant takes over.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.services.model import Frontend, FrontendKind, ServiceKey, ServicePortName
from rulegen.services.requested import PortIntent, ServiceIntent

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
        self._claims: dict[FrontendKey, list[Claim]] = {}

    def replace(self, before: ServiceIntent | None, after: ServiceIntent | None) -> set[ServiceKey]:
        """Exchanges the claims of one Service; returns the other Services that claim a Frontend with another owner now.

        A claim that does not win concerns nobody else, so that what it costs does not depend on how many there are.
        """
        old, new = dict(_claims(before)), dict(_claims(after))
        if old == new:
            return set()
        if not old and self._claims.keys().isdisjoint(new):
            self._claims.update((key, [claim]) for key, claim in new.items())
            return set()
        owners = {key: self._first(key) for key in old.keys() | new.keys()}
        for key, claim in old.items():
            claims = self._claims[key]
            del claims[bisect_left(claims, claim)]
            if not claims:
                del self._claims[key]
        for key, claim in new.items():
            insort(self._claims.setdefault(key, []), claim)
        contested = (key for key, owner in owners.items() if owner != self._first(key))
        return {claim.service for key in contested for claim in self._claims.get(key, ())}

    def _first(self, key: FrontendKey) -> Claim | None:
        claims = self._claims.get(key)
        return claims[0] if claims else None

    def claimant(self, key: FrontendKey) -> ServicePortName | None:
        """Whose a Frontend is; None for one that nobody claims."""
        claim = self._first(key)
        return claim.name if claim else None

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
