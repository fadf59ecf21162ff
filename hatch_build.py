"""What hatchling is told beside pyproject.toml: the commit that a wheel or an sdist is made of.

In comes the source tree, out goes one file more in the archive, `rulegen/commit`, which `rulegen --version` reads. The
commit is that of $RULEGEN_COMMIT, for builders that are not given `.git`; else git's. An sdist has the file already.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FILE = "rulegen/commit"


class CustomBuildHook(BuildHookInterface[Any]):
    """Found by hatchling under this name."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the file; not to an editable install, whose commit changes, nor where no commit is known."""
        root = Path(self.root)
        path = root / _FILE
        if not path.exists():
            self._folder = tempfile.TemporaryDirectory()
            path = Path(self._folder.name, "commit")
            if commit := _commit(root):
                path.write_text(f"{commit}\n")
        if version != "editable" and path.exists():
            # git ignores it in a clone, and so would hatchling in an sdist.
            build_data["force_include"][str(path)] = _FILE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        """Removes what `initialize` made."""
        if self._folder is not None:
            self._folder.cleanup()


def _commit(root: Path) -> str:
    given = os.environ.get("RULEGEN_COMMIT", "")
    if given or not (root / ".git").exists():
        return given
    # The same words as in rulegen/resources.py, which a clone without hatchling is asked by.
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
