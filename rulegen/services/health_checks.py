"""A Service and its endpoints come in, what load balancers may ask this node about it goes out (spec §14). No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from rulegen.config import Family
from rulegen.services.endpoints import JoinedSlices, merge
from rulegen.services.model import HealthCheck, HealthCheckKey, ServiceKey
from rulegen.services.requested import ServiceIntent


def health_checks(intent: ServiceIntent, slices: Mapping[Family, JoinedSlices]) -> dict[Family, HealthCheck]:
    """The health check of each family in which the Service exists; none for most Services (SVC-5, SVC-77).

    `slices`: the Service's.
    """
    if not intent.health_check_port:
        return {}
    families = dict.fromkeys(port_intent.family for port_intent in intent.ports)
    return {
        family: HealthCheck(intent.key, family, intent.health_check_port, _local_count(intent, family, slices[family]))
        for family in families
    }


def _local_count(intent: ServiceIntent, family: Family, slices: JoinedSlices) -> int:
    """SVC-81; weight 0 as if absent (D9)."""
    addresses = {
        endpoint.backend.address
        for port in intent.ports
        if port.family is family
        for endpoint in merge(slices.of_port(port.name.port, port.name.protocol), intent.weights)
        if endpoint.ready and endpoint.backend.local and endpoint.backend.weight
    }
    return len(addresses)


class HealthChecks:
    """The health checks of all Services, and which of them differ from what was taken last."""

    def __init__(self) -> None:
        self._checks: dict[ServiceKey, Mapping[Family, HealthCheck]] = {}
        self._before: dict[HealthCheckKey, HealthCheck | None] = {}

    def replace(self, key: ServiceKey, checks: Mapping[Family, HealthCheck]) -> None:
        """A Service's health checks as they are now."""
        if not checks and key not in self._checks:
            # As nearly always.
            return
        before = self._checks.pop(key, {})
        for family in (*before, *checks):
            self._before.setdefault((key, family), before.get(family))
        if checks:
            self._checks[key] = checks

    def current(self) -> list[HealthCheck]:
        """All, sorted."""
        checks = (check for found in self._checks.values() for check in found.values())
        return sorted(checks, key=lambda check: (check.service, check.family.value))

    def take(self) -> dict[HealthCheckKey, HealthCheck | None]:
        """Those that differ from what was taken last, sorted; None for one that is gone."""
        changed = {}
        for key in sorted(self._before, key=lambda key: (key[0], key[1].value)):
            service, family = key
            after = self._checks.get(service, {}).get(family)
            if after != self._before[key]:
                changed[key] = after
        self._before = {}
        return changed
