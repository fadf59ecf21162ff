"""nginx's main file comes in; who its workers are goes out: they read certificates when somebody asks for a name.

Read as nginx reads it, for one directive, and nothing is ever written there.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

_LARGEST = 4 << 20
_MAX_FILES = 1000
_MAX_DEPTH = 10
# What is built into Debian's nginx.
_DEFAULT_USER = "nobody"
_TOKEN = re.compile(
    r"""\s+ | (?P<comment>\#[^\n]*) | (?P<mark>[;{}]) | "(?P<double>(?:\\.|[^"\\])*)" | '(?P<single>(?:\\.|[^'\\])*)'
    | (?P<word>(?:\\.|\$\{|[^\s;{}\\])+) | . """,
    re.VERBOSE | re.DOTALL,
)


class Worker(NamedTuple):
    """Who nginx's workers are. `groups`: all of them."""

    name: str
    uid: int
    groups: frozenset[int]

    def may_enter(self, folder: Path) -> bool:
        """Whether it reaches what is in a folder; of one that is not there, nothing is known."""
        with suppress(OSError):
            found = folder.stat()
            if found.st_uid == self.uid:
                return bool(found.st_mode & 0o100)
            return bool(found.st_mode & (0o010 if found.st_gid in self.groups else 0o001)) or self.uid == 0
        return True


def worker_of(main_file: str) -> Worker:
    """By the directive `user`; nginx that is not root's has the same as we. Unknown names are left to nginx: root."""
    if os.geteuid():
        name = str(os.geteuid())
        return Worker(name, os.geteuid(), frozenset(os.getgroups()))
    name = next(_users(Path(main_file), Path(main_file).parent, 0), _DEFAULT_USER)
    try:
        found = pwd.getpwnam(name)
        return Worker(name, found.pw_uid, frozenset(os.getgrouplist(name, found.pw_gid)))
    except (KeyError, ValueError):
        return Worker("root", 0, frozenset())


def _users(file: Path, prefix: Path, depth: int) -> Iterator[str]:
    for name, *words in _directives(_content(file)):
        if name == "user" and words:
            yield words[0]
        elif name == "include" and words and depth < _MAX_DEPTH:
            for found in islice(_matching(prefix, words[0]), _MAX_FILES):
                yield from _users(found, prefix, depth + 1)


def _matching(prefix: Path, pattern: str) -> list[Path]:
    whole = prefix / pattern
    with suppress(OSError, ValueError, NotImplementedError):
        return sorted(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor))))
    return []


def _content(file: Path) -> str:
    with suppress(OSError):
        if file.is_file():
            with file.open("rb") as opened:
                return opened.read(_LARGEST).decode("utf-8", "replace")
    return ""


def _directives(text: str) -> Iterator[list[str]]:
    """Those outside of all blocks, as words."""
    depth = 0
    words: list[str] = []
    for token in _TOKEN.finditer(text):
        mark = token["mark"]
        if mark:
            if mark == ";" and not depth and words:
                yield words
            depth += {"{": 1, "}": -1}.get(mark, 0)
            words = []
        elif not depth:
            words += [token[name] for name in ("double", "single", "word") if token[name] is not None]
