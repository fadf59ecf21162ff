"""What a person sees: text without control characters of others, errors as lines, documents as JSON.

In come strings, some of them from manifests, out go bytes on standard output and standard error. Never decides an exit
status other than that of an error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click
from click.globals import resolve_color_default

from rulegen.errors import lines, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from rulegen.reconcile.driver import ShownChange
    from rulegen.toned import TextLine


# As `kubectl diff`: 1 says that something differs, so every error is 2.
EXIT_DIFFERENT = 1
EXIT_ERROR = 2

# Of what comes, what changes and what goes.
COLOURS = {"+": "green", "~": "yellow", "-": "red"}


def say(message: str) -> None:
    """One line on standard error, whatever is in the message."""
    click.echo(f"rulegen: {one_line(message)}", err=True)


def say_warning(warning: str) -> None:
    """The same for what is no reason to stop."""
    say(f"warning: {warning}")


def echo(text: str, **style: Any) -> None:
    """Prints text of several lines perhaps, in which others' names and comments may be: no terminal obeys them."""
    click.secho("\n".join(one_line(line, None) for line in text.split("\n")), **style)


def print_toned(told: Iterable[TextLine]) -> None:
    """Lines for people, in the colours that say what they are."""
    from rulegen.toned import Tone

    styles: Mapping[Tone, dict[str, Any]] = {
        Tone.TITLE: {"bold": True},
        Tone.HEADING: {"fg": "cyan"},
        Tone.GOOD: {"fg": "green"},
        Tone.BAD: {"fg": "red"},
    }
    for line in told:
        echo(line.text, **styles.get(line.tone, {}))


def fail(message: str) -> NoReturn:
    """Ends the program with a line for each line of the message, where they can be written; the status says it too."""
    try:
        for line in lines(message.strip()):
            say(line)
    except OSError:
        discard(sys.stderr)
    sys.exit(EXIT_ERROR)


def discard(stream: TextIO) -> None:
    """What could not be written must not be tried again when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_changes(changes: Iterable[ShownChange]) -> None:
    """A line for each, in the colour of its sign."""
    for change in changes:
        echo(change.text, fg=COLOURS[change.sign])


def print_document(document: object) -> None:
    """As JSON, from anything that msgspec encodes."""
    from msgspec.json import format as with_lines

    from rulegen.commands.documents import encoded

    click.echo(_harmless(with_lines(encoded(document), indent=2)))


def print_line(document: object) -> None:
    """The same on one line, at once: one of several documents that follow each other."""
    from rulegen.commands.documents import encoded

    click.echo(_harmless(encoded(document)))
    sys.stdout.flush()


def _harmless(document: bytes) -> str:
    """Marks that change the direction of writing are legal in JSON; a terminal would obey them."""
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in document.decode())


def print_removed(places: Iterable[str]) -> None:
    """A line for each place in the kernel."""
    for place in places:
        echo(f"removed {place}")


def colour() -> bool | None:
    """What the options say about colours; None: as it fits. Only the main thread knows."""
    return resolve_color_default()


def terminal(wanted: bool | None) -> Console:
    """Standard error for rich. `wanted`: see `colour`."""
    from rich.console import Console

    return Console(stderr=True, no_color=None if wanted is None else not wanted)


def page(wanted: bool | None) -> Console:
    """Standard output for rich. `wanted`: see `colour`."""
    from rich.console import Console

    plain = None if wanted is None else not wanted
    return Console(highlight=False, force_terminal=True if wanted else None, no_color=plain)
