"""A path that a person named comes in; what is there goes out, or one line that says why nobody can tell.

`Path.exists`, `is_file`, `rglob` and their kind do one of two things with a path that cannot be looked at: they raise
an OSError that nobody expects of a question, or say that nothing is there. A look that failed is neither.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from rulegen.errors import HostError, InputError, printable


def mode_of(path: str | Path) -> int | None:
    """`st_mode` of what is there, behind all links; None when nothing is. Raises InputError."""
    try:
        return os.stat(path).st_mode  # noqa: PTH116 - a name as the person wrote it
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise refusal(path, error) from error


def is_there(path: str | Path) -> bool:
    """Whether there is anything. Raises InputError."""
    return mode_of(path) is not None


def is_folder(path: str | Path) -> bool:
    """Raises InputError for what cannot be looked at."""
    mode = mode_of(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_plain_file(path: str | Path) -> bool:
    """Raises InputError for what cannot be looked at."""
    mode = mode_of(path)
    return mode is not None and stat.S_ISREG(mode)


def may_be_there(path: str | Path) -> bool:
    """False only where the kernel says that there is nothing; for places of its own, which it may hide from us."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def real_path(path: str | Path) -> str:
    """Without links, as far as there is anything. Raises InputError, as when the working directory is gone."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError) as error:
        raise refusal(path, error) from error


def read_plain(path: str | Path) -> bytes:
    """All of a plain file. Raises InputError, for a pipe as well: nobody may ever write to it."""
    check_plain(path)
    return _read(path, os.O_NONBLOCK)


def check_plain(path: str | Path) -> None:
    """Raises InputError for what is there and is no plain file."""
    mode = mode_of(path)
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"{printable(str(path))}: expected a plain file")


def read_named(path: str | Path) -> bytes:
    """All of what a person named: a plain file, or a pipe, which is waited for. Raises InputError.

    Devices are refused: some have no end.
    """
    mode = mode_of(path)
    if mode is not None and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        raise InputError(f"{printable(str(path))}: a device, not a file")
    return _read(path, 0)


def as_text(content: bytes, errors: str = "strict") -> str:
    """UTF-8, with lines that end in a newline whatever ended them. `errors`: as of `bytes.decode`, which may raise."""
    return StringIO(content.decode(errors=errors), newline=None).read()


def _read(path: str | Path, flags: int) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags), "rb") as file:  # noqa: PTH123
            return file.read()
    except (OSError, ValueError) as error:
        raise refusal(path, error) from error


def walk(folder: str | Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder from there on, and its files, sorted; links to folders are not followed.

    Raises InputError for a folder that cannot be read: nobody knows what is in it. One that goes meanwhile is gone.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise refusal(error.filename, error) from error

    for inside, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        yield Path(inside), sorted(files)


def refusal(path: str | Path, error: OSError | ValueError) -> InputError:
    """What cannot be done with a path, as one line."""
    reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else "not a path"
    return InputError(f"{printable(str(path))}: {reason}")


def status_in_proc(path: str) -> os.stat_result:
    """Of a file in /proc that every process has. Raises HostError where /proc is not mounted, or hides it."""
    try:
        return os.stat(path)  # noqa: PTH116 - a Path resolves the link
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; rulegen needs /proc") from error
