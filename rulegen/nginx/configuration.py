"""nginx's configuration as entries: sections of one file, and certificates in files of their own. Text ⇄ entries; pure.

A section is what one host needs, and stands in several places of the file: nginx finds a host by maps, and its paths as
locations of a server that many hosts share. What is common to all says where these places are. The file marks whose
each piece is, so that what is live is read without a parser of nginx's language:

    map $host $rulegen_site {
        # rulegen: place hosts
        "shop.example.org" "gCkPvB8mQ9s"; # shop.example.org
        # rulegen: end of place
    }
    server {
        # rulegen: place plain
    # rulegen: begin shop.example.org
        location = "/gCkPvB8mQ9s/cart" { ... }
    # rulegen: end
        # rulegen: end of place
    }

As an entry, a section is its pieces, each below the name of its place. What has the same text means the same; what
somebody else wrote differs.
"""

from __future__ import annotations

import io
import re
from base64 import urlsafe_b64encode
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple, TypeAlias

from rulegen.rendered import END

COMMON = "common"
SERVER = "server"
CERTIFICATE = "certificate"
# What nginx serves now, by its version: an entry of the driver's own.
IN_USE = "in use"

HEADER = "# Written by rulegen, which undoes what others change here.\n"
_BEGIN = "# rulegen: begin "
_END_SECTION = "# rulegen: end\n"
_PLACE = "# rulegen: place "
_END_PLACE = "# rulegen: end of place"
# In front of each piece of a section as an entry.
_IN = "# in "
_WHOSE = " # "
_INDENT = "    "
# In place of which the file has the version, which depends on all of it.
VERSION = "@version@"
_VERSION_LENGTH = 32
_SITE_NAME_LENGTH = 11
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Pem:
    """A certificate with its chain and its private key; the key is in no word that it says of itself."""

    __slots__ = ("content", "digest")

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.digest = sha256(content).hexdigest()[:_VERSION_LENGTH]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pem) and other.content == self.content

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        """Its digest alone."""
        return f"Pem({self.digest})"


class Key(NamedTuple):
    """An entry. `name`: of a server its host (`_` for all others), of a certificate its digest."""

    kind: str
    name: str


Value: TypeAlias = str | Pem
Entries: TypeAlias = dict[Key, Value]


@lru_cache(maxsize=1 << 17)
def site_name(host: str) -> str:
    """Where the locations of a host begin: eleven characters, 66 bits that nobody finds a second host for.

    nginx keeps the length of a location in one byte, too few for a host and a path.
    """
    return urlsafe_b64encode(sha256(host.encode()).digest())[:_SITE_NAME_LENGTH].decode()


def lines_of(text: str) -> list[str]:
    """The lines of a configuration as nginx counts them, with their ends; Unicode has more ends, which are text."""
    return io.StringIO(text, newline="\n").readlines()


def place(name: str) -> str:
    """Marks where the pieces of sections go, for what is common."""
    return f"{_PLACE}{name}\n{_INDENT}{_END_PLACE}"


def section(pieces: Iterable[tuple[str, str]]) -> str:
    """An entry of its pieces, each with its place, in the order of the file; a piece ends with its line."""
    return "".join(f"{_IN}{name}\n{text}" for name, text in pieces if text)


class Document:
    """The file's text, kept beside its entries. A section that changes costs its own pieces; the text is joined anew.

    Sections are in the order in which nginx wants locations: else it sorts them, in a time that is quadratic.
    """

    def __init__(self, entries: Mapping[Key, Value]) -> None:
        self._common = ""
        self._places: dict[str, _Place] = {}
        self._places_of: dict[str, tuple[str, ...]] = {}
        self.change(entries)

    def change(self, entries: Mapping[Key, Value | None]) -> None:
        """Takes what is otherwise; None: gone."""
        for key in sorted((key for key in entries if key.kind in {COMMON, SERVER}), key=_order):
            text = _text(entries[key] or "")
            if key.kind == COMMON:
                self._common = text
            else:
                self._set(key, list(_pieces(text)))

    def text(self) -> str:
        """The whole file. Nothing without entries."""
        written = [HEADER]
        for line in lines_of(self._common):
            written.append(line)
            if line.lstrip().startswith(_PLACE):
                place_ = self._places.get(line.strip().removeprefix(_PLACE))
                written += place_.texts if place_ is not None else ()
        written.append(END)
        text = "".join(written)
        return text.replace(VERSION, sha256(text.encode()).hexdigest()[:_VERSION_LENGTH], 1)

    def _set(self, key: Key, pieces: list[tuple[str, str]]) -> None:
        order = _order(key)
        for name in self._places_of.pop(key.name, ()):
            self._places[name].remove(order)
        if pieces:
            self._places_of[key.name] = tuple(name for name, _ in pieces)
            for name, text in pieces:
                self._places.setdefault(name, _Place()).add(order, _marked(key.name, text))


