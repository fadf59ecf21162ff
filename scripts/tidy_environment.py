#!/usr/bin/env python3
"""Makes of a virtual environment one that a package or an image can carry: nothing unused, no trace of the build.

    tidy_environment.py FOLDER

The asynchronous half of the client `kubernetes`, and what only that asks for, are half of all: rulegen never imports
them. Without pip nobody adds anything. Commands would have the folder of the build in their first line.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

# As they are imported; the metadata is beside them.
UNUSED = (
    *("kubernetes/aio", "pip", "setuptools", "pkg_resources", "aiohttp", "aiohttp_retry", "aiohappyeyeballs"),
    *("aiosignal", "frozenlist", "multidict", "propcache", "yarl", "attr", "attrs", "tzdata"),
)
# Written by the installer: where the wheel lay, and digests of what is removed here.
NOTES = ("direct_url.json", "RECORD", "REQUESTED", "INSTALLER")


def tidy(environment: Path) -> None:
    """What is installed there works as before."""
    (packages,) = environment.glob("lib/python*/site-packages")
    _remove_unused(packages)
    for path in packages.rglob("*.py"):
        _make_module(path)
    shutil.rmtree(environment / "include", ignore_errors=True)
    for path in (environment / "bin").iterdir():
        if not path.name.startswith("python"):
            path.unlink()
    settings = environment / "pyvenv.cfg"
    kept = [line for line in settings.read_text().splitlines() if line.startswith(("home", "version"))]
    settings.write_text("\n".join([*kept, "include-system-site-packages = true", ""]))


def _remove_unused(packages: Path) -> None:
    unused = [packages / name for name in UNUSED]
    unused += [path for name in UNUSED for path in packages.glob(f"{name}-*.dist-info")]
    unused += [path for name in ("__pycache__", "tests") for path in packages.rglob(name)]
    for path in unused:
        shutil.rmtree(path, ignore_errors=True)
    for note in NOTES:
        for path in packages.glob(f"*.dist-info/{note}"):
            path.unlink()


def _make_module(path: Path) -> None:
    """No module is a command of its own."""
    text = path.read_bytes()
    if text.startswith(b"#!"):
        path.write_bytes(text.partition(b"\n")[2])


if __name__ == "__main__":
    tidy(Path(sys.argv[1]))
