"""The numbers of zones' versions: who may have changed a zone is seen without a look at its records.

A server counts one up for each update (RFC 2136, 3.6). So what others change shows, and what we do does not. A server
that counts otherwise is looked at each time.
"""

from __future__ import annotations

from rulegen.dns.server import Server
from rulegen.errors import HostError

_MODULUS = 1 << 32


class Versions:
    """The zones as they were when we knew all that is in them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._serials: dict[str, int] = {}
        self._away: set[str] = set()

    def read(self, zone: str, serial: int) -> None:
        """All of a zone was read in this version."""
        self._serials[zone] = serial
        self._away.discard(zone)

    def away(self, zone: str) -> None:
        """A zone cannot be read, though others can; it is looked for."""
        self._serials.pop(zone, None)
        self._away.add(zone)

    def sent(self, zone: str, updates: int) -> None:
        """So many updates of ours have taken effect since. Raises HostError."""
        now = self._server.serial(zone)
        if self._serials.get(zone, -1) + updates in (now, now + _MODULUS):
            self._serials[zone] = now

    def moved(self) -> list[str]:
        """What shows that zones are not as we know them, in words."""
        moved = [words for zone, serial in self._serials.items() if (words := self._moved(zone, serial))]
        return moved + [f"zone {zone}, which is back" for zone in sorted(self._away) if self._is_back(zone)]

    def _is_back(self, zone: str) -> bool:
        try:
            self._server.serial(zone)
        except HostError:
            return False
        return True

    def _moved(self, zone: str, serial: int) -> str:
        try:
            now = self._server.serial(zone)
        except HostError as error:
            return str(error)
        return "" if now == serial else f"another program, in zone {zone}"


class ZoneWatch:
    """See `reconcile.driver.Watch`: a look each `period` seconds."""

    is_prompt = False

    def __init__(self, versions: Versions, period: float, now: float) -> None:
        self._versions = versions
        self._period = period
        self._next = now + period

    def files(self) -> list[int]:
        return []

    def wait(self, now: float) -> float | None:
        return self._next - now

    def look(self, now: float) -> list[str]:
        if now < self._next:
            return []
        self._next = now + self._period
        return self._versions.moved()

    def compared(self, now: float, seconds: float) -> None:
        """A large zone that somebody changes all the time is not transferred all the time."""
        self._next = now + max(self._period, 20 * seconds)
