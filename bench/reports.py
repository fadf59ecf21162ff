"""How long `rulegen report` takes, how large its page is, and how soon Chromium shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.clock import Numbers, measured
from bench.clusters import NODE, Shape, manifest
from tests.pictures.browser import Browser

# A page that has not been shown says so by a number that nobody takes for one.
_PAINTED = "(performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? Infinity) / 1000"


def written(shape: Shape, folder: Path) -> Numbers:
    """Seconds for the command, megabytes of the page, seconds until there is something to see and until it works."""
    numbers: Numbers = {}
    page = folder / "report.html"
    source = str(manifest(shape, folder))
    command = [sys.executable, "-c", "from rulegen.cli import main; main()"]
    with measured(numbers, "report"):
        subprocess.run([*command, "report", "-f", source, "--node", NODE, "-o", str(page)], check=True)
    numbers["megabytes"] = page.stat().st_size / 1e6
    with Browser() as browser:
        browser.resize(1300, 900)
        with measured(numbers, "usable"):
            browser.open(page)
        browser.until(f"{_PAINTED} < Infinity")
        numbers["painted"] = float(browser.evaluate(_PAINTED))
    return numbers
