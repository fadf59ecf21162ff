#!/usr/bin/env python3
"""Writes the manual pages from the command line's own help: rulegen.1, rulegen-render.1 and so on.

    scripts/man_pages.py FOLDER

In comes the click command `rulegen`, out goes one page for each command, the same bytes for the same version. The date
is that of $SOURCE_DATE_EPOCH. Nothing about a command is written here: what a page lacks, `--help` lacks.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from rulegen import __version__
from rulegen.cli import main
from rulegen.commands.output import EXIT_DIFFERENT, EXIT_ERROR

# click's mark in front of a paragraph whose lines are kept as they are.
_KEPT = "\b"
_UNSAFE = {"\\": r"\e", "-": r"\-", "`": r"\(ga", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti"}


def write_pages(folder: Path) -> None:
    """All pages."""
    folder.mkdir(parents=True, exist_ok=True)
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", "0"))))
    for context in _contexts(click.Context(main, info_name="rulegen", **main.context_settings)):
        name = _page_name(context)
        (folder / f"{name}.1").write_text("\n".join(_page(context, name, date)) + "\n")


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """A command and those below it."""
    yield context
    for name, command in _commands(context):
        yield from _contexts(click.Context(command, info_name=name, parent=context))


def _commands(context: click.Context) -> list[tuple[str, click.Command]]:
    group = context.command
    if not isinstance(group, click.Group):
        return []
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [(name, command) for name, command in found if command is not None]


def _page_name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(context: click.Context, name: str, date: str) -> Iterator[str]:
    command = context.command
    yield f'.TH {_text(name.upper())} 1 {date} "rulegen {__version__}" "rulegen manual"'
    yield ".SH NAME"
    yield f"{_text(name)} \\- {_text(_summary(command))}"
    yield ".SH SYNOPSIS"
    yield f"\\fB{_text(context.command_path)}\\fR {_text(' '.join(command.collect_usage_pieces(context)))}"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(command.help or "")
    yield ".SH OPTIONS"
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            yield from (".TP", f"\\fB{_text(record[0])}\\fR", _line(record[1]))
    if commands := _commands(context):
        yield ".SH COMMANDS"
        for child, one in commands:
            yield from (".TP", f"\\fB{_text(f'{name}-{child}')}\\fR(1)", _line(_summary(one)))
    yield ".SH EXIT STATUS"
    yield "0 on success,"
    yield f"{EXIT_DIFFERENT} when something differs or was found, where the description says so,"
    yield f"{EXIT_ERROR} for every error, each of which is one line on standard error."
    if context.parent is not None:
        yield ".SH SEE ALSO"
        yield f"\\fB{_text(_page_name(context.parent))}\\fR(1)"


def _summary(command: click.Command) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        kept, lines = paragraph.lstrip().startswith(_KEPT), paragraph.split("\n")
        if not kept:
            yield from (_line(line.strip()) for line in lines)
            continue
        yield ".nf"
        yield from (_line(line.rstrip()) for line in lines if line.strip() not in {"", _KEPT})
        yield ".fi"


def _line(text: str) -> str:
    """A line of text that begins with no request of roff's."""
    return f"\\&{_text(text)}" if text.startswith((".", "'")) else _text(text)


def _text(text: str) -> str:
    return "".join(_UNSAFE.get(char, char) for char in text)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