class _Place:
    """The pieces of one place, in order."""

    def __init__(self) -> None:
        self._orders: list[tuple[str, str]] = []
        self.texts: list[str] = []

    def add(self, order: tuple[str, str], text: str) -> None:
        where = bisect_right(self._orders, order)
        self._orders.insert(where, order)
        self.texts.insert(where, text)

    def remove(self, order: tuple[str, str]) -> None:
        where = bisect_left(self._orders, order)
        del self._orders[where], self.texts[where]


def _order(key: Key) -> tuple[str, str]:
    return site_name(key.name), key.name


def parse(lines: Iterable[str], version: str = "") -> Entries:
    """The sections of a file. `version`: what its servers say that it is, as `version_in` finds it."""
    reading = _Reading()
    for line in lines:
        reading.add(line)
    common, pieces = reading.end()
    found: Entries = {Key(SERVER, host): section(texts) for host, texts in pieces.items()}
    text = "".join(common)
    if text:
        found[Key(COMMON, "")] = text.replace(version, VERSION, 1) if version else text
    return found


class _Reading:
    """A file being read. What nothing marks as a section's is common."""

    def __init__(self) -> None:
        self._common: list[str] = []
        self._pieces: dict[str, list[tuple[str, str]]] = {}
        self._place = ""
        # Of a block that has begun and not ended.
        self._host = ""
        self._block: list[str] | None = None

    def add(self, line: str) -> None:
        """The next line."""
        if self._block is not None:
            if line == _END_SECTION:
                self._note(self._host, "".join(self._block))
                self._block = None
            else:
                self._block.append(line)
        elif self._place and line.startswith(_BEGIN):
            self._host, self._block = line.removeprefix(_BEGIN).removesuffix("\n"), []
        elif self._place and _END_PLACE not in line and _WHOSE in line:
            text, _, host = line.rpartition(_WHOSE)
            self._note(host.removesuffix("\n"), f"{text}\n")
        else:
            if line.lstrip().startswith((_PLACE, _END_PLACE)):
                self._place = line.strip().removeprefix(_PLACE) if _PLACE in line else ""
            if line not in (HEADER, END):
                self._common.append(line)

    def end(self) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
        """What is common, and the pieces by host with their places."""
        return self._common + (self._block or []), self._pieces

    def _note(self, host: str, text: str) -> None:
        self._pieces.setdefault(host, []).append((self._place, text))


def _marked(host: str, text: str) -> str:
    """A piece as it stands in the file; its place says whether it is one line."""
    if text.find("\n") == len(text) - 1:
        return f"{text[:-1]}{_WHOSE}{host}\n"
    return f"{_BEGIN}{host}\n{text}{_END_SECTION}"


def _pieces(entry: str) -> Iterator[tuple[str, str]]:
    """The pieces of an entry with their places."""
    for piece in f"\n{entry}".split(f"\n{_IN}")[1:]:
        name, _, text = piece.partition("\n")
        yield name, text if text.endswith("\n") else f"{text}\n"


def version_in(content: str) -> str:
    """The version that a file has nginx say; "" for none."""
    head = content.partition('return 200 "')[2]
    said = head[:_VERSION_LENGTH]
    return said if len(said) == _VERSION_LENGTH and all(char in "0123456789abcdef" for char in said) else ""


def quoted(text: str) -> str:
    r"""A text as one word of nginx's language, in which nothing means anything: in quotes, with `\` before `\` and `"`.

    For names of locations and servers, in which a `$` is a `$`. Raises ValueError for a control character.
    """
    if _CONTROL.search(text):
        raise ValueError("a control character has no place in a configuration")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(value: Value) -> str:
    assert isinstance(value, str)  # noqa: S101 - only certificates are anything else
    return value
