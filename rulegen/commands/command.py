"""What is so for every command: expected errors are lines and exit status 2, never a traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

import click

from rulegen import gc_pause
from rulegen.commands.output import discard, fail, print_removed
from rulegen.errors import InputError, RulegenError, UnseenError, printable


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
        if error.filename is not None:  # an open file has none; this one could not be opened
            fail(f"{printable(os.fsdecode(error.filename))}: {error.strerror}")
        discard(sys.stdout)
        fail(f"cannot write the output: {error.strerror}")


def _use_colour(context: click.Context, _: click.Parameter, wanted: str | None) -> None:
    """Says to click whether output has colours; what is nearer to the command's end counts."""
    if wanted is not None:
        context.color = {"auto": None, "always": True, "never": False}[wanted]
    elif context.parent is None and os.environ.get("NO_COLOR"):
        context.color = False


def _colour_option() -> click.Option:
    return click.Option(
        ["--color"],
        type=click.Choice(["auto", "always", "never"]),
        expose_value=False,
        is_eager=True,
        callback=_use_colour,
        help="Colours in the output. [default: auto: on a terminal, unless $NO_COLOR is set]",
    )


def _check_given(parameter: click.Parameter, context: click.Context) -> None:
    """`--to "$ADDRESS"`, with a variable that is not set, must not do as if --to was not there."""
    value = context.params.get(parameter.name or "")
    if "" in (value if isinstance(value, tuple) else (value,)):
        name = max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.make_metavar(context)
        raise InputError(f'{name}: expected a value, got ""')


class _Standard(click.Command):
    """What commands and groups have in common: --color, and examples as the program was called."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As click's."""
        super().__init__(*arguments, **options)
        self.params.append(_colour_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's; a value that is given is not empty. Raises InputError."""
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            for parameter in self.params:
                _check_given(parameter, ctx)
        return rest

    def get_help(self, ctx: click.Context) -> str:
        """Examples begin as the program was called: `kubectl rulegen` for kubectl's plugin."""
        root = ctx.find_root()
        called = root.info_name or "rulegen"
        names = "|".join(root.command.list_commands(root)) if isinstance(root.command, click.Group) else ""
        return re.sub(rf"^( +)rulegen (?=(?:{names})\b)", rf"\g<1>{called} ", super().get_help(ctx), flags=re.MULTILINE)


class Command(_Standard):
    """A command whose expected errors are lines, not tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        with errors_as_lines(), gc_pause.paused():
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()


class Group(_Standard, click.Group):
    """A group of such commands."""

    command_class = Command
    group_class = type  # a group in this group is made the same way

    def main(self, *arguments: Any, **options: Any) -> Any:
        """As click's; what it prints itself, as help, may not be written either."""
        _open_missing_streams()
        if isinstance(sys.stdout, TextIOWrapper):
            # As kubectl, whatever the locale: JSON and YAML are UTF-8, and names may be in any script.
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        with errors_as_lines():
            return super().main(*arguments, **options)


def _open_missing_streams() -> None:
    """Streams that were closed before (`>&-`) lead nowhere; else the next file or socket would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open to the end
