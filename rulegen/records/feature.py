"""Names as a feature: Services and EndpointSlices come in, their records go out. See `reconcile.feature.Feature`.

It runs once for a cluster, on no node, and its driver is `dns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from rulegen.config import NodeConfiguration
from rulegen.dns.record_sets import Zones
from rulegen.errors import TargetError
from rulegen.kube.named_objects import EndpointSlice, Service
from rulegen.reconcile.feature import AnyCompiler, Need
from rulegen.reconcile.tracked import Tracked
from rulegen.records.compiler import RecordCompiler
from rulegen.records.schema import ServiceRecords, version_records
from rulegen.records.store import ServiceKey, Store
from rulegen.reference import Finding, ObjectReference

NAME = "records"
# The item that is no Service's: what the zone says of itself.
ZONE_ITEM: ServiceKey = ("", "")


class TakenRecords(NamedTuple):
    """See `Taken`; no item depends on anything else."""

    items: Mapping[ServiceKey, ServiceRecords | None]
    context: None = None

    def followed_by(self, later: Self) -> TakenRecords:
        return TakenRecords({**self.items, **later.items})


class RecordsFeature:
    """See `Feature`."""

    name = NAME
    kinds: Mapping[type, Need] = {Service: Need.FIRST, EndpointSlice: Need.FIRST}

    def __init__(self, configuration: NodeConfiguration) -> None:
        self._zone = configuration.records.zone
        self.store = Store(self._zone)
        self._is_first = True
        self.findings: Tracked[ObjectReference, tuple[Finding, ...]] = self.store.findings

    def put(self, item: Any) -> None:
        self.store.put(item)

    def remove(self, reference: ObjectReference) -> None:
        """See `Feature`."""
        if reference.kind == Service.__name__:
            self.store.remove_service((reference.namespace, reference.name))
        elif reference.kind == EndpointSlice.__name__:
            self.store.remove_slice((reference.namespace, reference.name))

    def put_unreadable(self, reference: ObjectReference, error: str) -> bool:
        """See `Feature`: it keeps the records that it had."""
        del reference, error
        return False

    def take(self) -> TakenRecords:
        """See `Feature`."""
        items = self.store.take()
        if self._is_first:
            self._is_first = False
            items[ZONE_ITEM] = ServiceRecords(version_records(self._zone), {})
        return TakenRecords(items)

    def reference(self, item_id: ServiceKey) -> ObjectReference | None:
        """See `Feature`."""
        return None if item_id == ZONE_ITEM else self.store.reference(item_id)

    def title(self, item_id: ServiceKey) -> str:
        """`Service default/web`."""
        return f"zone {self._zone}" if item_id == ZONE_ITEM else f"Service {'/'.join(item_id)}"

    def compiler(self, driver: str, node: NodeConfiguration) -> AnyCompiler:
        """See `Feature`."""
        if driver != "dns":
            raise TargetError(f"records are kept in a name server; there are none for {driver}")
        settings = node.records
        return RecordCompiler(Zones(settings.zone, settings.reverse_zones), settings.ttl)
