"""The oldest kernel is one number: what the program refuses, what `make kernels` tries, and what the pages say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rulegen.nftables.kernel import MINIMUM_KERNEL
from tests.patience import patience

ROOT = Path(__file__).parents[2]
OLDEST = ".".join(map(str, MINIMUM_KERNEL))


@pytest.mark.parametrize("page", ["README.md", "docs/deploy.md"])
def test_pages_say_it(page: str) -> None:
    assert f"Linux {OLDEST} or newer" in (ROOT / page).read_text()


def test_it_is_among_those_that_are_tried_without_a_choice() -> None:
    makefile = (ROOT / "Makefile").read_text().splitlines()
    (tried,) = (line.split("=")[1].split() for line in makefile if line.startswith("KERNELS ="))
    assert min(tuple(map(int, kernel.split("."))) for kernel in tried) == MINIMUM_KERNEL


def test_an_older_one_is_refused_in_one_line() -> None:
    rulegen = Path(sys.executable).with_name("rulegen")
    command = [
        "setarch",
        "--uname-2.6",
        str(rulegen),
        "diff",
        "-f",
        "golden/clusterip/cluster.yaml",
        "--node",
        "node-a",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"rulegen: rulegen needs Linux {OLDEST} or newer, this is 2.6.")
