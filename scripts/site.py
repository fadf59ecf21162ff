#!/usr/bin/env python3
"""Builds the documentation as a site, in build/site: what `make site` does.

Each version has a folder of its own there, and `versions.json` names them, which the pages offer to choose from. Of
versions whose folders are there already nothing changes; the newest one is where the site's first page leads.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SITE = REPOSITORY / "build" / "site"
# As mkdocs.yml says.
_BUILT = REPOSITORY / "build" / "site-new"
_REDIRECT = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={0}/index.html">
<title>rulegen</title>
"""


def main() -> None:
    """With the generator that the command line names."""
    (version,) = re.findall(r'^__version__ = "(.*)"$', (REPOSITORY / "rulegen/__init__.py").read_text(), re.MULTILINE)
    subprocess.run([Path(sys.argv[1]).resolve(), "build", "--clean", "--strict"], cwd=REPOSITORY, check=True)
    shutil.rmtree(SITE / version, ignore_errors=True)
    SITE.mkdir(exist_ok=True)
    _BUILT.rename(SITE / version)
    found = sorted((path.parent.name for path in SITE.glob("*/index.html")), key=_key, reverse=True)
    versions = [{"version": name, "title": name, "aliases": []} for name in found]
    (SITE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
    (SITE / "index.html").write_text(_REDIRECT.format(found[0]))


def _key(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


if __name__ == "__main__":
    main()
