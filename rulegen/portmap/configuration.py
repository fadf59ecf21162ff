"""Whether the CNI configuration still has portmap. A folder comes in, the files that name it go out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rulegen.errors import UNDECODABLE, InputError, printable

FOLDER = "/etc/cni/net.d"
# What the reference library for CNI reads; others lie beside, as backups.
_SUFFIXES = (".conf", ".conflist", ".json")
_MOST_BYTES = 1 << 20


def files_with_portmap(folder: str) -> list[str]:
    """The files of a CNI configuration in which a plugin of type portmap stands, sorted.

    Raises InputError for a folder or a file that cannot be read: it may name portmap.
    """
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix in _SUFFIXES)
    except OSError as error:
        raise InputError(f"{printable(folder)}: cannot be read: {error.strerror}") from error
    return [printable(str(path)) for path in paths if "portmap" in _types(path)]


def _types(path: Path) -> set[Any]:
    name = printable(str(path))
    try:
        if not path.is_file():
            raise InputError(f"{name}: expected a file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"{name}: expected at most {_MOST_BYTES} bytes")
    try:
        network = msgspec.json.decode(content)
    except UNDECODABLE as error:
        raise InputError(f"{name}: expected a CNI configuration in JSON, got: {error}") from error
    return {text for text in _plugin_types(network) if isinstance(text, str)}


def _plugin_types(network: Any) -> Iterator[Any]:
    plugins = network.get("plugins") if isinstance(network, dict) else None
    for plugin in (network, *(plugins if isinstance(plugins, list) else ())):
        if isinstance(plugin, dict):
            yield plugin.get("type")
