"""Paths come in; the documents of their files go out, not yet looked into.

Documents do not depend on each other: one that cannot be read goes out as `Unreadable` in its place. A path that cannot
be used at all is an InputError. Nothing is waited for that nobody named: in a folder, only plain files are read.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from rulegen.bundle import OBJECTS, is_compressed, read_member
from rulegen.errors import InputError, printable, shown
from rulegen.kube.document_text import Document, Unreadable, parse_text
from rulegen.paths import real_path

STDIN = "-"

_SUFFIXES = (".yaml", ".yml", ".json")
# How often a file is read that changes meanwhile, and how long to wait in between.
_ATTEMPTS = 5
_PAUSE = 0.02
# A change may leave no trace while the clock of the file system has not gone on: that takes up to 10 ms.
_TICK = 0.015


def read_documents(paths: Sequence[str], stdin: BinaryIO | None) -> Iterator[Document | Unreadable]:
    """The documents of all paths, in this order; a folder's files sorted by path; no file twice.

    Raises:
        InputError: a path is missing or unreadable, or holds no document.
    """
    seen: set[str] = set()
    for path in paths:
        empty = True
        is_folder, files = _files(path)
        for file in files:
            identity = file if file == STDIN else real_path(file)
            empty = empty and identity not in seen
            if identity in seen:
                continue
            seen.add(identity)
            for document in _documents(file, stdin, is_named=not is_folder):
                empty = False
                yield document
        if empty:
            raise InputError(f"{_source(path)}: holds no object")


def read_file(path: str) -> Iterator[Document | Unreadable]:
    """The documents of one plain file; none of one that is empty. Raises InputError, for a folder, too."""
    if _is_folder(path):
        raise InputError(f"{_source(path)}: expected a file, got a folder")
    return _documents(path, None, is_named=False)


def _files(path: str) -> tuple[bool, list[str]]:
    """Whether the path is a folder, and the files."""
    if not path or "\0" in path:
        raise InputError(f"{shown(path)}: not a path")
    if path == STDIN or not _is_folder(path):
        return False, [path]
    files = sorted(_manifests_below(Path(path), set()))
    if not files:
        raise InputError(f"{_source(path)}: holds no {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file")
    return True, files


def _is_folder(path: str) -> bool:
    """False for what is not there. Raises InputError for what cannot be looked at."""
    try:
        return Path(path).is_dir()
    except OSError as error:
        raise _unusable(path, error) from error


def _manifests_below(folder: Path, seen: set[str]) -> Iterator[str]:
    """The visible manifests of a folder. In a mounted ConfigMap these are links into the hidden `..data`.

    Each folder counts once, by whatever links it is reached.
    """
    real = real_path(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise _unusable(str(folder), error) from error
    for entry in entries:
        if _is_folder(str(entry)):
            yield from _manifests_below(entry, seen)
        elif entry.suffix in _SUFFIXES:
            yield str(entry)


def _documents(file: str, stdin: BinaryIO | None, *, is_named: bool) -> Iterator[Document | Unreadable]:
    """`is_named`: somebody means this file, whatever it is; in a folder, only plain files are read."""
    source = _source(file)
    try:
        if file == STDIN:
            if stdin is None:
                raise InputError("standard input: not open")
            read = stdin.read()
            if is_compressed(read):
                raise InputError("standard input: a support bundle has to be a file, which is read more than once")
            text: bytes | None = read
        else:
            mode = os.stat(file).st_mode  # noqa: PTH116 - a name as the person wrote it
            refused = _why_not_read(mode, file, is_named=is_named)
            if refused:
                yield Unreadable(source, refused)
                return
            text = _read_file(file) if stat.S_ISREG(mode) else Path(file).read_bytes()
    except OSError as error:
        raise _unusable(file, error) from error
    if text is None:
        yield Unreadable(source, "changes while it is read")
    elif is_named and is_compressed(text):
        yield from parse_text(source, read_member(source, text, OBJECTS), is_json=False)
    else:
        yield from parse_text(source, text, is_json=file.endswith(".json"))


def _why_not_read(mode: int, file: str, *, is_named: bool) -> str:
    """What a file is that must not be read; "" for one that may be."""
    if stat.S_ISBLK(mode):
        return "a block device, not a file"
    if stat.S_ISCHR(mode) and not (is_named and _is_terminal(file)):
        return "a device, not a file"
    if is_named or stat.S_ISREG(mode):
        return ""
    return "a named pipe, not a file" if stat.S_ISFIFO(mode) else "not a file"


def _is_terminal(file: str) -> bool:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)


def _read_file(file: str) -> bytes | None:
    """What a plain file says at one moment; None when it does not stop changing."""
    # Not to wait, should it have become a named pipe.
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE)
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:  # noqa: PTH123
            before = _state(opened)
            text = opened.read()
            if _state(opened) == before and abs(time.time() - before[1] / 1e9) > _TICK:
                return text
    return None


def _state(opened: BinaryIO) -> tuple[int, int]:
    found = os.fstat(opened.fileno())
    return found.st_size, found.st_mtime_ns


def _unusable(path: str, error: OSError) -> InputError:
    return InputError(f"{_source(path)}: {error.strerror or error}")


def _source(path: str) -> str:
    return "standard input" if path == STDIN else printable(path)
