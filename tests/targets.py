"""The rulesets that rulegen writes, loaded from a scenario's files as a person would load them."""

from __future__ import annotations

import re
import subprocess
from enum import Enum
from pathlib import Path

from rulegen.golden import IPTABLES_FILE, NFTABLES_FILE
from tests.lab import Lab

_PART = re.compile(r"^# (ip6?tables)-restore --noflush$\n", re.MULTILINE)


class Ruleset(Enum):
    """A target, and for iptables the variant."""

    NFTABLES = "nftables"
    IPTABLES_NFT = "iptables-nft"
    IPTABLES_LEGACY = "iptables-legacy"

    def load(self, lab: Lab, folder: Path) -> None:
        """Loads what a scenario's folder holds."""
        if self is Ruleset.NFTABLES:
            lab.nft((folder / NFTABLES_FILE).read_text())
            return
        variant = self.value.removeprefix("iptables-")
        _, *parts = _PART.split((folder / IPTABLES_FILE).read_text())
        for program, text in zip(parts[::2], parts[1::2], strict=True):
            run_restore(lab, f"{program}-{variant}-restore", text)


def run_restore(lab: Lab, program: str, text: str) -> None:
    """Runs a program of iptables on the node, which adds rules."""
    with lab.entered():
        run = subprocess.run(
            [program, "--noflush", "--wait", "60"], input=text, capture_output=True, text=True, check=False
        )
    assert not run.returncode, f"{program}: {run.stderr}"
