"""Who may have changed nginx's files, or what it serves: looked at from time to time. See `reconcile.driver.Watch`."""

from __future__ import annotations

from rulegen.config import IngressSettings
from rulegen.errors import HostError
from rulegen.nginx.files import Files
from rulegen.nginx.process import serving


class FileWatch:
    """`period`: seconds between two looks."""

    is_prompt = False

    def __init__(self, settings: IngressSettings, period: float, now: float) -> None:
        self._files = Files(settings)
        self._address = settings.version_address
        self._period = period
        self._due = now + period
        self._seen: object = None

    def files(self) -> list[int]:
        """See `Watch`."""
        return []

    def wait(self, now: float) -> float:
        """See `Watch`."""
        return max(0.0, self._due - now)

    def look(self, now: float) -> list[str]:
        """See `Watch`."""
        if now < self._due:
            return []
        self._due = now + self._period
        try:
            version = self._files.read().version
            seen: object = (self._files.signature(), version)
        except HostError as error:
            return [str(error)]
        before, self._seen = self._seen, seen
        if before is not None and before != seen:
            return ["a file of nginx's"]
        return [] if serving(self._address) == version else ["nginx, which serves another configuration"]

    def compared(self, now: float, seconds: float) -> None:
        """See `Watch`."""
        del seconds
        self._due = now + self._period
        self._seen = None
