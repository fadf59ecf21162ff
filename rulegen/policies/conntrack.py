"""Ends connections that network policies do not let live: changes come in, entries of the kernel's table go.

Connections of an address that a pod has lost are not its next owner's, whatever was allowed. Those that policies forbid
now end only where that is asked for (`strict`). What fails is kept in mind and tried again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from rulegen.config import Family, PolicySettings
from rulegen.conntrack.table import REMOVED_AT_ONCE, ConnectionTable, TrackedConnection
from rulegen.errors import ConntrackError
from rulegen.interfaces import own_addresses
from rulegen.policies.connections import Connection, is_forbidden, is_of
from rulegen.policies.facts import PolicyFacts
from rulegen.policies.model import Address
from rulegen.policies.simulate import NO_HOST, Host
from rulegen.policies.store import Store

_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}
_ATTEMPTS = 5


class Ended(NamedTuple):
    """What was done: how many entries the kernel listed, and how many went."""

    listed: int
    removed: int


class PolicyConnections:
    """Follows the facts of one node. All calls are made by one thread at a time.

    `open_table`: opens the connections of the calling thread's network namespace.
    """

    def __init__(
        self, store: Store, settings: PolicySettings, open_table: Callable[[], ConnectionTable] = ConnectionTable
    ) -> None:
        """Has nothing to do yet."""
        self._store = store
        self._settings = settings
        self._open_table = open_table
        self._lost: set[Address] = set()
        self._is_tightened = False

    def note(self, facts: PolicyFacts) -> None:
        """Takes each change once, before or after it is applied."""
        self._lost.update(facts.lost)
        if self._settings.strict and facts.items:
            self._is_tightened = True

    @property
    def is_pending(self) -> bool:
        """Whether there is something to look for."""
        return bool(self._lost) or self._is_tightened

    def end(self) -> Ended:
        """Removes what must not live on. Raises ConntrackError, HostError; what is left is tried the next time."""
        removed = 0
        with self._open_table() as table:
            for family in Family:
                removed += self._end_of(family, table)
            listed = table.listed
        self._lost.clear()
        self._is_tightened = False
        return Ended(listed, removed)

    def _end_of(self, family: Family, table: ConnectionTable) -> int:
        pattern = self._pattern(family)
        if pattern is None:
            return 0
        removed = 0
        # Asked each time: a bridge that pods are on gets its address with the first of them.
        host = Host.of(own_addresses(family), self._settings) if self._is_tightened else NO_HOST
        for _ in range(_ATTEMPTS):
            doomed = (found for found in table.connections(family, pattern) if self._must_end(found, host))
            for part in _parts(doomed):
                removed += table.remove(part)
            if not table.is_partial:
                return removed
        raise ConntrackError(f"the connections changed during each of {_ATTEMPTS} attempts to list them")

    def _pattern(self, family: Family) -> Callable[[bytes], object] | None:
        """What tells an entry in which one of the addresses that matter may be; None: none matters."""
        size = 4 if family is Family.IPV4 else 16
        addresses = {address for address in self._lost if len(address) == size}
        if self._is_tightened:
            addresses.update(address for address in self._store.isolated() if len(address) == size)
        if not addresses:
            return None
        return re.compile(b"|".join(map(re.escape, sorted(addresses))), re.DOTALL).search

    def _must_end(self, tracked: TrackedConnection, host: Host) -> bool:
        protocol = _PROTOCOLS.get(tracked.protocol, str(tracked.protocol))
        connection = Connection(protocol, tracked.source, tracked.destination, tracked.server, tracked.port)
        if is_of(connection, self._lost):
            return True
        return self._is_tightened and is_forbidden(self._store, connection, host)


def _parts(found: Iterable[TrackedConnection]) -> Iterator[list[TrackedConnection]]:
    iterator = iter(found)
    while part := list(islice(iterator, REMOVED_AT_ONCE)):
        yield part
