"""The end of the agent's process: an exit status comes in, and nothing comes back, whatever the threads do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn


class EndsProcess:
    """A block with which the process ends: with status 0, that of a SystemExit, or 1 for an error in the program.

    `close_log` writes what is still to be written, in a bounded time.
    """

    def __init__(self, close_log: Callable[[], None]) -> None:
        self._close_log = close_log

    def __enter__(self) -> None:
        """The block begins."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> NoReturn:
        """Never returns."""
        status = int(error is not None)
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        # Whoever reads standard output may have seen enough.
        elif kind is not None and error is not None and not isinstance(error, BrokenPipeError):
            sys.excepthook(kind, error, traceback)
        leave(status, self._close_log)


def leave(status: int, close_log: Callable[[], None]) -> NoReturn:
    """Ends the process now.

    The end of the interpreter would first wait for every thread that is no daemon and for the workers of thread pools,
    so that one that hangs keeps a stopped agent alive; and it takes itself apart while daemon threads are still there,
    where one that wakes up can crash it. By now all that needs an order was stopped in order, and the kernel closes the
    rest as it does after a crash.
    """
    close_log()
    os._exit(status)
