"""What a shell offers for a word that is begun: names from the manifests on the line, or from the last snapshot.

In: the arguments so far. Out: names. Never says anything, whatever is wrong with files; never waits: what is not a
plain file is not read, and after a short time what was found is what there is.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import click
from click.shell_completion import CompletionItem

from rulegen.errors import RulegenError

if TYPE_CHECKING:
    from rulegen.kube.manifests import Manifests

# For all files together; names beyond are not offered.
_SECONDS = 1.0
_LONGEST = 64 << 20
_SUFFIXES = {".yaml", ".yml", ".json"}
_SERVICE, _NODE = "Service", "Node"


class Named(NamedTuple):
    """An object that can be named. `namespace`: "" for a node."""

    kind: str
    namespace: str
    name: str


def complete_services(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`default/web` of every Service."""
    names = {f"{one.namespace}/{one.name}" for one in _known(context) if one.kind == _SERVICE}
    return _items(names, incomplete)


def complete_namespaces(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The namespaces of Services."""
    return _items({one.namespace for one in _known(context) if one.kind == _SERVICE}, incomplete)


def complete_nodes(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of nodes."""
    return _items({one.name for one in _known(context) if one.kind == _NODE}, incomplete)


def complete_features(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The features that are off without --feature."""
    from rulegen.features import ALWAYS, REGISTRY

    return _items({name for name in REGISTRY if name not in ALWAYS}, incomplete)


def complete_files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Left to the shell."""
    return [CompletionItem(incomplete, type="file")]


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def _known(context: click.Context) -> Iterable[Named]:
    """What the files on the line hold; without any, what the last snapshot held."""
    files = tuple(context.params.get("files") or ())
    try:
        return set(_in_files(files)) if files else _remembered()
    except (RulegenError, OSError, ValueError, RuntimeError):
        return set()


# ---- from files ----


def _in_files(paths: Iterable[str]) -> Iterator[Named]:
    end = time.monotonic() + _SECONDS
    for path in paths:
        for file in _plain_files(Path(path), end):
            with file.open("rb") as opened:
                text = opened.read(_LONGEST).decode("utf-8", "replace")
            yield from _in_json(text) if text.lstrip()[:1] in {"{", "["} else names_in_yaml(text)


def _plain_files(path: Path, end: float) -> Iterator[Path]:
    """Until the clock says `end`. A pipe is read by the command itself, and could keep us waiting."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        yield path
    elif stat.S_ISDIR(mode):
        for inside, folders, names in os.walk(path):
            folders.sort()
            files = (Path(inside, name) for name in sorted(names))
            for file in files:
                if time.monotonic() > end:
                    return
                if file.suffix in _SUFFIXES and os.path.isfile(file):  # noqa: PTH113 - it raises nothing
                    yield file
            if time.monotonic() > end:
                return


def _in_json(text: str) -> Iterator[Named]:
    import msgspec

    found = msgspec.json.decode(text)
    items = found.get("items") if isinstance(found, dict) else None
    of_list = str(found.get("kind", "")).removesuffix("List") if isinstance(found, dict) else ""
    for item in items if isinstance(items, list) else [found]:
        if isinstance(item, dict) and isinstance(metadata := item.get("metadata"), dict):
            yield from _named(item.get("kind", of_list), metadata.get("namespace"), metadata.get("name"))


_KEY = re.compile(r"^(?P<indent> *(?:- +)*)(?P<key>[A-Za-z][\w.-]*):(?: +(?P<value>.*))?$|^---", re.MULTILINE)
_FLOW = re.compile(r"[{,] *(name|namespace): *[\"']?([^,}\"' ]+)")


def names_in_yaml(text: str) -> Iterator[Named]:
    """The objects of a file as kubectl, a snapshot or a person writes it, kind before metadata, by its lines alone.

    To read it as YAML takes a hundred times as long.
    """
    kind, kind_column, names = "", 0, _Names()
    for match in _KEY.finditer(text):
        column, key, value = len(match["indent"] or ""), match["key"], (match["value"] or "").strip("\"' ")
        if key is None or (key == "kind" and not names.holds(column)):
            yield from _named(kind, names.found.get("namespace"), names.found.get("name"))
            kind, kind_column, names = value if key else "", column, _Names()
        elif key == "metadata" and column == kind_column and names.column is None:
            names = _Names(column)
            names.found.update(_FLOW.findall(match["value"] or ""))
        else:
            names.take(column, key, value)
    yield from _named(kind, names.found.get("namespace"), names.found.get("name"))


class _Names:
    """The names in the block of `metadata` at a column; None: it has not begun."""

    def __init__(self, column: int | None = None) -> None:
        self.column = column
        self.found: dict[str, str] = {}
        self._inner = sys.maxsize
        self._is_over = False

    def holds(self, column: int) -> bool:
        """Whether a key at this column is still inside."""
        return self.column is not None and not self._is_over and column > self.column

    def take(self, column: int, key: str, value: str) -> None:
        """A key behind `metadata`; those further inside, as of labels and owners, have other columns."""
        if self.column is None or self._is_over:
            return
        if column <= self.column:
            self._is_over = True
        elif column <= self._inner:
            self._inner = column
            if key in {"name", "namespace"}:
                self.found[key] = value


def _named(kind: Any, namespace: Any, name: Any) -> Iterator[Named]:
    if kind == _NODE and _is_name(name):
        yield Named(kind, "", name)
    elif kind == _SERVICE and _is_name(name) and _is_name(namespace := namespace or "default"):
        yield Named(kind, namespace, name)


def _is_name(value: Any) -> TypeGuard[str]:
    """Nothing that a shell could take for something else."""
    return isinstance(value, str) and value.replace("-", "").replace(".", "").isalnum() and value.isascii()


# ---- from the last snapshot ----


def remember(manifests: Manifests) -> None:
    """Keeps the names of a snapshot for later; where that cannot be, nothing is kept."""
    import msgspec

    services = [*manifests.services, *manifests.unselected]
    names = [Named(_SERVICE, item.metadata.namespace, item.metadata.name) for item in services]
    names += [Named(_NODE, "", item.metadata.name) for item in manifests.nodes]
    try:
        path = _cache()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.touch(mode=0o600)
        beside.write_bytes(msgspec.json.encode(names))
        beside.replace(path)
    except (OSError, RuntimeError):
        return


def _remembered() -> Iterable[Named]:
    import msgspec

    path = _cache()
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST:
        return set()
    return [one for one in msgspec.json.decode(path.read_bytes(), type=list[Named]) if _is_name(one.name)]


def _cache() -> Path:
    """Raises RuntimeError for a user without a home."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return Path(folder if Path(folder).is_absolute() else Path.home() / ".cache", "rulegen", "names.json")
