"""What the kernel remembers of clients, adjusted when a Service's affinity timeout changes (D4).

In: the Delta and a netlink connection. Out: the records that concern it, with the time each has left under the new
timeout. Changes nothing itself; records of other Services, and endpoints that left, need no such work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.nftables.layout import LAYOUTS, TABLE, EntryKey, Value, id_of
from rulegen.nftables.messages import Connection
from rulegen.reconcile.delta import Delta

_STICKY = re.compile(rb"goto sticky(?:-local)?-(\d+)")
# A record that ends within this time may be gone before it could be changed.
_MARGIN = 1000
_SET_TIMEOUT = 3 * 60 * 60 * 1000


class Client(NamedTuple):
    """A record: the key and value of its element, and the times in milliseconds; `left` None: it has ended."""

    family: Family
    key: bytes
    value: Value
    timeout: int
    left: int | None


Timeouts: TypeAlias = dict[tuple[Family, int], int]


def changed_timeouts(delta: Delta[EntryKey, Value]) -> Timeouts:
    """The new timeout, in seconds, of each service-port whose timeout changes, by family and id."""
    timeouts: Timeouts = {}
    for (set_spec, key), change in delta.changed.items():
        if set_spec is LAYOUTS[set_spec.family].lists:
            before, after = _STICKY.fullmatch(change.before.data), _STICKY.fullmatch(change.after.data)
            if before and after and before[1] != after[1]:
                timeouts[set_spec.family, id_of(key)] = int(after[1])
    return timeouts


def read_clients(connection: Connection, timeouts: Timeouts) -> Iterator[Client]:
    """The records of those service-ports, with the time that the new timeout leaves them."""
    for family in dict.fromkeys(family for family, _ in timeouts):
        for element in connection.elements(family, TABLE, LAYOUTS[family].affinity.name):
            timeout = timeouts.get((family, id_of(element.key)))
            if timeout is None or element.expiration is None or element.expiration < _MARGIN:
                continue
            age = (element.timeout or _SET_TIMEOUT) - element.expiration
            left = timeout * 1000 - age
            yield Client(family, element.key, element.value, timeout * 1000, left if left > 0 else None)
