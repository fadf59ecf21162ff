"""Who may have changed nginx's files, or what it serves: looked at from time to time. See `reconcile.driver.Watch`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rulegen.config import IngressSettings
from rulegen.errors import HostError
from rulegen.nginx.files import Files
from rulegen.nginx.process import serving


class Seen:
    """Files as they were when they were read or written last; what differs from that is somebody else's."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._signatures: dict[str, object] = {}

    def note(self) -> None:
        """They are about to be read."""
        self._signatures = self._files.signatures()

    def wrote(self, digests: Iterable[str] = ()) -> None:
        """The configuration file has just been written, and these certificates before it."""
        self._take({**self._files.signature(), **self._files.signatures_of(digests)})

    def removed(self, digests: Iterable[str]) -> None:
        """These certificates have just been removed; of the file, nothing is known."""
        self._take(self._files.signatures_of(digests))

    def differs(self) -> bool:
        """Whether somebody has changed one since. Raises HostError."""
        return self._files.signatures() != self._signatures

    def _take(self, signatures: Mapping[str, object]) -> None:
        for name, signature in signatures.items():
            self._signatures.pop(name, None)
            if signature is not None:
                self._signatures[name] = signature


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
