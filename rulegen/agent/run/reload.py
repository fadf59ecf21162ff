"""A configuration file that is followed: what it says now goes out when that changes. A faulty one changes nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from rulegen.agent.sources.watched_files import turns
from rulegen.config import Configuration
from rulegen.errors import InputError, printable

_LOG = logging.getLogger("rulegen.agent")


class ConfigurationWatch:
    """Follows the file `path`; "" is none.

    `load` reads it, and raises InputError. `wake_up` is called, from another thread, when `changed` is set.
    """

    def __init__(self, path: str, load: Callable[[], Configuration], wake_up: Callable[[], None]) -> None:
        self._path = path
        self._load = load
        self._wake_up = wake_up
        self._current: Configuration | None = None
        self._reported = ""
        self._stopping = threading.Event()
        self.changed: Configuration | None = None

    def start(self, current: Configuration) -> None:
        """Begins; `current`: what is in force. The file may have changed since that was read."""
        self._current = current
        if self._path:
            threading.Thread(target=self._run, name="follow the configuration", daemon=True).start()

    def take(self) -> Configuration | None:
        """What it says now, if that is something else than what is in force; in force from now on."""
        taken, self.changed = self.changed, None
        if taken is not None:
            self._current = taken
        return taken

    def problem(self) -> str:
        """Why the file is not used as it is now, "" while it is; may be asked by any thread."""
        return self._reported

    def close(self) -> None:
        """Ends soon."""
        self._stopping.set()

    def _run(self) -> None:
        for _ in turns([self._path], self._stopping):
            self._read()

    def _read(self) -> None:
        try:
            found = self._load()
        except InputError as error:
            if str(error) != self._reported:
                self._reported = str(error)
                for line in self._reported.splitlines():
                    _LOG.error("configuration not used, the one before stays in force: %s", line)
            return
        if self._reported:
            _LOG.info("configuration in use again: %s", printable(self._path))
        self._reported = ""
        if found != (self.changed or self._current):
            self.changed = found
            self._wake_up()
