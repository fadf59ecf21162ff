"""Legacy Endpoints come in; EndpointSlices with the same meaning go out, for Services that have none (D10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import (
    SERVICE_NAME,
    Endpoint,
    EndpointAddress,
    EndpointConditions,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
    NamespacedMetadata,
)

SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"


def slices_for_services_without(endpoints: Iterable[Endpoints], slices: Iterable[EndpointSlice]) -> list[EndpointSlice]:
    """The slices that `endpoints` stand for, but for Services that one of `slices` already belongs to.

    The label `endpointslice.kubernetes.io/skip-mirror`, when "true", keeps an object from being used.
    """
    served = {(item.metadata.namespace, (item.metadata.labels or {}).get(SERVICE_NAME)) for item in slices}
    return [
        converted
        for item in endpoints
        if (item.metadata.namespace, item.metadata.name) not in served
        and (item.metadata.labels or {}).get(SKIP_MIRROR) != "true"
        for converted in to_slices(item)
    ]


def to_slices(endpoints: Endpoints) -> Iterator[EndpointSlice]:
    """One slice for each subset and family that has an address."""
    for index, subset in enumerate(endpoints.subsets or ()):
        converted = list(_endpoints_of(subset))
        ports = subset.ports or ()
        for address_type in ("IPv4", "IPv6"):
            members = [item for item in converted if (":" in item.addresses[0]) is (address_type == "IPv6")]
            if members:
                yield EndpointSlice(
                    metadata=_metadata(endpoints.metadata, f"{index}-{address_type.lower()}"),
                    address_type=address_type,
                    endpoints=members,
                    ports=[EndpointPort(name=port.name, port=port.port, protocol=port.protocol) for port in ports],
                )


def _metadata(original: NamespacedMetadata, suffix: str) -> NamespacedMetadata:
    return NamespacedMetadata(
        name=f"{original.name}-endpoints-{suffix}",
        namespace=original.namespace,
        labels={**(original.labels or {}), SERVICE_NAME: original.name},
        annotations=original.annotations,
        creation_timestamp=original.creation_timestamp,
    )


def _endpoints_of(subset: EndpointSubset) -> Iterator[Endpoint]:
    for address in subset.addresses or ():
        yield _endpoint(address, ready=True)
    for address in subset.not_ready_addresses or ():
        yield _endpoint(address, ready=False)


def _endpoint(address: EndpointAddress, *, ready: bool) -> Endpoint:
    return Endpoint(
        # Canonical, as its text decides the family.
        addresses=[canonical_address(address.ip) or address.ip],
        conditions=EndpointConditions(ready=ready),
        node_name=address.node_name,
        target_ref=address.target_ref,
    )
