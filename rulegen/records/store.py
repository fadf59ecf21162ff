"""The memory of what has a name: Services and slices in, records of changed Services out. No I/O, no server."""

from __future__ import annotations

from typing import Any, TypeAlias

from rulegen.kube.named_objects import EndpointSlice, Service
from rulegen.kube.objects import SERVICE_NAME
from rulegen.reconcile.tracked import Tracked
from rulegen.records.schema import ServiceRecords, service_records
from rulegen.reference import Finding, ObjectReference, bounded

ServiceKey: TypeAlias = tuple[str, str]


class Store:
    """Objects are known until they are removed; what a change costs is the cost of its Service. `zone`: absolute."""

    def __init__(self, zone: str) -> None:
        self._zone = zone
        self._services: dict[ServiceKey, Service] = {}
        # By namespace and name of the slice: whose it is; and the slices of each Service.
        self._owners: dict[ServiceKey, ServiceKey] = {}
        self._slices: dict[ServiceKey, dict[str, EndpointSlice]] = {}
        self._touched: dict[ServiceKey, None] = {}
        self.findings: Tracked[ObjectReference, tuple[Finding, ...]] = Tracked()

    def put(self, item: Any) -> None:
        """A Service or a slice as it is now."""
        if isinstance(item, EndpointSlice):
            self._put_slice(item)
        elif isinstance(item, Service):
            key = (item.metadata.namespace, item.metadata.name)
            # One that was made anew is another: what was found of the old one goes with it.
            if key in self._services and self.reference(key) != ObjectReference.of(item):
                self.findings.set(self.reference(key), None)
            self._services[key] = item
            self._touched[key] = None

    def remove_service(self, key: ServiceKey) -> None:
        """Its slices may still come and go; they mean nothing."""
        service = self._services.pop(key, None)
        if service is not None:
            self.findings.set(ObjectReference.of(service), None)
            self._touched[key] = None

    def remove_slice(self, key: ServiceKey) -> None:
        """One that was never there does nothing."""
        owner = self._owners.pop(key, None)
        if owner is None:
            return
        slices = self._slices[owner]
        del slices[key[1]]
        if not slices:
            del self._slices[owner]
        self._touched[owner] = None

    def take(self) -> dict[ServiceKey, ServiceRecords | None]:
        """What the Services that may differ ask for now; None: they are gone."""
        touched, self._touched = self._touched, {}
        return {key: self._compiled(key) for key in touched}

    def has(self, key: ServiceKey) -> bool:
        """Whether there is this Service."""
        return key in self._services

    def why(self, key: ServiceKey) -> list[str]:
        """What a Service that there is lacks, in words."""
        service = self._services[key]
        found = self.findings.get(ObjectReference.of(service)) or ()
        reasons = [finding.message for finding in found]
        records, _ = service_records(service, self._slices.get(key, {}).values(), self._zone)
        if not records.forward and not reasons:
            slices = self._slices.get(key, {}).values()
            endpoints = sum(len(item.endpoints or ()) for item in slices)
            is_headless = "None" in (service.spec.cluster_ip, *(service.spec.cluster_ips or ()))
            words = f"headless, and none of its {endpoints} endpoints is ready" if is_headless else "no ClusterIP"
            reasons.append(words)
        return reasons

    def reference(self, key: ServiceKey) -> ObjectReference:
        """The Service, with its uid while it is there."""
        service = self._services.get(key)
        return ObjectReference.of(service) if service is not None else ObjectReference("Service", *key)

    def _put_slice(self, item: EndpointSlice) -> None:
        key = (item.metadata.namespace, item.metadata.name)
        name = (item.metadata.labels or {}).get(SERVICE_NAME, "")
        owner = (item.metadata.namespace, name)
        if self._owners.get(key, owner) != owner or not name:
            self.remove_slice(key)
        if name:
            self._owners[key] = owner
            self._slices.setdefault(owner, {})[key[1]] = item
            self._touched[owner] = None

    def _compiled(self, key: ServiceKey) -> ServiceRecords | None:
        service = self._services.get(key)
        if service is None:
            return None
        records, left = service_records(service, self._slices.get(key, {}).values(), self._zone)
        reference = ObjectReference.of(service)
        found = bounded(
            sorted(Finding(reference.without_uid, one.reason, one.message, is_for_owner=True) for one in left)
        )
        self.findings.set(reference, found or None)
        return records
