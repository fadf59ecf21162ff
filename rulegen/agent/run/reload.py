"""Configuration files that are followed: what they say now goes out when that changes. A faulty one changes nothing.

One that the host cannot follow is not tried again and again: each time everything is made anew twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rulegen.agent.sources.watched_files import turns
from rulegen.config import Configuration
from rulegen.errors import InputError, printable

_LOG = logging.getLogger("rulegen.agent")


class Refused(NamedTuple):
    """A configuration that could not be put to work, and why.

    `not_before`: the time of the monotonic clock from which on it may be tried again.
    """

    configuration: Configuration
    problem: str
    not_before: float


class ConfigurationWatch:
    """Follows the files at `paths`, of which some may not be there.

    `load` reads them, and raises InputError. `wake_up` is called, from another thread, when `changed` is set.
    """

    def __init__(self, paths: Sequence[str], load: Callable[[], Configuration], wake_up: Callable[[], None]) -> None:
        self._paths = paths
        self._load = load
        self._wake_up = wake_up
        self._current: Configuration | None = None
        self._refused: Refused | None = None
        self._reported = ""
        # Of those who read, which is when a file has changed and when what was refused is tried again.
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.changed: Configuration | None = None

    def start(self, current: Configuration, refused: Refused | None = None) -> None:
        """Begins; `current`: what is in force, in the place of what was `refused`, if so.

        The file may have changed since that was read.
        """
        self._current, self._refused = current, refused
        if self._paths:
            threading.Thread(target=self._run, name="follow the configuration", daemon=True).start()
        if refused is not None:
            threading.Thread(target=self._try_again, args=(refused,), name="try again", daemon=True).start()

    def take(self) -> Configuration | None:
        """What it says now, if that is something else than what is in force; in force from now on."""
        taken, self.changed = self.changed, None
        if taken is not None:
            self._current = taken
        return taken

    def problem(self) -> str:
        """Why the files are not used as they are now, "" while they are; may be asked by any thread."""
        refused = self._refused
        return self._reported or (refused.problem if refused is not None else "")

    def close(self) -> None:
        """Ends soon."""
        self._stopping.set()

    def _run(self) -> None:
        for _ in turns(self._paths, self._stopping):
            with self._lock:
                self._read()

    def _try_again(self, refused: Refused) -> None:
        if self._stopping.wait(max(0.0, refused.not_before - time.monotonic())):
            return
        with self._lock:
            self._refused = None
            self._read()

    def _read(self) -> None:
        """Hold the lock."""
        try:
            found = self._load()
        except InputError as error:
            if str(error) != self._reported:
                self._reported = str(error)
                for line in self._reported.splitlines():
                    _LOG.error("configuration not used, the one before stays in force: %s", line)
            return
        was_faulty, self._reported = bool(self._reported), ""
        if self._refused is not None and found == self._refused.configuration:
            return
        self._refused = None
        if was_faulty:
            _LOG.info("configuration in use again: %s", ", ".join(map(printable, self._paths)))
        if found != (self.changed or self._current):
            self.changed = found
            self._wake_up()
