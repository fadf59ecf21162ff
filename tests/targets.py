"""The whole rulesets of scenarios, loaded as a person would load them."""

from __future__ import annotations

import re
import subprocess
from enum import Enum
from pathlib import Path

from rulegen.config import Target
from rulegen.golden import read_scenario, render
from tests.lab import Lab

_PART = re.compile(r"^# (ip6?tables-restore --noflush|ipset -exist restore)$\n", re.MULTILINE)


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
        for command, text in zip(parts[::2], parts[1::2], strict=True):
            if command.startswith("ipset "):
                _run(lab, command.split(), text)
            else:
                run_restore(lab, command.replace("tables-restore --noflush", f"tables-{variant}-restore"), text)


def run_restore(lab: Lab, program: str, text: str) -> None:
    """Runs a program of iptables on the node, which adds rules."""
    _run(lab, [program, "--noflush", "--wait", "60"], text)


def _run(lab: Lab, command: list[str], text: str) -> None:
    with lab.entered():
        run = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert not run.returncode, f"{command[0]}: {run.stderr}"
