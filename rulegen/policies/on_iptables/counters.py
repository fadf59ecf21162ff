"""What the rules of iptables have denied, as iptables-save counts. Changes nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from rulegen.config import Family
from rulegen.interfaces import host_families
from rulegen.iptables.binaries import Variant, installed, save
from rulegen.policies.denials import Denied
from rulegen.policies.model import Direction
from rulegen.policies.on_iptables.names import DENIED, PREFIX

# [12:720] -A RULEGEN-NP-I-1b2c -m comment --comment "ClusterNetworkPolicy metrics" -j RULEGEN-NP-DENIED
_RULE = re.compile(
    rf'\[(\d+):\d+\] -A ({PREFIX}([IE])-\S+) (?:.*--comment "\w+ ([^"]*)" |.* )?-j (?:{DENIED}|{PREFIX}L-\S+)'
)
_DIRECTIONS = {"I": Direction.INGRESS, "E": Direction.EGRESS}


def read_denials() -> Iterator[Denied]:
    """By rule that leads to a denial. Raises HostError."""
    for family in host_families():
        for variant in Variant:
            if installed(variant, family):
                yield from _denied(family, save(variant, family, counters=True))


def _denied(family: Family, saved: str) -> Iterator[Denied]:
    places: Counter[str] = Counter()
    for line in saved.splitlines():
        found = _RULE.fullmatch(line)
        # What is no connection's is nobody's policy.
        if found is None or "--tcp-flags" in line:
            continue
        packets, chain, letter, policy = found.groups()
        places[chain] += 1
        yield Denied(family, _DIRECTIONS[letter], f"{chain} {places[chain]}", policy or "", int(packets))
