"""What `diff --against` compares with: a file that `render` wrote, or manifests, and which of both a path is.

In: a path, the content of the file deciding. Out: lines, or what the objects mean on a node. Never looks at the kernel.
"""

from __future__ import annotations

import re
import stat
import sys
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from rulegen.bundle import is_compressed
from rulegen.commands.applying import Ready
from rulegen.commands.output import say_warning
from rulegen.commands.reading import compile_objects, for_node_of, load_manifests, read_settings_of_any_node
from rulegen.commands.selecting import Labels, add_labels
from rulegen.commands.targets import compiled
from rulegen.errors import InputError, printable
from rulegen.paths import is_folder, read_named

if TYPE_CHECKING:
    from rulegen.reconcile.driver import Difference

STDIN = "-"
# Where an object begins, in YAML or JSON, however it is encoded: no line of a ruleset has it.
_OBJECT = re.compile(
    rb"""^[ ]*(?:-[ ]+)?["']?(?:apiVersion|kind)["']?:(?:\s|$)|[{,]\s*["']?(?:apiVersion|kind)["']?\s*:""", re.MULTILINE
)
_LOOKED_AT = 1 << 20


def compare_against(path: str, ready: Ready, node: str | None, labels: Labels) -> Difference:
    """What leads from the other side to what is wanted.

    `node`: whose rules the other side is, where it is manifests; None: the same. `labels` takes those of its objects.
    Raises InputError, TargetError.
    """
    from rulegen.reconcile.compilers import CompilerSet

    source, configuration, wanted, driver, _ = ready
    compilers = CompilerSet.of(wanted.features, driver.name, configuration.node)
    content = _content(path)
    if content is not None and not (_has_objects(content) or is_compressed(content)):
        return driver.compare_rendered(compilers, *wanted.taken, _lines(content, path), path)
    is_stream = path == STDIN or not _is_reread(path)
    source = source._replace(files=(STDIN if is_stream else path,), node=node or source.node)
    configuration = read_settings_of_any_node(source, say_warning) if node else configuration
    manifests = load_manifests(source, configuration, stdin=BytesIO(content) if is_stream and content else None)
    if node:
        configuration = for_node_of(manifests, configuration, node)
    add_labels(labels, manifests.objects())
    other = compiled(compile_objects(manifests, configuration), configuration.node, driver)
    return driver.compare_compiled(other, compilers, *wanted.taken)


def _content(path: str) -> bytes | None:
    """Of a file or a stream all, as it can be read only once; None for a folder."""
    if path == STDIN:
        return sys.stdin.buffer.read()
    return None if is_folder(path) else read_named(path)


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
