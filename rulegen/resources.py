"""Where the files are that rulegen reads at run time and that are not Python: the templates of the targets, the commit.

Paths and the commit go out; templates are not read here.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def templates(target: str) -> Path:
    """The folder with the templates of a target ("nftables").

    In a wheel it is inside the package; in a clone of the repository, which an editable install uses as it is, it is
    beside it.
    """
    packaged = _PACKAGE / "templates"
    return (packaged if packaged.is_dir() else _PACKAGE.parent / "templates") / target


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
