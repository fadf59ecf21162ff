"""What a shell offers for a word that is begun: names from the manifests on the line, or from the last snapshot.

In: the arguments so far. Out: names. Never says anything, whatever is wrong with files; never waits: what is not a
plain file is not read, and after a short time what was found is what there is.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import click
from click.shell_completion import CompletionItem

from rulegen.errors import RulegenError

if TYPE_CHECKING:
    from rulegen.kube.manifests import Manifests

# For all files together; names beyond are not offered.
_SECONDS = 1.0
_LONGEST_CACHE = 64 << 20
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
    except (RulegenError, OSError, ValueError, RecursionError):
        return set()


# ---- from files ----


def _in_files(paths: Collection[str]) -> Iterator[Named]:
    from rulegen.kube.documents import read_documents

    plain = [path for path in paths if _is_plain(path)]
    end = time.monotonic() + _SECONDS
    for document in read_documents(plain, None):
        yield from _names(getattr(document, "value", None))
        if time.monotonic() > end:
            return


def _is_plain(path: str) -> bool:
    """A pipe, or standard input, is read by the command itself, and could keep us waiting."""
    mode = Path(path).stat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _names(value: Any) -> Iterator[Named]:
    from msgspec import Raw

    from rulegen.kube.decode import plain_value

    found = plain_value(value) if isinstance(value, Raw) else value
    if not isinstance(found, dict):
        return
    kind = found.get("kind")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(found.get("items"), list):
        for item in found["items"]:
            yield from _names({"kind": kind.removesuffix("List"), **item} if isinstance(item, dict) else item)
    elif kind in {_SERVICE, _NODE} and isinstance(metadata := found.get("metadata"), dict):
        namespace, name = metadata.get("namespace") or "default", metadata.get("name")
        if _is_name(name) and _is_name(namespace):
            yield Named(kind, "" if kind == _NODE else namespace, name)


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
    path = _cache()
    try:
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
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_CACHE:
        return set()
    return [one for one in msgspec.json.decode(path.read_bytes(), type=list[Named]) if _is_name(one.name)]


def _cache() -> Path:
    """Raises RuntimeError for a user without a home."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return Path(folder if Path(folder).is_absolute() else Path.home() / ".cache", "rulegen", "names.json")
