"""What works on a system that is not Linux, such as a laptop's: Linux, without the names that only it has in Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCENARIO = ("-f", "golden/clusterip/cluster.yaml", "--node", "node-a")
SCRIPT = """
import os, select, socket, sys

BEGINNINGS = ("AF_NETLINK", "AF_PACKET", "CLONE_", "EPOLL", "NETLINK_", "MFD_", "SO_RCVBUFFORCE")
NAMES = {"epoll", "eventfd", "memfd_create", "pidfd_open", "sched_getaffinity", "setns", "unshare"}
for module in (os, select, socket):
    for name in [one for one in vars(module) if one in NAMES or one.startswith(BEGINNINGS)]:
        delattr(module, name)
sys.platform = "darwin"
sys.argv[0] = "rulegen"
from rulegen.cli import main
main()
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-P", "-c", SCRIPT, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [("render", *SCENARIO), ("lint", *SCENARIO), ("golden", "check", "golden/clusterip")],
    ids=["render", "lint", "golden"],
)
def test_what_needs_no_kernel(arguments: tuple[str, ...]) -> None:
    done = _run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("apply", *SCENARIO), "cannot open a netlink socket to netfilter: only Linux has it"),
        (("verify", *SCENARIO), "cannot list nf_tables: only Linux has it"),
        (("top", *SCENARIO), "cannot listen for connections: only Linux has it"),
        (("demo",), "no network namespace: only Linux has them"),
    ],
    ids=["apply", "verify", "top", "demo"],
)
def test_what_needs_the_kernel_says_so(arguments: tuple[str, ...], message: str) -> None:
    done = _run(*arguments)
    assert (done.returncode, done.stderr) == (2, f"rulegen: {message}\n")
