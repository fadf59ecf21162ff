"""Bytes and a path come in; a file that only its owner reads is there afterwards, whole, or as it was before."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from rulegen.errors import InputError, printable


def write_private(path: str, data: bytes) -> None:
    """Writes the whole file or none, for its owner alone. Raises InputError."""
    if path == "-":  # which elsewhere is standard output, and no file that anybody would look for
        raise InputError("-: expected the name of a plain file; one that is called so is ./-")
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            raise InputError(f"{printable(path)}: expected the name of a plain file")
        descriptor, beside = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            Path(beside).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(beside).unlink()
            raise
    except OSError as error:
        raise InputError(f"{printable(path)}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{printable(path)}: not a path") from error
