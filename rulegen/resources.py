"""The files that rulegen reads at run time and that are not Python: the templates of the targets, the commit.

Templates and the commit go out. What is filled into a template, its reader says.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = Path(__file__).parent


def templates(target: str) -> Path:
    """The folder with the templates of a target ("nftables").

    In a wheel it is inside the package; in a clone of the repository, which an editable install uses as it is, it is
    beside it.
    """
    packaged = _PACKAGE / "templates"
    return (packaged if packaged.is_dir() else _PACKAGE.parent / "templates") / target


@lru_cache(maxsize=2)
def environment(target: str) -> Environment:
    """jinja2 for the templates of a target: what is not filled in is an error, and nothing is escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates(target)),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - rules, not HTML; nothing that a cluster sends is filled in
    )


def commit() -> str:
    """The commit that this program was built from, with `-dirty` when more than that was in the tree; "" if unknown.

    hatch_build.py writes it into what is installed; a clone is asked for its own.
    """
    packaged = _PACKAGE / "commit"
    if packaged.is_file():
        return packaged.read_text().strip()
    clone = _PACKAGE.parent
    if not (clone / ".git").exists():
        return ""
    import subprocess

    words = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
