"""What is told of Services and their connections, as `-o json` writes it. Only values."""

from __future__ import annotations

from msgspec import Struct

# Of the documents; grows when a field changes its meaning or goes.
VERSION = 1


class Shown(Struct, frozen=True, rename="camel"):
    """Base of all parts."""


class EndpointCount(Shown, frozen=True):
    """An endpoint's connections. `share`: of those of its Service, from 0 to 1; None without any.

    `weight_share`: what its weight says it should get of new ones; None: it is in no list any more.
    """

    endpoint: str
    connections: int
    new: int
    new_per_second: float
    share: float | None
    weight_share: float | None


class ServiceCount(Shown, frozen=True):
    """A service-port's connections in one family; `endpoints`: most connections first."""

    service: str
    family: str
    protocol: str
    connections: int
    new: int
    new_per_second: float
    endpoints: tuple[EndpointCount, ...]


class Others(Shown, frozen=True):
    """Connections that somebody has translated, and whose destination is no frontend of a Service that is known."""

    connections: int
    new: int
    new_per_second: float


class Snapshot(Shown, frozen=True):
    """One look at all of it. `seconds`: in which `new` connections came. `notes`: what the figures lack."""

    version: int
    seconds: float
    services: tuple[ServiceCount, ...]
    others: Others
    notes: tuple[str, ...]
