"""The commands that the pages show with the scenarios of this repository are run, as they stand, in a namespace."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import patience

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A page that shows a faulty line on purpose says so there.
_GOLDEN = re.compile(r"^rulegen (?!snapshot).*\bgolden/[\w-]+/cluster\.yaml|^sed '[^']+' [\w.]+ > [\w.]+$")
RULEGEN = Path(sys.executable).parent


def _commands(page: Path) -> list[str]:
    """Lines of its blocks that need nothing but this repository."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        line.removeprefix("$ ")
        for line in lines
        if _GOLDEN.match(line.removeprefix("$ ")) or line.startswith("rulegen cleanup  ")
    ]


RUN = {page: commands for page in PAGES if (commands := _commands(page))}


@pytest.mark.kernel
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_is_shown_runs(page: Path, tmp_path: Path) -> None:
    """Each after the other, in one namespace and one folder; 1 says that something differs or was found."""
    from rulegen.demo.namespaces import NetworkNamespace

    environment = os.environ | {"PATH": f"{RULEGEN}:{os.environ['PATH']}"}
    (tmp_path / "golden").symlink_to(ROOT / "golden")
    with NetworkNamespace() as namespace, namespace.entered():
        for command in RUN[page]:
            if command.startswith("rulegen agent"):
                assert _agent(command, environment, tmp_path) == 0, command
                continue
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=patience(60),
                check=False,
            )
            assert done.returncode in {0, 1}, f"{command}: {done.stderr}"
            assert "Traceback" not in done.stderr


def _agent(command: str, environment: dict[str, str], folder: Path) -> int:
    """Its exit status, when it has put its rules in and was told to end."""
    words = ["sh", "-c", f"exec {command.partition('#')[0]}"]
    with subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "sync mode=full" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=patience(10))
    return process.returncode


def test_the_first_page_and_the_guides_are_among_them() -> None:
    assert len(RUN[ROOT / "README.md"]) > 5
    assert sum(map(len, RUN.values())) > 10
