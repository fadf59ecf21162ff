"""A packet that meets a change on its way: what both forbid never passes, what both allow is not lost.

`flips` has pairs of clusters that agree about one packet and differ in all that it meets. The packet is held between
two chains while the one becomes the other; and it is sent all the time while they change places as fast as they can.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from rulegen.claims import POLICY_HOOKS, Hook
from rulegen.config import NodeConfiguration
from rulegen.policies.on_nftables import layout, table
from tests.policies.cluster import NODE_1
from tests.policies.decoding import decode
from tests.policies.fixtures import lab_or_skip
from tests.policies.flips import DESTINATION, FLIPS, PROBE, SOURCE, Flip
from tests.policies.held import Queue
from tests.policies.kept import POLICIES, Kept
from tests.policies.lab import Frame, Lab, interface_of
from tests.policies.segments import SYN, segment, without_header

pytestmark = pytest.mark.kernel

# What iptables does at forward in its table mangle: packets are held there, with chains of ours on either side.
_MANGLE = -150
_QUEUE = 7
_LONG_MILLISECONDS = 600_000
_ORDER = ("egress", "ingress", "egress-again", "ingress-again")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


@contextmanager
def kept_on(lab: Lab) -> Iterator[Kept]:
    made = Kept(lambda: lab.entered(NODE_1), NodeConfiguration(node_name=NODE_1), POLICIES)
    try:
        yield made
    finally:
        made.keep(())
        made.close()


def hooks_around(held_behind: int) -> Mapping[str, Hook]:
    """Packets are held behind so many of the chains."""
    places = {name: _MANGLE - 10 + number + (20 if number >= held_behind else 0) for number, name in enumerate(_ORDER)}
    return {**POLICY_HOOKS, **{name: Hook("filter", "forward", place) for name, place in places.items()}}


@contextmanager
def holding(lab: Lab) -> Iterator[Queue]:
    ends = f"-s {SOURCE.addresses.v4} -d {DESTINATION.addresses.v4}"
    rule = f"FORWARD {ends} -j NFQUEUE --queue-num {_QUEUE}".split()
    with lab.entered(NODE_1), Queue(_QUEUE) as queue:
        subprocess.run(["iptables-nft", "-t", "mangle", "-A", *rule], check=True)
        try:
            yield queue
        finally:
            subprocess.run(["iptables-nft", "-t", "mangle", "-D", *rule], check=True)


def came_through(lab: Lab, kept: Kept, queue: Queue, flip: Flip, number: int) -> bool:
    """Whether a packet does that begins its way in the first state and ends it in the second."""
    before, after = (list(decode(state)) for state in flip.states)
    kept.keep(before)
    lab.forget_connections()
    data = segment((SOURCE.addresses.v4, 30_000 + number), (DESTINATION.addresses.v4, PROBE.port), SYN, 0, 0)
    if lab.exchange([Frame(interface_of(SOURCE), data)]):
        raise AssertionError("the packet was not held")
    packet = queue.wait()
    kept.keep(after)
    with lab.entered(NODE_1):
        queue.release(packet)
    return without_header(data) in {without_header(frame.data) for frame in lab.came_out()}


@pytest.mark.parametrize("held_behind", [1, 2, 3])
def test_a_packet_that_is_held(held_behind: int, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both orders; of those that the first chains would not let come so far, none is held."""
    monkeypatch.setattr(table, "POLICY_HOOKS", hooks_around(held_behind))
    # However long the machine takes between the change and the rest of the packet's way.
    monkeypatch.setattr(layout, "_LATELY_MILLISECONDS", _LONG_MILLISECONDS)
    wrong = []
    with holding(lab) as queue, kept_on(lab) as kept:
        for number, (name, flip) in enumerate(FLIPS.items()):
            if flip.is_allowed or held_behind == 1:
                passed = came_through(lab, kept, queue, flip, number)
                wrong += [name] if passed is not flip.is_allowed else []
    assert not wrong


# ---- as fast as possible ----


def count_passing(lab: Lab, packets: int) -> int:
    """How many of so many packets come out; in a process of its own, so that nobody waits for Python."""
    passed = 0
    for first in range(0, packets, 500):
        if first % 10_000 == 0:
            lab.forget_connections()
        passed += sum(lab.sent([PROBE] * 500, first))
    return passed


@contextmanager
def counting(lab: Lab, packets: int) -> Iterator[tuple[int, int]]:
    """A child process that sends; its number, and where it says how many passed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(count_passing(lab, packets)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        yield child, reading
    finally:
        os.close(reading)


@pytest.mark.part(len(FLIPS))
@pytest.mark.parametrize("name", FLIPS)
def test_changing_places(name: str, lab: Lab, request: pytest.FixtureRequest) -> None:
    packets = 300_000 if request.config.getoption("exhaustive") else 40_000
    flip: Flip = FLIPS[name]
    states: list[list[Any]] = [list(decode(state)) for state in flip.states]
    with kept_on(lab) as kept:
        kept.keep(states[0])
        with counting(lab, packets) as (child, reading):
            number = 1
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                kept.keep(states[number % 2])
                number += 1
            passed = int(os.read(reading, 100))
    assert number > 10
    assert passed == (packets if flip.is_allowed else 0)
