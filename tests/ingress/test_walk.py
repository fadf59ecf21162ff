"""The walk of docs/walk.md, and the commands of docs/ingress.md behind it: run as they stand, in one shell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import patience
from tests.test_docs_commands import COMMAND, ROOT, Block, blocks_of, pattern

pytestmark = pytest.mark.kernel

RULEGEN = Path(sys.executable).parent / "rulegen"
_FOLDER = "/tmp/rulegen-walk"  # noqa: S108 - as the page has it; here it is another
# What the page says before it: a shell of its own, which the test is.
_OF_THE_SHELL = "unshare --net --mount --pid"
# tests/ingress/test_deploy.py and tests/packages have what these need.
_ELSEWHERE = re.compile(r"^\$? ?(kubectl|podman|make) ", re.MULTILINE)
_STEP = "#-- step "


def _script(blocks: list[Block], folder: Path) -> tuple[str, list[tuple[str, str | None]]]:
    """All steps, each with a mark in front of what it prints; and what each is to print."""
    steps = [step for block in blocks for step in block.steps()]
    lines = ["set -e"]
    for number, (command, _) in enumerate(steps):
        lines += [f"echo '{_STEP}{number}'", command.replace(_FOLDER, str(folder / "walk"))]
    return "\n".join([*lines, f"echo '{_STEP}{len(steps)}'", ""]), steps


def test_the_walk_and_all_commands_behind_it(tmp_path: Path) -> None:
    blocks = [block for name in ("walk.md", "ingress.md") for block in blocks_of(ROOT / "docs" / name)]
    blocks = [block for block in blocks if _OF_THE_SHELL not in block.text and not _ELSEWHERE.search(block.text)]
    assert len(blocks) > 8
    command = tmp_path / "bin/rulegen"
    command.parent.mkdir()
    command.write_text(COMMAND)
    command.chmod(0o755)
    script, steps = _script(blocks, tmp_path)
    environment = {
        "PATH": f"{tmp_path}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path),
        "RULEGEN": str(RULEGEN),
        "LC_ALL": "C.UTF-8",
    }
    # The propagation of a chroot's root, which is no mount, cannot be changed.
    words = ["unshare", "--net", "--mount", "--propagation", "unchanged"]
    words += ["--pid", "--fork", "--kill-child", "--mount-proc", "bash"]
    done = subprocess.run(
        words,
        input=script,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    printed = re.split(rf"^{_STEP}\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert done.returncode == 0, f"{steps[len(printed) - 1][0]}\n{printed[-1]}{done.stderr}"
    assert "Traceback" not in done.stderr
    for (step, expected), found in zip(steps, printed, strict=False):
        if expected is not None:
            assert re.fullmatch(pattern(expected), found), f"{step}\n{found}"
