"""Traffic while the cluster changes: what may pass before and after loses nothing, what both forbid never passes.

New connections all the time, and connections that were there before, in both directions.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tests.policies.cluster import PORTS, PROBES, Probe
from tests.policies.documents import Document
from tests.policies.lab import Frame, Lab, interface_of
from tests.policies.oracle import Flow, Oracle
from tests.policies.segments import ACK, PSH, SYN, segment, without_header

# One batch is under way while a part of the change happens; small ones meet more moments.
_SAMPLE = 60
_CONNECTIONS = 10
# After the change is in force.
_MORE_ROUNDS = 2


class Stable(NamedTuple):
    """What a change must not touch. `connected`: connections may go on; of the first ones the way back is forbidden."""

    allowed: list[Probe]
    forbidden: list[Probe]
    connected: list[Probe]


def stable(before: Iterable[Document], after: Iterable[Document], chance: random.Random) -> Stable:
    """Of the table's probes, in random order.

    Forbidden by both is what the same direction denies: one node may be ahead of the other. Connections of an address
    that gets another owner may end.
    """
    old, new = Oracle(before), Oracle(after)
    probes = chance.sample(PROBES, len(PROBES))
    denials = [(probe, old.denials(probe.flow), new.denials(probe.flow)) for probe in probes]
    allowed = [probe for probe, by_old, by_new in denials if not by_old and not by_new]
    forbidden = [probe for probe, by_old, by_new in denials if by_old & by_new]
    connected = [probe for probe in allowed if _may_go_on(probe, old, new)]
    connected.sort(key=lambda probe: new.judge(_way_back(probe.flow)).allowed)
    return Stable(allowed, forbidden, connected)


def _may_go_on(probe: Probe, old: Oracle, new: Oracle) -> bool:
    """A connection, whatever happens; nobody connects to himself here."""
    ends = {probe.flow.source, probe.flow.destination}
    return probe.protocol == "TCP" and len(ends) == 2 and all(old.owner(end) == new.owner(end) for end in ends)


def _way_back(flow: Flow) -> Flow:
    return Flow(flow.destination, flow.source, flow.protocol, _client_port(flow.port))


def _client_port(port: int) -> int:
    """The table's other one: so what comes back is of the table, too."""
    return sum(PORTS) - port


class Connection:
    """A TCP connection, as a probe's source opens it; both ends speak in turns."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._client = (probe.flow.source, _client_port(probe.port))
        self._server = (probe.flow.destination, probe.port)
        self._turns = 0

    def handshake(self) -> list[Frame]:
        return [self._from_client(SYN, 0, 0), self._from_server(SYN | ACK, 0, 1), self._from_client(ACK, 1, 1)]

    def turn(self, *, server_first: bool = False) -> list[Frame]:
        """Two bytes from each end."""
        mine = 1 + 2 * self._turns
        self._turns += 1
        if server_first:
            return [
                self._from_server(PSH | ACK, mine, mine, b".."),
                self._from_client(PSH | ACK, mine, mine + 2, b".."),
            ]
        return [self._from_client(PSH | ACK, mine, mine, b".."), self._from_server(PSH | ACK, mine, mine + 2, b"..")]

    def _from_client(self, flags: int, sequence: int, acknowledged: int, payload: bytes = b"") -> Frame:
        data = segment(self._client, self._server, flags, sequence, acknowledged, payload)
        return Frame(interface_of(self.probe.source), data)

    def _from_server(self, flags: int, sequence: int, acknowledged: int, payload: bytes = b"") -> Frame:
        data = segment(self._server, self._client, flags, sequence, acknowledged, payload)
        return Frame(interface_of(self.probe.destination), data)


def lost(lab: Lab, frames: Sequence[Frame]) -> int:
    """How many of the segments did not come out."""
    out = {without_header(frame.data) for frame in lab.exchange(frames)}
    return sum(without_header(frame.data) not in out for frame in frames)


class Traffic:
    """`wrong`: what should not have happened, in sentences. `rounds`: how often everything was sent."""

    def __init__(self, lab: Lab, untouched: Stable, chance: random.Random) -> None:
        self.rounds = 0
        self.wrong: list[str] = []
        self._lab = lab
        self._chance = chance
        self._stable = untouched
        self._number = 0
        self._connections = [Connection(probe) for probe in untouched.connected[:_CONNECTIONS]]
        frames = [frame for connection in self._connections for frame in connection.handshake()]
        lab.forget_connections()
        assert not lost(lab, frames), "a connection could not be opened"

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Sent by a thread of its own, until some rounds after the block has ended."""
        ended = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                while not ended.is_set():
                    self._round()
                for _ in range(_MORE_ROUNDS):
                    self._round()
            except BaseException as error:  # noqa: BLE001 - raised again where the test is
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if failed:
            raise failed[0]

    def _round(self) -> None:
        self.rounds += 1
        allowed, forbidden = (
            self._chance.sample(probes, min(_SAMPLE, len(probes)))
            for probes in (self._stable.allowed, self._stable.forbidden)
        )
        for probe, passed in zip(allowed, self._sent(allowed), strict=True):
            if not passed:
                self.wrong.append(f"{probe} was dropped in round {self.rounds}, though it is allowed before and after")
        for probe, passed in zip(forbidden, self._sent(forbidden), strict=True):
            if passed:
                self.wrong.append(f"{probe} passed in round {self.rounds}, though it is forbidden before and after")
        for connection in self._connections:
            if lost(self._lab, connection.turn(server_first=self.rounds % 2 == 0)):
                self.wrong.append(f"{connection.probe}: a segment of its connection was lost in round {self.rounds}")

    def _sent(self, probes: Sequence[Probe]) -> list[bool]:
        first = self._number
        self._number += len(probes)
        return self._lab.sent(probes, first)
