"""A node in a lab whose packets are followed: packets come in, what `rulegen trace` tells of them goes out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rulegen.trace.follow import Bounds, Follower
from rulegen.trace.model import Summary, TracedPacket
from rulegen.trace.packet import parse_wanted
from rulegen.trace.text import packet_lines
from tests.lab import Lab, Packet
from tests.patience import patience

RULEGEN = str(Path(sys.executable).parent / "rulegen")
CLUSTER = str(Path(__file__).with_name("cluster.yaml"))
POD, POD_V6, CLIENT, NODE_ADDRESS = "10.128.0.9", "fd00:10:128::9", "203.0.113.200", "192.0.2.10"
_ENDS = 20.0


def rulegen(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run on the node."""
    with lab.entered():
        return subprocess.run([RULEGEN, *arguments], capture_output=True, text=True, check=False)


def apply(lab: Lab, *options: str) -> None:
    done = rulegen(lab, "apply", "-f", CLUSTER, "--node", "node-a", *options)
    assert done.returncode == 0, done.stderr


def follow(lab: Lab, packets: Sequence[Packet], to: str, *, source: str = "") -> list[TracedPacket]:
    """What is told of packets to one place, until as many are told as were sent."""
    with lab.entered(), Follower([parse_wanted(source, to)], Bounds(len(packets), patience(_ENDS))) as follower:
        lab.send(packets)
        return list(follower.packets())


def follow_one(lab: Lab, packet: Packet, to: str, *, source: str = "") -> TracedPacket:
    """What is told of one packet."""
    (told,) = follow(lab, [packet], to, source=source)
    return told


def summary_after(lab: Lab, send: Callable[[], object], to: str) -> Summary:
    """What is told in the end, when `send` has sent one packet."""
    with lab.entered(), Follower([parse_wanted("", to)], Bounds(1, patience(_ENDS))) as follower:
        send()
        assert len(list(follower.packets())) == 1
        return follower.summary()


def lines(told: TracedPacket) -> list[str]:
    """As a person reads it."""
    return [line.text for line in packet_lines(told)]
