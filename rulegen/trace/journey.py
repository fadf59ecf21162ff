"""Reports come in, journeys of packets go out: the chains that each came through, and where it ended. No I/O.

All chains with a hook that a packet passes are a `Passage` each. The own table's chains are waypoints: there the packet
shows what it has become by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeVar

from rulegen.trace.messages import Place, Report
from rulegen.trace.packet import Packet
from rulegen.trace.table import DELIVERED, ENTRANCES, INET, LEAVES

Key = TypeVar("Key")

# Packets under way at once; what more there are push the oldest out.
_MOST_UNDER_WAY = 1024


class End(Enum):
    """How a packet's way ended, as far as the trace shows."""

    LEFT = "left"
    DELIVERED = "delivered"
    STOPPED = "stopped"
    # Neither a verdict nor a waypoint: no route, legacy iptables, a queue, or reports that were lost.
    UNSEEN = "not seen again"


class Met(NamedTuple):
    """A rule that a packet has met in full."""

    place: Place
    handle: int
    verdict: str
    target: str


@dataclass
class Passage:
    """A chain with a hook, and all that lead from it; `packet`: as it came in. `verdict` "": not told.

    `is_waypoint`: the chain is the tracer's own.
    """

    base: Place
    packet: Packet
    is_waypoint: bool
    rules: list[Met] = field(default_factory=list)
    verdict: str = ""

    @property
    def chains(self) -> tuple[str, ...]:
        """Those that a rule or a verdict led through, in order."""
        found = [self.base.chain]
        for rule in self.rules:
            for chain in (rule.place.chain, rule.target):
                if chain and chain != found[-1]:
                    found.append(chain)
        return tuple(found)

    @property
    def decisive(self) -> Met | None:
        """The rule that ended it; None where a policy did."""
        last = self.rules[-1] if self.rules else None
        return last if last and last.verdict == self.verdict else None

    def add(self, report: Report) -> None:
        if report.handle:
            self.rules.append(Met(report.place, report.handle, report.verdict, report.target))
        if report.is_policy or report.verdict in {"accept", "drop", "queue", "stolen"}:
            self.verdict = report.verdict


@dataclass
class Journey:
    """`incoming`, `outgoing`: numbers of interfaces, 0 for none. `last_seen`: in seconds of a monotonic clock."""

    packet: Packet
    is_own: bool
    incoming: int
    last_seen: float
    passages: list[Passage] = field(default_factory=list)
    outgoing: int = 0
    end: End = End.UNSEEN

    @property
    def is_over(self) -> bool:
        return self.end is not End.UNSEEN

    def add(self, report: Report, own_table: str) -> None:
        if report.packet is not None:
            is_waypoint = report.place.family == INET and report.place.table == own_table
            self.passages.append(Passage(report.place, report.packet, is_waypoint))
            self.outgoing = report.outgoing or self.outgoing
        if not self.passages:
            return
        passage = self.passages[-1]
        passage.add(report)
        if passage.verdict == "drop":
            self.end = End.STOPPED
        elif passage.is_waypoint and passage.verdict:
            self.end = {LEAVES: End.LEFT, DELIVERED: End.DELIVERED}.get(passage.base.chain, End.UNSEEN)


class Journeys:
    """Those under way. `own_table`: the tracer's; `loopback`: the number of that interface, 0 if there is none.

    What leaves by it arrives again, under another number, and is one journey.
    """

    def __init__(self, own_table: str, loopback: int, quiet_seconds: float) -> None:
        """`quiet_seconds`: after that a packet of which nothing is told any more has gone out of sight."""
        self._own_table = own_table
        self._loopback = loopback
        self._quiet_seconds = quiet_seconds
        self._under_way: dict[int, Journey] = {}
        self._around: dict[Packet, Journey] = {}
        # How many packets have been marked.
        self.begun = 0

    def follow(self, reports: Iterable[Report], now: float) -> Iterator[Journey]:
        """The journeys that have ended, each once."""
        for report in reports:
            if self._is_entrance(report):
                if (before := self._under_way.pop(report.identity, None)) is not None:
                    yield before
                self._begin(report, now)
            journey = self._under_way.get(report.identity)
            if journey is None:  # marked by somebody else
                continue
            journey.last_seen = now
            journey.add(report, self._own_table)
            if journey.is_over:
                del self._under_way[report.identity]
                if journey.end is End.LEFT and journey.outgoing == self._loopback:
                    self._around[journey.passages[-1].packet] = journey
                else:
                    yield journey
        yield from self._out_of_sight(now)

    def rest(self) -> Iterator[Journey]:
        """Those that have not ended."""
        yield from (*self._around.values(), *self._under_way.values())
        self._around, self._under_way = {}, {}

    @property
    def is_empty(self) -> bool:
        return not (self._under_way or self._around)

    def _is_entrance(self, report: Report) -> bool:
        return report.packet is not None and report.place.table == self._own_table and report.place.chain in ENTRANCES

    def _begin(self, report: Report, now: float) -> None:
        packet = report.packet
        if packet is None:
            return
        is_own = not report.incoming
        journey = None if is_own else self._around.pop(packet, None)
        if journey is not None:
            journey.end = End.UNSEEN
        else:
            self.begun += 1
            journey = Journey(packet, is_own, report.incoming, now)
        self._under_way[report.identity] = journey

    def _out_of_sight(self, now: float) -> Iterator[Journey]:
        yield from _old(self._under_way, now - self._quiet_seconds)
        yield from _old(self._around, now - self._quiet_seconds)


def _old(waiting: dict[Key, Journey], before: float) -> Iterator[Journey]:
    """Takes those out of which nothing has been told since then, and those that are too many; oldest first."""
    too_many = len(waiting) - _MOST_UNDER_WAY
    for number, (key, journey) in enumerate(list(waiting.items())):
        if number < too_many or journey.last_seen < before:
            del waiting[key]
            yield journey
