"""Lines come in from any thread, and from signal handlers; a thread writes them to a file. Nobody who has one waits.

A reader that has stopped reading, or a disk that hangs, holds up that thread alone. Of lines that come meanwhile so
many are kept; the rest is dropped, and counted.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

_LINES_AT_ONCE = 500
_PAUSE = 0.05


class LineWriter:
    """Writes to the file descriptor `file`, which stays open.

    `most`: how many lines may wait. `tell_dropped`: makes the line that says how many were dropped. `fail` is called
    once, in the thread that writes, when the file takes no more: its reader is gone, the disk is full. From then on
    everything is dropped.
    """

    def __init__(
        self,
        file: int,
        most: int,
        tell_dropped: Callable[[int], str],
        fail: Callable[[OSError], None],
    ) -> None:
        self._file = file
        self._most = most
        self._tell_dropped = tell_dropped
        self._fail = fail
        # Unlike others, it may be used by a signal handler that has interrupted a thread in the middle of `put`.
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._dropped = 0
        self._is_broken = False
        self._ended = threading.Event()
        threading.Thread(target=self._run, name=f"lines to file {file}", daemon=True).start()

    def write(self, line: str) -> None:
        """Takes a line, without its end; never waits, never raises."""
        if self._is_broken or self._lines.qsize() >= self._most:
            with self._lock:
                self._dropped += 1
        else:
            self._lines.put(line)

    def close(self, seconds: float) -> None:
        """Waits until all is written, but not longer than that; then what is left is lost."""
        self._lines.put(None)
        self._ended.wait(seconds)

    def _run(self) -> None:
        try:
            while lines := self._next():
                self._write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            self._is_broken = True
            self._fail(error)
        finally:
            self._ended.set()

    def _next(self) -> list[str]:
        """What waits, some of it, and how many were dropped; nothing at the end."""
        lines = []
        line = self._lines.get()
        while line is not None:
            lines.append(line)
            if self._lines.empty() or len(lines) >= _LINES_AT_ONCE:
                break
            line = self._lines.get()
        if line is None and lines:
            self._lines.put(None)
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        return [*lines, self._tell_dropped(dropped)] if dropped else lines

    def _write(self, text: str) -> None:
        left = memoryview(text.encode(errors="backslashreplace"))
        while left:
            try:
                left = left[os.write(self._file, left) :]
            except BlockingIOError:
                # The file is shared with somebody who has made it non-blocking.
                time.sleep(_PAUSE)


class LineStream(io.TextIOBase):
    """A text file in the place of `sys.stderr`, for programs that know only files: its lines go to `take`."""

    encoding = "utf-8"

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._begun = ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        """No, so that nobody writes colours."""
        return False

    def write(self, text: str) -> int:
        """Takes text; each line is handed on when it is complete."""
        *complete, self._begun = (self._begun + text).split("\n")
        for line in complete:
            self._take(line)
        return len(text)
