"""nginx's configuration as entries: sections of one file, and certificates in files of their own. Text ⇄ entries; pure.

The file says of each section where it begins and ends, so that what is live is read without a parser of nginx's
language:

    # rulegen: begin server shop.example.org
    server { ... }
    # rulegen: end

All else in it is the section `common`. What has the same text means the same; what somebody else wrote differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import NamedTuple, TypeAlias

from rulegen.rendered import END

COMMON = "common"
SERVER = "server"
CERTIFICATE = "certificate"
# What nginx serves now, by its version: an entry of the driver's own.
IN_USE = "in use"

HEADER = "# Written by rulegen, which undoes what others change here.\n"
_BEGIN = "# rulegen: begin server "
_END_SECTION = "# rulegen: end\n"
# In place of which the file has the version, which depends on all of it.
VERSION = "@version@"
_VERSION_LENGTH = 32


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


def file_text(entries: Mapping[Key, Value]) -> str:
    """The whole file: what is common, then the servers by name. Nothing without entries."""
    pieces = [HEADER, _text(entries.get(Key(COMMON, ""), ""))]
    for key in sorted(key for key in entries if key.kind == SERVER):
        pieces += (f"{_BEGIN}{key.name}\n", _text(entries[key]), _END_SECTION)
    pieces.append(END)
    text = "".join(pieces)
    return text.replace(VERSION, version_of(entries), 1)


def version_of(entries: Mapping[Key, Value]) -> str:
    """What names all sections together."""
    state = sha256()
    for key in sorted(key for key in entries if key.kind in {COMMON, SERVER}):
        state.update(f"{key.kind} {key.name}\n{entries[key]}".encode())
    return state.hexdigest()[:_VERSION_LENGTH]


def parse(lines: Iterable[str], version: str = "") -> Entries:
    """The sections of a file. `version`: what its servers say that it is, as `version_in` finds it."""
    common: list[str] = []
    found: Entries = {}
    section, host = common, ""
    for line in lines:
        if section is common and line.startswith(_BEGIN):
            section, host = [], line.removeprefix(_BEGIN).removesuffix("\n")
        elif section is not common and line == _END_SECTION:
            found[Key(SERVER, host)] = "".join(section)
            section = common
        elif line not in (HEADER, END) or section is not common:
            section.append(line)
    if section is not common:
        common += section
    text = "".join(common)
    if text:
        found[Key(COMMON, "")] = text.replace(version, VERSION, 1) if version else text
    return found


def version_in(content: str) -> str:
    """The version that a file has nginx say; "" for none."""
    head = content.partition('return 200 "')[2]
    said = head[:_VERSION_LENGTH]
    return said if len(said) == _VERSION_LENGTH and all(char in "0123456789abcdef" for char in said) else ""


def quoted(text: str) -> str:
    r"""A text as one word of nginx's language, in which nothing means anything: in quotes, with `\` before `\` and `"`.

    For names of locations and servers, in which a `$` is a `$`. Raises ValueError for a control character.
    """
    if any(char < " " or char == "\x7f" for char in text):
        raise ValueError("a control character has no place in a configuration")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def certificates_in(entries: Mapping[Key, Value]) -> Iterator[Pem]:
    """All of them."""
    return (value for value in entries.values() if isinstance(value, Pem))


def _text(value: Value) -> str:
    assert isinstance(value, str)  # noqa: S101 - only certificates are anything else
    return value
