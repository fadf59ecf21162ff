#!/usr/bin/env python3
"""Builds the documentation as a site, in build/site: what `make site` does.

Each version has a folder of its own there, and `versions.json` names them, which the pages offer to choose from. Of
versions whose folders are there already nothing changes; the newest one is where the site's first page leads. What
pages link to outside of docs/ is in a folder `source`, as text that a browser shows.
"""

from __future__ import annotations

import html
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
_SOURCE = "source"
# A link out of docs/, as a built page has it.
_OUTSIDE = re.compile(r'(?<=href=")\.\./([^"#?]+)(?=")')
_LISTING = """<!doctype html>
<meta charset="utf-8">
<title>{0}</title>
<h1>{0}</h1>
<ul>
{1}
</ul>
"""
_REDIRECT = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={0}/index.html">
<title>rulegen</title>
"""


def main() -> None:
    """With the generator that the command line names."""
    (version,) = re.findall(r'^__version__ = "(.*)"$', (REPOSITORY / "rulegen/__init__.py").read_text(), re.MULTILINE)
    subprocess.run([Path(sys.argv[1]).resolve(), "build", "--clean", "--strict"], cwd=REPOSITORY, check=True)
    _bring_sources(_BUILT)
    shutil.rmtree(SITE / version, ignore_errors=True)
    SITE.mkdir(exist_ok=True)
    _BUILT.rename(SITE / version)
    found = sorted((path.parent.name for path in SITE.glob("*/index.html")), key=_key, reverse=True)
    versions = [{"version": name, "title": name, "aliases": []} for name in found]
    (SITE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
    (SITE / "index.html").write_text(_REDIRECT.format(found[0]))


def _bring_sources(site: Path) -> None:
    """Copies what pages link to outside of docs/, and has the links lead there."""
    linked: set[str] = set()

    def link(found: re.Match[str]) -> str:
        name = found[1].rstrip("/")
        linked.add(name)
        return f"{_SOURCE}/{name}/index.html" if (REPOSITORY / name).is_dir() else f"{_SOURCE}/{name}.txt"

    for page in site.glob("*.html"):
        page.write_text(_OUTSIDE.sub(link, page.read_text()))
    for name in linked:
        path = REPOSITORY / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in filter(Path.is_file, files):
            target = site / _SOURCE / f"{file.relative_to(REPOSITORY)}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        if path.is_dir():
            names = [html.escape(str(file.relative_to(path))) for file in files if file.is_file()]
            items = "\n".join(f'<li><a href="{one}.txt">{one}</a></li>' for one in names)
            (site / _SOURCE / name / "index.html").write_text(_LISTING.format(html.escape(name), items))


def _key(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


if __name__ == "__main__":
    main()
