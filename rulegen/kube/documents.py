"""Paths come in; the documents of their files go out, not yet looked into.

A JSON document stays text, for msgspec to decode straight into Structs; a YAML document is plain values. What cannot be
used of a file (a syntax error, text that is not UTF-8) goes out as `Unreadable` beside the documents before it; a path
that cannot be used at all is an InputError.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Raw

from rulegen.errors import InputError, printable, shown

STDIN = "-"

_SUFFIXES = (".yaml", ".yml", ".json")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHUNK = 1 << 20


class Document(NamedTuple):
    """A document: `source` is the file's name as safe text, `number` counts from 1 in it, `value` may be anything."""

    source: str
    number: int
    value: object


class Unreadable(NamedTuple):
    """Where a file stops being readable, and why. `source` is as in `cluster.yaml:3:5` when the place is known."""

    source: str
    reason: str


def read_documents(paths: Sequence[str], stdin: BinaryIO | None) -> Iterator[Document | Unreadable]:
    """The documents of all paths, in this order; a folder's files sorted by path; no file twice.

    Raises:
        InputError: a path is missing or unreadable, or holds no document.
    """
    seen: set[str] = set()
    for path in paths:
        empty = True
        for file in _files(path):
            identity = file if file == STDIN else os.path.realpath(file)
            empty = empty and identity not in seen
            if identity in seen:
                continue
            seen.add(identity)
            for document in _parse(file, _read(file, stdin)):
                empty = False
                yield document
        if empty:
            raise InputError(f"{_source(path)}: holds no object")


def _files(path: str) -> list[str]:
    if not path or "\0" in path:
        raise InputError(f"{shown(path)}: not a path")
    if path == STDIN or not Path(path).is_dir():
        return [path]
    files = sorted(_manifests_below(Path(path), set()))
    if not files:
        raise InputError(f"{_source(path)}: holds no {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file")
    return files


def _manifests_below(folder: Path, above: set[str]) -> Iterator[str]:
    """The visible manifests of a folder. In a mounted ConfigMap these are links into the hidden `..data`."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise _unusable(str(folder), error) from error
    for entry in entries:
        if entry.is_dir():
            yield from _manifests_below(entry, above | {real})
        elif entry.suffix in _SUFFIXES:
            yield str(entry)


def _read(file: str, stdin: BinaryIO | None) -> bytes:
    try:
        if file != STDIN:
            return Path(file).read_bytes()
        if stdin is None:
            raise InputError("standard input: not open")
        return stdin.read()
    except OSError as error:
        raise _unusable(file, error) from error


def _unusable(path: str, error: OSError) -> InputError:
    return InputError(f"{_source(path)}: {error.strerror or error}")


def _source(path: str) -> str:
    return "standard input" if path == STDIN else printable(path)


def _parse(file: str, text: bytes) -> Iterator[Document | Unreadable]:
    text = text.removeprefix(_BYTE_ORDER_MARK)
    source = _source(file)
    fault = _text_fault(text)
    if fault:
        offset, reason = fault
        yield Unreadable(_place(source, text, offset), reason)
    elif _is_json(file, text):
        yield from _parse_json(source, text)
    else:
        yield from _parse_yaml(source, text)


def _text_fault(text: bytes) -> tuple[int, str] | None:
    offset = text.find(b"\0")
    if offset >= 0:
        return offset, "a NUL byte"
    if text.isascii():
        return None
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(text)
    for start in range(0, len(text), _CHUNK):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(view[start : start + _CHUNK], final=start + _CHUNK >= len(text))
        except UnicodeDecodeError as error:
            return start - pending + error.start, f"not UTF-8 ({error.reason})"
    return None


def _is_json(file: str, text: bytes) -> bool:
    suffix = Path(file).suffix
    if suffix in _SUFFIXES:
        return suffix == ".json"
    return text.lstrip()[:1] in (b"{", b"[")


def _parse_json(source: str, text: bytes) -> Iterator[Document | Unreadable]:
    """JSON documents, one after the other, with or without space between them."""
    start, number = 0, 1
    while start < len(text):
        rest = memoryview(text)[start:]
        try:
            length = _first_json_length(rest)
        except msgspec.DecodeError as error:
            reason, offset = _json_reason(error)
            place = source if offset is None else _place(source, text, start + offset)
            yield Unreadable(place, f"invalid JSON: {reason}")
            return
        except RecursionError:
            yield Unreadable(source, "invalid JSON: nested too deeply")
            return
        if length == 0:
            return
        yield Document(source, number, Raw(rest[:length]))
        start, number = start + length, number + 1


def _first_json_length(text: memoryview) -> int:
    """How many bytes the first JSON value takes; 0 when there is only space."""
    try:
        msgspec.json.decode(text, type=Raw)
    except msgspec.DecodeError as error:
        trailing = re.search(r"trailing characters \(byte (\d+)\)", str(error))
        if trailing:
            # msgspec counts the byte that it did not expect.
            return int(trailing[1]) - 1
        if not bytes(text).strip():
            return 0
        raise
    return len(text)


def _json_reason(error: msgspec.DecodeError) -> tuple[str, int | None]:
    """Why msgspec refused a text, and the offset that it names."""
    matched = re.fullmatch(r"(?:JSON is malformed: )?(.*?)(?: \(byte (\d+)\))?", str(error))
    if not matched:
        return str(error), None
    return matched[1], int(matched[2]) if matched[2] else None


def _parse_yaml(source: str, text: bytes) -> Iterator[Document | Unreadable]:
    from rulegen.kube.yaml_documents import YamlError, parse_documents

    try:
        for number, value in enumerate(parse_documents(text), start=1):
            if value is not None:
                yield Document(source, number, value)
    except YamlError as error:
        place = f"{source}:{error.line}:{error.column}" if error.line else source
        yield Unreadable(place, f"invalid YAML: {error}")


def _place(source: str, text: bytes, offset: int) -> str:
    line_start = text.rfind(b"\n", 0, offset) + 1
    line = text.count(b"\n", 0, offset) + 1
    column = len(text[line_start:offset].decode(errors="replace")) + 1
    return f"{source}:{line}:{column}"
