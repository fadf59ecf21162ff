"""What is so for every command: expected errors are lines and exit status 2, never a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from rulegen import gc_pause
from rulegen.commands.output import fail, print_removed
from rulegen.errors import RulegenError, UnseenError


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """Every expected error is one line (or one for each fault) and exit status 2."""
    try:
        yield
    except UnseenError as error:
        print_removed(error.removed)
        fail(f"rules may be left: {error}")
    except RulegenError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; a transaction that was not committed changed nothing")
    except MemoryError:
        fail("out of memory; nothing was changed")
    except OSError as error:
        if error.errno == errno.EPIPE:  # click's: a reader that has seen enough
            raise
        # What could not be written must not be tried again when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail(f"cannot write the output: {error.strerror}")


class Command(click.Command):
    """A command whose expected errors are lines, not tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        with errors_as_lines(), gc_pause.paused():
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
    group_class = type  # a group in this group is made the same way
