"""A path that a person named comes in; what is there goes out, or one line that says why nobody can tell.

`Path.exists`, `is_file`, `rglob` and their kind do one of two things with a path that cannot be looked at: they raise
an OSError that nobody expects of a question, or say that nothing is there. A look that failed is neither.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
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
