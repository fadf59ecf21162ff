"""What `diff --against` compares with: a file that `render` wrote, or manifests, and which of both a path is.

In: a path, the content of the file deciding. Out: lines, or what the objects mean on a node. Never looks at the kernel.
"""

from __future__ import annotations

import re
import stat
import sys
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rulegen.commands.options import Input
from rulegen.commands.reading import Wanted, compile_objects, load_manifests
from rulegen.commands.selecting import Labels, labels_of
from rulegen.commands.targets import compiled
from rulegen.errors import InputError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rulegen.config import Configuration
    from rulegen.reconcile.driver import Difference, Driver

STDIN = "-"
# Where an object begins, in YAML or JSON, however it is encoded: no line of a ruleset has it.
_OBJECT = re.compile(rb"""(?:^|[\s{,"'])(?:apiVersion|kind)["']?\s*:""")
_LOOKED_AT = 1 << 20


class Against(NamedTuple):
    """What leads from the other side to what is wanted; `labels`: of its objects, where it has such."""

    difference: Difference
    labels: Labels


def compare_against(
    path: str, source: Input, wanted: Wanted, nodes: tuple[Configuration, Configuration], driver: Driver
) -> Against:
    """`source`: how manifests are read; `nodes`: of what is wanted, and of the other side, where that has objects.

    Raises InputError, TargetError.
    """
    from rulegen.reconcile.compilers import CompilerSet

    configuration, others = nodes
    compilers = CompilerSet.of(wanted.features, driver.name, configuration.node)
    content = _content(path)
    if content is not None and not _has_objects(content):
        return Against(driver.compare_rendered(compilers, *wanted.taken, _lines(content, path), path), {})
    is_stream = path == STDIN or not _is_reread(path)
    paths: Sequence[str] = (STDIN,) if is_stream else (path,)
    stream = BytesIO(content) if is_stream and content is not None else None
    manifests = load_manifests(source._replace(files=tuple(paths)), others, stdin=stream)
    labels = labels_of(manifests.objects())
    other = compiled(compile_objects(manifests, others), others.node, driver)
    return Against(driver.compare_compiled(other, compilers, *wanted.taken), labels)


def _content(path: str) -> bytes | None:
    """Of a file or a stream all, as it can be read only once; None for a folder."""
    try:
        if path == STDIN:
            return sys.stdin.buffer.read()
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            return None
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            raise InputError(f"{printable(path)}: a device, not a file")
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{printable(path)}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{printable(path)}: not a path") from error


def _is_reread(path: str) -> bool:
    mode = Path(path).stat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _has_objects(content: bytes) -> bool:
    return _OBJECT.search(content[:_LOOKED_AT].replace(b"\0", b"")) is not None


def _lines(content: bytes, path: str) -> list[str]:
    try:
        return list(StringIO(content.decode(), newline=None))
    except UnicodeDecodeError as error:
        place = f"{error.reason} at byte {error.start}"
        raise InputError(f"{printable(path)}: expected UTF-8 text: {place}") from error
