"""Counts come in, a snapshot goes out: what was asked for, in the order that was asked for. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rulegen.live.known import ServiceId, Shares
from rulegen.top.model import VERSION, EndpointCount, Others, ServiceCount, Snapshot
from rulegen.top.tally import Row, Tally


class Choice(NamedTuple):
    """What is shown. `is_wanted`: by Service. `order`: connections, new or name. `idle`: also those without any."""

    is_wanted: Callable[[ServiceId], bool]
    order: str = "connections"
    idle: bool = False


class _Counts(NamedTuple):
    """Connections by row: those that there are, and those that came in so many seconds."""

    now: Counter[Row]
    new: Counter[Row]
    seconds: float

    def of(self, rows: Iterable[Row]) -> tuple[int, int, float]:
        """Of all of these: now, new, and new in a second."""
        rows = tuple(rows)
        new = sum(self.new[row] for row in rows)
        return sum(self.now[row] for row in rows), new, round(new / self.seconds, 1)


def snapshot(tally: Tally, choice: Choice, seconds: float, notes: tuple[str, ...]) -> Snapshot:
    """`seconds`: since the last one, at least a millisecond."""
    seconds = max(round(seconds, 3), 0.001)
    counts = _Counts(tally.now(), tally.take_new(), seconds)
    met: dict[ServiceId, dict[str, None]] = {}
    others = []
    for row in dict.fromkeys((*counts.now, *counts.new)):
        if row.service is None:
            others.append(row)
        elif choice.is_wanted(row.service):
            met.setdefault(row.service, {})[row.endpoint] = None
    if choice.idle:
        for service in filter(choice.is_wanted, tally.known.shares):
            met.setdefault(service, {})
    services = [_service(service, found, tally.known.shares.get(service, {}), counts) for service, found in met.items()]
    services.sort(key=lambda one: _order(one, choice.order))
    return Snapshot(VERSION, seconds, tuple(services), Others(*counts.of(others)), notes)


def _service(service: ServiceId, met: Iterable[str], shares: Shares, counts: _Counts) -> ServiceCount:
    """With all endpoints that it should have, and those that were met."""
    rows = [Row(service, endpoint) for endpoint in dict.fromkeys((*shares, *met))]
    total, *_ = counts.of(rows)
    found = [
        EndpointCount(
            row.endpoint,
            *counts.of([row]),
            round(counts.now[row] / total, 4) if total else None,
            round(shares[row.endpoint], 4) if row.endpoint in shares else None,
        )
        for row in rows
    ]
    found.sort(key=lambda one: (-one.connections, -one.new, one.endpoint))
    return ServiceCount(service.name, service.family.value, service.protocol, *counts.of(rows), tuple(found))


def _order(one: ServiceCount, order: str) -> tuple[int, int, str, str, str]:
    name = (one.service, one.family, one.protocol)
    if order == "name":
        return (0, 0, *name)
    return (-one.new, -one.connections, *name) if order == "new" else (-one.connections, -one.new, *name)
