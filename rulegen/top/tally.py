"""Counts connections by Service and endpoint: a listing, then events come in; numbers go out.

A connection is known by what its first packet said, which no two have at a time. Knows no socket, and no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.conntrack.connections import Connection, Event
from rulegen.live.known import Known, ServiceId

_Key: TypeAlias = tuple[Family, str, str, int, str, int]


class Row(NamedTuple):
    """Whose a connection is, and which endpoint answers it, as `10.128.0.5:8080`. `service`: None for nobody known."""

    service: ServiceId | None
    endpoint: str


class _Entry(NamedTuple):
    """`number`: the kernel's; a later connection of the same client has another."""

    number: bytes
    row: Row


class Tally:
    """`unseen`: connections whose coming no event has told of; of these perhaps none tells that they go.

    `missed`: Services or endpoints were met that `known` does not have.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.missed = False
        self._entries: dict[_Key, _Entry] = {}
        self._unseen: set[_Key] = set()
        self._new: Counter[Row] = Counter()
        # Those that count as new already; an event may tell of them, too.
        self._counted: set[_Key] = set()

    @property
    def has_unseen(self) -> bool:
        return bool(self._unseen)

    def recount(self, connections: Iterable[Connection], *, count_new: bool) -> None:
        """These are all there are. `count_new`: those that were not there before count as new."""
        before, self._entries = self._entries, {}
        seen = before.keys() - self._unseen
        self._unseen = set()
        self._counted = set()
        for connection in connections:
            key = _key(connection)
            row = self._row(connection)
            self._entries[key] = _Entry(connection.number, row)
            is_known = key in before and before[key].number == connection.number
            if not (is_known and key in seen):
                self._unseen.add(key)
            if count_new and not is_known:
                self._new[row] += 1
                self._counted.add(key)

    def follow(self, event: Event) -> None:
        """One has come or gone."""
        connection = event.connection
        key = _key(connection)
        if event.is_new:
            row = self._row(connection)
            known = self._entries.get(key)
            if not (key in self._counted and known is not None and known.number == connection.number):
                self._new[row] += 1
            self._entries[key] = _Entry(connection.number, row)
            self._unseen.discard(key)
            self._counted.discard(key)
        elif key in self._entries and self._entries[key].number == connection.number:
            del self._entries[key]
            self._unseen.discard(key)

    def take_new(self) -> Counter[Row]:
        """Those that have come since the last call."""
        taken, self._new = self._new, Counter()
        return taken

    def now(self) -> Counter[Row]:
        """Those that there are."""
        return Counter(entry.row for entry in self._entries.values())

    def _row(self, connection: Connection) -> Row:
        service = self.known.service_of(connection)
        self.missed = self.missed or service is None or connection.server not in self.known.shares[service]
        return Row(service, connection.server)


def _key(connection: Connection) -> _Key:
    return connection[1:7]
