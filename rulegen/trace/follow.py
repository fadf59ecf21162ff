"""Follows packets: a filter and bounds come in, packets as they come by and a summary go out; then nothing is left.

The marking table belongs to a netlink socket of its own, which is closed first: from then on the kernel marks nothing.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from secrets import token_hex
from typing import NamedTuple

from rulegen.config import Family
from rulegen.conntrack.connections import ConnectionReader
from rulegen.errors import HostError, RulegenError, StaleError
from rulegen.interfaces import host_families
from rulegen.iptables.binaries import legacy_tables
from rulegen.netlink.messages import FAMILY_HEADER, attributes, text_attribute
from rulegen.netlink.nf_tables import GETRULE, RULE_EXPRESSIONS, RULE_TABLE
from rulegen.nftables.messages import KernelError, open_connection
from rulegen.nftables.undisturbed import undisturbed
from rulegen.trace.interpret import Interpreter
from rulegen.trace.journey import End, Journey, Journeys
from rulegen.trace.messages import Listener
from rulegen.trace.model import VERSION, Summary, TracedConnection, TracedPacket
from rulegen.trace.packet import WITH_PORTS, Packet, Wanted
from rulegen.trace.table import INET, PREFIX, counted, delete_table, new_table

# All chains are passed within microseconds; a queue or a busy machine may take longer.
_QUIET_SECONDS = 0.5
# How long an answer to the last packet is waited for.
_ANSWER_SECONDS = 1.0
_ANSWER_STEP = 0.05
_POLL_SECONDS = 0.1
# Connections of which the summary tells.
_MOST_CONNECTIONS = 20


class Bounds(NamedTuple):
    """When to end: after so many packets, or seconds."""

    packets: int
    seconds: float


class Follower:
    """A context manager; packets are marked while it is open. `notes`: what a person has to know beforehand.

    Raises HostError where privileges or the kernel's support lack.
    """

    def __init__(self, alternatives: Sequence[Wanted], bounds: Bounds) -> None:
        self._alternatives, self._bounds = alternatives, bounds
        self._table = f"{PREFIX}{token_hex(4)}"
        self._followed = 0
        # Those that were not stopped, by what their first header said.
        self._passed: Counter[Packet] = Counter()
        self._not_followed = 0
        self._is_marking = False
        asked = {wanted.family for wanted in alternatives}
        families = [family for family in host_families() if family in asked or None in asked]
        self.notes = tuple(_legacy_notes(families))

    def __enter__(self) -> Follower:
        with ExitStack() as opened:
            self._reading = opened.enter_context(closing(open_connection()))
            self._listener = opened.enter_context(closing(Listener()))
            self._owner = opened.enter_context(closing(open_connection()))
            try:
                self._owner.commit(new_table(self._table, self._alternatives))
            except KernelError as error:
                raise _refusal(error) from error
            self._is_marking = True
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def packets(self) -> Iterator[TracedPacket]:
        """Each as soon as its way has ended; ends at the bounds."""
        told = 0
        interpreter = Interpreter(self._reading, legacy=bool(self.notes))
        journeys = Journeys(self._table, _loopback(), _QUIET_SECONDS)
        end = time.monotonic() + self._bounds.seconds
        while told < self._bounds.packets:
            now = time.monotonic()
            if now >= end or journeys.begun >= self._bounds.packets:
                self._stop()
            if not self._is_marking and (journeys.is_empty or now >= end + _QUIET_SECONDS):
                break
            for journey in self._next(journeys, min(_POLL_SECONDS, max(end - now, 0.01))):
                if told < self._bounds.packets:
                    told += 1
                    yield self._told(interpreter, journey)
        for journey in list(journeys.rest())[: self._bounds.packets - told]:
            yield self._told(interpreter, journey)

    def summary(self) -> Summary:
        """Ends the marking; waits a moment for answers that have not come yet."""
        self._stop()
        return Summary(
            VERSION,
            "end",
            self._followed,
            self._not_followed,
            self._listener.lost,
            tuple(self._connections()),
            self.notes,
        )

    def _next(self, journeys: Journeys, seconds: float) -> Iterator[Journey]:
        select.select([self._listener], [], [], seconds)
        return journeys.follow(self._listener.read(), time.monotonic())

    def _told(self, interpreter: Interpreter, journey: Journey) -> TracedPacket:
        self._followed += 1
        if journey.end is not End.STOPPED:
            self._passed[journey.packet] += 1
        return interpreter.told(journey)

    def _stop(self) -> None:
        """No more packets are marked; the table goes, as it would if this process were killed."""
        if not self._is_marking:
            return
        self._is_marking = False
        with suppress(HostError, StaleError):
            table = text_attribute(RULE_TABLE, self._table)
            rules = undisturbed(lambda: self._reading.dump(GETRULE, INET, table))
            parts = (dict(attributes(rule[FAMILY_HEADER:])) for rule in rules)
            self._not_followed = sum(counted(part.get(RULE_EXPRESSIONS, b"")) for part in parts)
        with suppress(KernelError):
            self._owner.commit([delete_table(self._table)])
        self._owner.close()

    def _connections(self) -> Iterator[TracedConnection]:
        packets = [packet for packet, _ in self._passed.most_common(_MOST_CONNECTIONS) if packet.protocol in WITH_PORTS]
        end = time.monotonic() + _ANSWER_SECONDS
        try:
            with closing(ConnectionReader()) as reader:
                for packet in packets:
                    yield self._connection(reader, packet, end)
        except RulegenError:  # no conntrack on this host: nothing is known of answers
            return

    def _connection(self, reader: ConnectionReader, packet: Packet, end: float) -> TracedConnection:
        """What conntrack knows of it, once it is answered, or at the end."""
        while True:
            found = reader.find(packet.family, packet.protocol, packet[2:])
            if found is None or found.is_answered or time.monotonic() > end:
                break
            time.sleep(_ANSWER_STEP)
        return TracedConnection(
            packet.sender,
            packet.receiver,
            packet.protocol,
            self._passed[packet],
            found is not None,
            found.server if found else "",
            found.is_answered if found else False,
        )


def _legacy_notes(families: list[Family]) -> Iterator[str]:
    for family in families:
        if tables := legacy_tables(family):
            program = "iptables" if family is Family.IPV4 else "ip6tables"
            yield (
                f"legacy {program} has rules here (tables {', '.join(sorted(tables))}), and the kernel does not tell by"
                " which of them a packet comes: what they did to it is told by its addresses before and after, and by"
                " conntrack"
            )


def _loopback() -> int:
    try:
        return socket.if_nametoindex("lo")
    except OSError:
        return 0


def _refusal(error: KernelError) -> HostError:
    if error.number in {errno.EOPNOTSUPP, errno.EINVAL}:
        return HostError(
            "this kernel has no tables that go with their owner (Linux 5.12), so that one might be left behind"
        )
    return HostError(f"the kernel refuses the table that marks packets: {error}")
