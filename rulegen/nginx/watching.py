"""Who may have changed nginx's files, or what it serves: looked at from time to time. See `reconcile.driver.Watch`."""

from __future__ import annotations

from rulegen.config import IngressSettings
from rulegen.errors import HostError
from rulegen.nginx.files import Files
from rulegen.nginx.process import serving


class Seen:
    """Files as they were when they were read or written last; what differs from that is somebody else's."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._signature: object = None

    def note(self) -> None:
        """They are about to be read, or have just been written."""
        self._signature = self._files.signature()

    def differs(self) -> bool:
        """Whether somebody has changed one since. Raises HostError."""
        return self._files.signature() != self._signature


class FileWatch:
    """`period`: seconds between two looks."""

    is_prompt = False

    def __init__(self, settings: IngressSettings, seen: Seen, period: float, now: float) -> None:
        self._files = Files(settings)
        self._address = settings.version_address
        self._seen = seen
        self._period = period
        self._due = now + period

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
            if self._seen.differs():
                return ["a file of nginx's"]
            version = self._files.read().version
        except HostError as error:
            return [str(error)]
        return [] if serving(self._address) == version else ["nginx, which serves another configuration"]

    def compared(self, now: float, seconds: float) -> None:
        """See `Watch`."""
        del seconds
        self._due = now + self._period
