"""Programs of the host that do something else than they should, for tests of what rulegen makes of that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# A program's name, and a script in its place; in it `$REAL` is the program.
Wrap = Callable[[str, str], None]


@pytest.fixture
def wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrap:
    """Puts a script in front of a program; in it `$REAL` is the program."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{folder}:{path}")

    def put(program: str, script: str) -> None:
        which = subprocess.run(["which", program], env={"PATH": path}, capture_output=True, text=True, check=True)
        new = folder / f".{program}"
        new.write_text(f"#!/bin/sh\nREAL={which.stdout.strip()}\n{script}\n")
        new.chmod(0o755)
        new.rename(folder / program)

    return put
