"""The end of the agent's process: an exit status comes in, and nothing comes back, whatever the threads do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def ends_process(close_log: Callable[[], None]) -> Iterator[None]:
    """The process ends with its block: with status 0, that of a SystemExit, or 1 for an error in the program.

    `close_log` writes what is still to be written, in a bounded time.
    """
    status = 1
    try:
        yield
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BrokenPipeError:
        # Whoever reads standard output has seen enough.
        pass
    finally:
        if error := sys.exception():
            # An error in the program, told as the interpreter would.
            sys.excepthook(type(error), error, error.__traceback__)
        leave(status, close_log)


def leave(status: int, close_log: Callable[[], None]) -> NoReturn:
    """Ends the process now.

    The end of the interpreter would first wait for every thread that is no daemon and for the workers of thread pools,
    so that one that hangs keeps a stopped agent alive; and it takes itself apart while daemon threads are still there,
    where one that wakes up can crash it. By now all that needs an order was stopped in order, and the kernel closes the
    rest as it does after a crash.
    """
    close_log()
    os._exit(status)
