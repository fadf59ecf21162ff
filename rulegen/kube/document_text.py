"""The bytes of a file come in; its documents go out, not yet looked into.

What a file is, its content says, as for kubectl: JSON values one after the other, or YAML; UTF-8, or UTF-16 or 32 with
a byte order mark. It is taken apart at the lines that begin with `---`, which YAML allows nowhere else, and each piece
is read alone: what is wrong with one (a syntax error, text that is not UTF-8) is `Unreadable` in its place, and costs
no other. A JSON document stays text, for msgspec to decode straight into Structs; a YAML document is plain values.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Raw

if TYPE_CHECKING:
    from rulegen.kube.yaml_documents import Note

_CHUNK = 1 << 20
_BYTE_ORDER_MARK = codecs.BOM_UTF8
# Those of UTF-32 first: the one of UTF-16-LE begins like UTF-32-LE's.
_MARKED_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# YAML that looks like JSON is written by hand; larger broken JSON is not parsed again as what it is not.
_MAX_LOOKALIKE = 1 << 20

_SEPARATOR = re.compile(rb"---(?:(?=[ \t\r\n])|\Z)")
_NOTHING = re.compile(rb"(?:[ \t\r\n]++|#[^\n]*+)*+\Z")
_BEFORE_JSON = re.compile(rb"(?:---)?[ \t\r\n]*")
_HEADER = re.compile(rb"^(apiVersion|kind)[ \t]*:[ \t]+([\"']?)([^\s\"'#]+)\2[ \t]*(?:#.*)?\r?$", re.MULTILINE)
_JSON_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[{}\[\]]', re.DOTALL)
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class Document(NamedTuple):
    """A document: `source` is the file's name as safe text, `number` counts from 1 in it, `value` may be anything.

    `faults`, `repeated`, `lost_kinds`: as in `yaml_documents.YamlDocument`, with lines of the file.
    """

    source: str
    number: int
    value: object
    faults: tuple[Note, ...] = ()
    repeated: tuple[Note, ...] = ()
    lost_kinds: tuple[object, ...] = ()


class Unreadable(NamedTuple):
    """A document, or a whole file, that cannot be read, and why.

    `source` is as in `cluster.yaml:3:5` when the place is known. `header`: the apiVersion and kind that the document
    says it has. `is_last`: the file may have been cut off there.
    """

    source: str
    reason: str
    header: tuple[str, str] | None = None
    is_last: bool = True


class _Piece(NamedTuple):
    """What is between two `---`, the first one included. `line`: how many lines of the file are before it."""

    source: str
    line: int
    text: bytes
    tags: bytes
    is_last: bool

    def place(self, line: int, column: int) -> str:
        """Of a line and column that count from 1 in the piece; 0: not known."""
        return f"{self.source}:{self.line + line}:{column}" if line else self.source

    def place_at(self, offset: int) -> str:
        line_start = self.text.rfind(b"\n", 0, offset) + 1
        line = self.text.count(b"\n", 0, offset) + 1
        return self.place(line, len(self.text[line_start:offset].decode(errors="replace")) + 1)

    def unreadable(self, place: str, reason: str) -> Unreadable:
        return Unreadable(place, reason, _header(self.text), self.is_last)


def _header(text: bytes) -> tuple[str, str] | None:
    """What a document that cannot be parsed says about itself, if it says that in so many words and once."""
    found = [(match[1], match[3].decode(errors="replace")) for match in _HEADER.finditer(text)]
    by_name = dict(found)
    return (by_name[b"apiVersion"], by_name[b"kind"]) if len(found) == len(by_name) == 2 else None


def parse_text(source: str, text: bytes, *, is_json: bool) -> Iterator[Document | Unreadable]:
    """The documents of a file. `is_json`: what its name says, which decides about messages only."""
    try:
        text = _as_utf8(text)
    except UnicodeDecodeError as error:
        yield Unreadable(source, f"not {error.encoding}, which its byte order mark says: {error.reason}")
        return
    is_sound = _text_fault(text) is None
    number = 0
    plain: dict[str, Any] = {}
    for piece in _pieces(source, text):
        fault = None if is_sound else _text_fault(piece.text)
        refused = piece.unreadable(piece.place_at(fault[0]), fault[1]) if fault else None
        for document in [refused] if refused else _parse_piece(piece, number, plain, is_json=is_json):
            number += 1
            if isinstance(document, Unreadable) or document.value is not None:
                yield document


def _as_utf8(text: bytes) -> bytes:
    """Without byte order marks: files that were joined have one at each document. Raises UnicodeDecodeError."""
    for mark, encoding in _MARKED_ENCODINGS:
        if text.startswith(mark):
            text = text.decode(encoding).encode(errors="replace")
            break
    if not text.isascii() and _BYTE_ORDER_MARK in text:
        text = text.removeprefix(_BYTE_ORDER_MARK).replace(b"\n" + _BYTE_ORDER_MARK, b"\n")
    return text


def _pieces(source: str, text: bytes) -> Iterator[_Piece]:
    # Nearly all large files have none, and that is known much sooner.
    separators = _SEPARATOR.finditer(text) if b"---" in text else ()
    starts = [0] + [match.start() for match in separators if match.start() and text[match.start() - 1] in b"\r\n"]
    line, tags = 0, b""
    for index, start in enumerate(starts):
        is_last = index + 1 == len(starts)
        whole = text[start:] if is_last else text[start : starts[index + 1]]
        body, directives = (whole, []) if is_last or b"%" not in whole else _without_directives(whole)
        if start or not _NOTHING.match(body):
            yield _Piece(source, line, body, tags, is_last)
        # Those with a version are nobody's business: kubectl reads them all alike.
        tags = b"".join(directive for directive in directives if directive.startswith(b"%TAG"))
        line += 0 if is_last else whole.count(b"\n")


def _without_directives(text: bytes) -> tuple[bytes, list[bytes]]:
    """The text without the directives that it ends with, which belong to the next piece, and they."""
    lines = text.splitlines(keepends=True)
    end = len(lines)
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith(b"%"):
            end = index
        elif lines[index].strip() and not lines[index].startswith(b"#"):
            break
    return b"".join(lines[:end]), [line for line in lines[end:] if line.startswith(b"%")]


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


def _parse_piece(
    piece: _Piece, number: int, plain: dict[str, Any], *, is_json: bool
) -> Iterator[Document | Unreadable]:
    """JSON, or what is left of it as YAML. `number`: how many documents of the file are before it."""
    start = _BEFORE_JSON.match(piece.text).end()  # type: ignore[union-attr]
    if not (is_json or piece.text[start : start + 1] in (b"{", b"[")):
        yield from _parse_yaml(piece, number, plain)
        return
    broken = yield from _parse_json(piece, start, number)
    if broken is None:
        return
    found: list[Document | Unreadable] = [piece.unreadable(broken.place, f"invalid JSON: {broken.reason}")]
    if len(broken.rest.text) <= _MAX_LOOKALIKE:
        as_yaml = list(_parse_yaml(broken.rest, broken.number, plain))
        if not any(isinstance(document, Unreadable) for document in as_yaml):
            found = as_yaml
    yield from found


# ---- JSON ----


class _Broken(NamedTuple):
    """Where a piece stops being JSON: what is left of it, how many documents are before that, the place, and why."""

    rest: _Piece
    number: int
    place: str
    reason: str


def _parse_json(piece: _Piece, start: int, number: int) -> Generator[Document | Unreadable, None, _Broken | None]:
    """JSON values from `start` on, one after the other, with or without space between them."""
    text, original = piece.text, piece.text
    while start < len(text):
        try:
            length, document = _first_json_value(piece, number + 1, memoryview(text)[start:])
        except msgspec.DecodeError as error:
            if text is original:
                text = _ESCAPE.sub(_without_half, original)
                if text != original:
                    continue
            return _broken(piece, start, number, error)
        if document is None:
            return None
        number += 1
        yield document
        start += length
        if text.startswith(_BYTE_ORDER_MARK, start):
            start += len(_BYTE_ORDER_MARK)
    return None


def _first_json_value(piece: _Piece, number: int, text: memoryview) -> tuple[int, Document | Unreadable | None]:
    """How many bytes it takes, and it, or None when there is only space. Raises DecodeError."""
    try:
        length = _first_json_length(text)
    except RecursionError:
        deep = Unreadable(piece.source, "invalid JSON: nested too deeply", None, piece.is_last)
        return _deep_json_length(text), deep
    return (length, Document(piece.source, number, Raw(text[:length]))) if length else (0, None)


def _broken(piece: _Piece, start: int, number: int, error: msgspec.DecodeError) -> _Broken:
    reason, offset = _json_reason(error)
    place = piece.source if offset is None else piece.place_at(start + offset)
    return _Broken(_rest(piece, start), number, place, reason)


def _rest(piece: _Piece, start: int) -> _Piece:
    # The column counts from here in what is left, but only where something else stands before it on the line.
    return piece._replace(line=piece.line + piece.text.count(b"\n", 0, start), text=piece.text[start:])


def _without_half(escape: re.Match[bytes]) -> bytes:
    """Half of a surrogate pair without the other is what Go reads it as: the replacement character."""
    return b"\\ufffd" if escape[1] else escape[0]


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


def _deep_json_length(text: memoryview) -> int:
    """The same of an object or array that is too deep for msgspec, sound or not."""
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in (b"{", b"["):
            depth += 1
        elif token[0] in (b"}", b"]"):
            depth -= 1
            if not depth:
                return token.end()
    return len(text)


def _json_reason(error: msgspec.DecodeError) -> tuple[str, int | None]:
    """Why msgspec refused a text, and the offset that it names."""
    matched = re.fullmatch(r"(?:JSON is malformed: )?(.*?)(?: \(byte (\d+)\))?", str(error))
    if not matched:
        return str(error), None
    return matched[1], int(matched[2]) if matched[2] else None


# ---- YAML ----


def _parse_yaml(piece: _Piece, number: int, plain: dict[str, Any]) -> Iterator[Document | Unreadable]:
    from rulegen.kube.yaml_documents import YamlError, parse_documents

    before = piece.tags.count(b"\n")

    def in_file(notes: tuple[Note, ...]) -> tuple[Note, ...]:
        return tuple(note._replace(line=note.line - before + piece.line) for note in notes)

    try:
        for nth, document in enumerate(parse_documents(piece.tags + piece.text, plain), start=number + 1):
            faults, repeated = in_file(document.faults), in_file(document.repeated)
            yield Document(piece.source, nth, document.value, faults, repeated, document.lost_kinds)
    except YamlError as error:
        line = max(error.line - before, 1) if error.line else 0
        yield piece.unreadable(piece.place(line, error.column), f"invalid YAML: {error}")
