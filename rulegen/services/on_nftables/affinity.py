"""What the kernel remembers of clients, adjusted when a Service's affinity timeout changes (D4).

In: the Delta and a netlink connection. Out: the records that concern it, with the time each has left under the new
timeout. Changes nothing itself; records of other Services, and endpoints that left, need no such work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from rulegen.nftables.elements import EntryKey, Value
from rulegen.nftables.tables import Retimed
from rulegen.reconcile.delta import Delta
from rulegen.services.on_nftables.registers import id_of

if TYPE_CHECKING:
    from rulegen.nftables.messages import Connection
    from rulegen.services.on_nftables.layout import Layout

_STICKY = re.compile(rb"goto sticky(?:-local)?-(\d+)")
# A record that ends within this time may be gone before it could be changed.
_MARGIN = 1000
_SET_TIMEOUT = 3 * 60 * 60 * 1000

# By a service-port's id, in seconds.
Timeouts: TypeAlias = dict[int, int]


def changed_timeouts(layout: Layout, delta: Delta[EntryKey, Value]) -> Timeouts:
    """The new timeout of each service-port of a family whose timeout changes."""
    timeouts: Timeouts = {}
    for (set_spec, key), change in delta.changed.items():
        if set_spec is layout.lists:
            before, after = _STICKY.fullmatch(change.before.data), _STICKY.fullmatch(change.after.data)
            if before and after and before[1] != after[1]:
                timeouts[id_of(key)] = int(after[1])
    return timeouts


def read_clients(layout: Layout, connection: Connection, timeouts: Timeouts) -> Iterator[Retimed]:
    """The records of those service-ports, with the time that the new timeout leaves them."""
    for element in connection.elements(layout.family, layout.name, layout.affinity.name):
        timeout = timeouts.get(id_of(element.key))
        if timeout is None or element.expiration is None or element.expiration < _MARGIN:
            continue
        age = (element.timeout or _SET_TIMEOUT) - element.expiration
        left = timeout * 1000 - age
        yield Retimed(layout.affinity, element.key, element.value, timeout * 1000, left if left > 0 else None)
