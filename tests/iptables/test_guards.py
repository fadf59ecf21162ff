"""Before the rules of a feature that refuses packets nothing of another program may accept one, in whatever chain."""

from __future__ import annotations

import pytest

from rulegen.config import Family
from rulegen.iptables.chains import FILTER
from rulegen.iptables.live import parse_saved
from rulegen.iptables.transaction import is_remark

OURS = "-A FORWARD -j RULEGEN-NP-FORWARD"
CHAINS = [":RULEGEN-NP-FORWARD - [0:0]", ":ONE - [0:0]", ":TWO - [0:0]"]


def is_behind(*lines: str, guards: tuple[str, ...] = ("RULEGEN-NP-",)) -> bool:
    entries = parse_saved(Family.IPV4, FILTER, [*CHAINS, *lines, OURS], ("RULEGEN-NP-", "RULEGEN-"), guards)
    (rules,) = (rules for key, rules in entries.items() if key.chain == "FORWARD")
    return any(map(is_remark, rules))


@pytest.mark.parametrize(
    ("lines", "behind"),
    [
        (["-A FORWARD -s 10.0.0.0/8 -j ACCEPT"], True),
        (["-A ONE -p tcp -j ACCEPT", "-A FORWARD -j ONE"], True),
        (["-A FORWARD -g ONE", "-A TWO -j ACCEPT", "-A ONE -m mark --mark 0x1 -j TWO"], True),
        (["-A ONE -j TWO", "-A TWO -j ONE", "-A FORWARD -j ONE"], False),
        (["-A ONE -j DROP", "-A FORWARD -p tcp -j ONE"], False),
        (["-A FORWARD -p tcp -j DROP"], False),
        (["-A INPUT -j ACCEPT", "-A ONE -j ACCEPT"], False),
    ],
)
def test_what_accepts_ahead_is_found(lines: list[str], behind: bool) -> None:
    assert is_behind(*lines) is behind
    # Others leave a rule alone that only jumps, or that is for some packets.
    assert not is_behind(*lines, guards=()) or any("-g" in line for line in lines)
