"""The tables of Services as data: which sets and maps there are, and what else the driver asks about them.

Declarations of the sets are in `templates/nftables/base_chains.nft.j2`; a test holds both together. No I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rulegen.config import Family
from rulegen.nftables.elements import EntryKey, Field, SetSpec, Value
from rulegen.nftables.tables import AllEntries, Drained, Retimed, TableSpec
from rulegen.reconcile.delta import Delta
from rulegen.services.on_nftables.affinity import changed_timeouts, read_clients
from rulegen.services.on_nftables.likely_keys import likely_keys
from rulegen.services.on_nftables.moved_lists import drained

if TYPE_CHECKING:
    from rulegen.nftables.messages import Connection

TABLE = "rulegen"

# Clients remembered for session affinity in one family; when it is full, new clients are balanced without affinity.
AFFINITY_SIZE = 262144
# By these chain translated sees whether two addresses are the same.
SAME_BYTES = tuple(struct.pack("B3xB3x", number, number) for number in range(256))


class Layout(TableSpec):
    """All sets of one family's table of Services."""

    # Its chains are few.
    fingerprint_numbers = 1

    def __init__(self, family: Family) -> None:
        """Names the sets of `family`, in the order in which they are printed."""
        super().__init__(family, TABLE)
        address = Field.IPV4 if family is Family.IPV4 else Field.IPV6
        frontend = (address, Field.PROTOCOL, Field.PORT)
        nodeport = (Field.PROTOCOL, Field.PORT)
        register = (Field.CLASSID,)
        endpoint = (address, Field.PORT)
        self.frontends = self.add_set("frontends", frontend, register)
        self.nodeports = self.add_set("nodeports", nodeport, register)
        self.kinds = self.add_set("kinds", register, (Field.VERDICT,))
        self.nodeport_kinds = self.add_set("nodeport-kinds", register, (Field.VERDICT,))
        self.slots = self.add_set("slots", register, register)
        self.balancers = self.add_set("balancers", register, (Field.VERDICT,))
        self.lists = self.add_set("lists", register, (Field.VERDICT,))
        self.endpoints = self.add_set("endpoints", (Field.CLASSID, Field.PROTOCOL, Field.NUMBER), endpoint)
        self.endpoints.is_large = True
        self.sticky_lists = self.add_set("sticky-lists", register, (Field.VERDICT,))
        self.endpoint_indexes = self.add_set("endpoint-indexes", (Field.CLASSID, Field.NUMBER), register)
        endpoint_index = (Field.CLASSID, Field.PROTOCOL)
        self.sticky_endpoints = self.add_set("sticky-endpoints", endpoint_index, endpoint)
        self.sticky_local_endpoints = self.add_set("sticky-local-endpoints", endpoint_index, endpoint)
        self.hairpin = self.add_set("hairpin", (Field.BYTE, Field.BYTE), fixed=SAME_BYTES)
        self.source_ranges = self.add_set("source-ranges", (*frontend, address), interval=True)
        self.cluster_ips = self.add_set("cluster-ips", (address,))
        self.service_cidrs = self.add_set("service-cidrs", (address,), interval=True)
        self.nodeport_addresses = self.add_set("nodeport-addresses", (address,), interval=True)
        # What the kernel itself remembers of clients: no entries.
        client = (Field.IPV4,) if family is Family.IPV4 else (Field.NUMBER, Field.NUMBER)
        self.affinity = self.add_set("affinity", (Field.CLASSID, *client), register, size=AFFINITY_SIZE)

    def likely_keys(self, set_spec: SetSpec, entries: AllEntries) -> list[bytes]:
        """Those of the endpoints' slots."""
        return likely_keys(self, set_spec, entries)

    def drained(self, delta: Delta[EntryKey, Value]) -> Drained:
        """What lists that end or move leave behind."""
        return drained(self, delta)

    def retimed(self, connection: Connection, delta: Delta[EntryKey, Value]) -> list[Retimed]:
        """The clients of service-ports whose affinity timeout changes (D4)."""
        timeouts = changed_timeouts(self, delta)
        return list(read_clients(self, connection, timeouts)) if timeouts else []


LAYOUTS: Mapping[Family, Layout] = {family: Layout(family) for family in Family}
SPECS: tuple[TableSpec, ...] = tuple(LAYOUTS.values())
