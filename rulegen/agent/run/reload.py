"""Configuration files that are followed: what they say now goes out when that changes. A faulty one changes nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from rulegen.agent.sources.watched_files import turns
from rulegen.config import Configuration
from rulegen.errors import InputError, printable

_LOG = logging.getLogger("rulegen.agent")


class ConfigurationWatch:
    """Follows the files at `paths`, of which some may not be there.

    `load` reads them, and raises InputError. `wake_up` is called, from another thread, when `changed` is set.
    """

    def __init__(self, paths: Sequence[str], load: Callable[[], Configuration], wake_up: Callable[[], None]) -> None:
        self._paths = paths
        self._load = load
        self._wake_up = wake_up
        self._current: Configuration | None = None
        self._reported = ""
        self._stopping = threading.Event()
        self.changed: Configuration | None = None

    def start(self, current: Configuration) -> None:
        """Begins; `current`: what is in force. The file may have changed since that was read."""
        self._current = current
        if self._paths:
            threading.Thread(target=self._run, name="follow the configuration", daemon=True).start()

    def take(self) -> Configuration | None:
        """What it says now, if that is something else than what is in force; in force from now on."""
        taken, self.changed = self.changed, None
        if taken is not None:
            self._current = taken
        return taken

    def problem(self) -> str:
        """Why the files are not used as they are now, "" while they are; may be asked by any thread."""
        return self._reported

    def close(self) -> None:
        """Ends soon."""
        self._stopping.set()

    def _run(self) -> None:
        for _ in turns(self._paths, self._stopping):
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
            _LOG.info("configuration in use again: %s", ", ".join(map(printable, self._paths)))
        self._reported = ""
        if found != (self.changed or self._current):
            self.changed = found
            self._wake_up()
