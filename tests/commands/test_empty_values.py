"""A value that is given and empty, of each option and argument: an error, never as if it was not there."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from rulegen.cli import main
from tests.commands.running import rulegen


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = list(_commands(main))


def _takes_text(parameter: click.Parameter) -> bool:
    """Flags take nothing; choices and numbers say themselves what they expect."""
    return isinstance(parameter.type, click.types.StringParamType) and not getattr(parameter, "is_flag", False)


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_an_empty_value_is_an_error(path: tuple[str, ...], command: click.Command) -> None:
    """As with `--to "$ADDRESS"` and a variable that is not set: nothing is read, written or followed then."""
    context = click.Context(command)
    needed = [one for one in command.params if one.required and isinstance(one, click.Option)]
    words = [word for one in needed for word in (one.opts[0], "x")]
    for parameter in command.params:
        arguments = [
            one for one in command.params if isinstance(one, click.Argument) and (one.required or one is parameter)
        ]
        given = [*words, *("" if one is parameter else "x" for one in arguments)]
        name = parameter.make_metavar(context)
        if isinstance(parameter, click.Option):
            name = max(parameter.opts, key=len)
            given = [*given, name, ""]
        done = rulegen(*path, *given, status=None)
        if _takes_text(parameter):
            assert (done.exit_code, done.stderr) == (2, f'rulegen: {name}: expected a value, got ""\n')
        elif not getattr(parameter, "is_flag", False):
            assert done.exit_code == 2
            assert name in done.stderr


def test_some_values_are_text() -> None:
    """That the test above tries some."""
    assert sum(_takes_text(one) for _, command in COMMANDS for one in command.params) > 50
