"""Folders and files come in; a turn goes out at the start and whenever something in them may have changed.

What is at a path is a matter of all links on the way there, and of folders that are taken away and made again. So the
kernel tells of changes in the folders that count at the moment, which is fast, and a look at every path, each second
or less often if it takes long, says which ones count, and what nobody told: a network file system does not, nor does
a folder that was renamed, nor a kernel whose inotify watches are used up. Nothing is read here but names and states.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

_LOG = logging.getLogger(__name__)

# Milliseconds: a change counts when none has followed for a step, at the latest after `_DEBOUNCE`.
_DEBOUNCE = 400
_STEP = 40
# Seconds between looks, and how many times as long as a look they take at least.
_INTERVAL = 1.0
_REST = 50
# As in the kernel: links on the way to one file.
_MAX_LINKS = 40


def turns(paths: Sequence[str], stopping: threading.Event) -> Iterator[None]:
    """Until `stopping` is set; that may be another thread's to do. A folder counts with all that is below it.

    A path may be missing for a while; that it is there again is a change.
    """
    # The working directory may go.
    paths = [str(Path(path).absolute()) for path in paths]
    known: dict[str, _State] | None = None
    while not stopping.is_set():
        look = _Look(paths)
        # The first look through a new watch finds what has changed before it was set up.
        for changed in _told(look, stopping):
            now = _Look(paths)
            if known != now.states or not changed.isdisjoint(now.states):
                known = now.states
                yield
            if now.folders != look.folders:
                break


# What tells a file or folder from another, and from itself as it was.
_State: TypeAlias = tuple[int, ...]


class _Look:
    """What is at absolute paths: the state of each file and folder by its real path; () of those that are missing.

    `folders`: where a change would be seen, which is where files are, and links that lead there. `cost`: seconds.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        started = time.monotonic()
        self.states: dict[str, _State] = {}
        self.folders: dict[str, _State] = {}
        for path in paths:
            self._add_path(path)
        self.cost = time.monotonic() - started

    def _add_path(self, path: str) -> None:
        real = self._follow(path)
        self._add(real)
        self.states[path] = self.states[real]

    def _add(self, real: str) -> None:
        if real in self.states:  # links may lead to one folder by very many ways
            return
        try:
            found = os.stat(real)  # noqa: PTH116 - a folder may hold thousands
        except OSError:
            self.states[real] = ()
            self._add_folder(os.path.dirname(real))  # noqa: PTH120
            return
        if not stat.S_ISDIR(found.st_mode):
            self._add_folder(os.path.dirname(real))  # noqa: PTH120
            self.states[real] = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
            return
        # Not its times: they change with files that do not count.
        self.states[real] = found.st_dev, found.st_ino
        self._add_folder(real)
        self._add_entries(real)

    def _add_entries(self, folder: str) -> None:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                self._add_path(entry.path)
            else:
                self._add(entry.path)

    def _add_folder(self, folder: str) -> None:
        if folder in self.folders:
            return
        try:
            found = os.stat(folder)  # noqa: PTH116
        except OSError:
            return
        self.folders[folder] = found.st_dev, found.st_ino

    def _follow(self, path: str) -> str:
        """The real path; each folder with a link on the way counts. Goes on where something is missing."""
        real, rest = "/", _steps(path)
        links = 0
        while rest:
            step = rest.pop()
            if step == "..":
                real = os.path.dirname(real)  # noqa: PTH120
                continue
            there = os.path.join(real, step)  # noqa: PTH118
            try:
                target = os.readlink(there)  # noqa: PTH115
            except OSError:
                real = there
                continue
            self._add_folder(real)
            links += 1
            if links > _MAX_LINKS:
                return there
            rest += _steps(target)
            real = "/" if target.startswith("/") else real
        return real


def _steps(path: str) -> list[str]:
    """The names in a path, the last one first."""
    return [step for step in reversed(path.split("/")) if step not in ("", ".")]


def _told(look: _Look, stopping: threading.Event) -> Iterator[set[str]]:
    """The paths that the kernel says were changed, from when it is watching; none, each time that a look is due."""
    from watchfiles import watch

    pause = max(_INTERVAL, _REST * look.cost)
    due = time.monotonic()
    changes = watch(
        *look.folders,
        watch_filter=None,
        debounce=_DEBOUNCE,
        step=_STEP,
        rust_timeout=_STEP,
        yield_on_timeout=True,
        stop_event=stopping,
        recursive=False,
    )
    try:
        for changed in changes:
            if changed or time.monotonic() >= due:
                yield {path for _, path in changed}
                due = time.monotonic() + pause
    except (OSError, RuntimeError) as error:  # watchfiles' own errors are RuntimeErrors
        # A folder that has just gone, or no inotify watches left: looking is all there is.
        _LOG.debug("not told of changes in files: %s", error)
        stopping.wait(pause)
        yield set()
