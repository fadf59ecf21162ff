"""How far a command is, on a terminal, once it has taken more than a second; on standard error, and gone at its end.

In: what is being done, and perhaps how much of it is done. Out: a bar. Where standard error is no terminal, nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rulegen.commands.output import colour, terminal

Item = TypeVar("Item")

_SECONDS = 1.0
_STARTED = time.monotonic()


class _Bar:
    """A bar that appears a second after the program has started, if it is not closed before."""

    def __init__(self, title: str, total: int | None) -> None:
        self._title = title
        self._total = total
        self._colour = colour()
        self._done = 0
        self._lock = threading.Lock()
        self._is_closed = False
        self._shown: Callable[[int], None] = lambda _: None
        self._hide: Callable[[], None] = lambda: None
        self._timer = threading.Timer(max(0.0, _STARTED + _SECONDS - time.monotonic()), self._show)
        self._timer.daemon = True
        self._timer.start()

    def update(self, done: int) -> None:
        self._done = done
        self._shown(done)

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_closed = True
            self._hide()

    def _show(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

        counts: list[ProgressColumn] = [MofNCompleteColumn()] if self._total is not None else []
        columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeElapsedColumn())
        with self._lock:
            if self._is_closed:
                return
            bar = Progress(
                *columns, console=terminal(self._colour), transient=True, redirect_stdout=False, redirect_stderr=False
            )
            task = bar.add_task(self._title, total=self._total, completed=self._done)
            self._shown = lambda done: bar.update(task, completed=done)
            self._hide = bar.stop
            bar.start()


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar around what takes long; what it gives is told how much is done, where there is a `total`.

    Nothing may be printed within.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    bar = _Bar(title, total)
    try:
        yield bar.update
    finally:
        bar.close()


def each(title: str, items: Iterable[Item], total: int) -> Iterator[Item]:
    """The items, with a bar while they are worked on."""
    with progress(title, total) as told:
        for number, item in enumerate(items):
            told(number)
            yield item
