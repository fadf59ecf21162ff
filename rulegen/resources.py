"""Where the files are that rulegen reads at run time and that are not Python: the templates of the targets.

Only paths go out; nothing is read here.
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
