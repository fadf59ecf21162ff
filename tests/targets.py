"""The whole rulesets of scenarios, loaded as a person would load them."""

from __future__ import annotations

import re
import subprocess
from enum import Enum
from pathlib import Path

from rulegen.config import Target
from rulegen.golden import read_scenario, render
from tests.lab import Lab

_PART = re.compile(r"^# (ip6?tables)-restore --noflush$\n", re.MULTILINE)


class Ruleset(Enum):
    """A target, and for iptables the variant."""

    NFTABLES = "nftables"
    IPTABLES_NFT = "iptables-nft"
    IPTABLES_LEGACY = "iptables-legacy"

    def load(self, lab: Lab, folder: Path) -> None:
        """Loads what the scenario in a folder renders to."""
        scenario = read_scenario(folder)
        if self is Ruleset.NFTABLES:
            lab.nft(render(scenario, Target.NFTABLES))
            return
        variant = self.value.removeprefix("iptables-")
        _, *parts = _PART.split(render(scenario, Target.IPTABLES))
        for program, text in zip(parts[::2], parts[1::2], strict=True):
            run_restore(lab, f"{program}-{variant}-restore", text)


def run_restore(lab: Lab, program: str, text: str) -> None:
    """Runs a program of iptables on the node, which adds rules."""
    with lab.entered():
        run = subprocess.run(
            [program, "--noflush", "--wait", "60"], input=text, capture_output=True, text=True, check=False
        )
    assert not run.returncode, f"{program}: {run.stderr}"
