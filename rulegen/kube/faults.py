"""A decoded object comes in; what is wrong with values that have the right type goes out, field by field. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from socket import AF_INET, inet_pton
from typing import NamedTuple

from rulegen.errors import shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import Endpoints, EndpointSlice, Service


class Fault(NamedTuple):
    """A field that cannot be used. `path` is as in `spec.ports[0].port`, "" for the whole object."""

    path: str
    message: str

    def __str__(self) -> str:
        """`path: message`."""
        return f"{self.path}: {self.message}" if self.path else self.message


def service_faults(service: Service) -> Iterator[Fault]:
    """Of its addresses."""
    spec = service.spec
    if spec.cluster_ip not in ("", "None") and canonical_address(spec.cluster_ip) is None:
        yield Fault("spec.clusterIP", _not_an_address(spec.cluster_ip))
    for index, address in enumerate(spec.cluster_ips or ()):
        if address != "None" and canonical_address(address) is None:
            yield Fault(f"spec.clusterIPs[{index}]", _not_an_address(address))


def slice_faults(item: EndpointSlice) -> Iterator[Fault]:
    """Of its addresses, which are of its family, and of the names of nodes."""
    if item.address_type == "FQDN" or _is_plain(item):
        return
    colon = item.address_type == "IPv6"
    for index, endpoint in enumerate(item.endpoints or ()):
        for nth, address in enumerate(endpoint.addresses):
            canonical = canonical_address(address)
            if canonical is None or (":" in canonical) is not colon:
                yield Fault(f"endpoints[{index}].addresses[{nth}]", _not_an_address(address, item.address_type))
        if endpoint.node_name == "":
            yield Fault(f"endpoints[{index}].nodeName", 'expected a name, got ""')


def _is_plain(item: EndpointSlice) -> bool:
    """Whether all endpoints have IPv4 addresses in canonical form, as nearly always; that is seen much faster."""
    try:
        for endpoint in item.endpoints or ():
            for address in endpoint.addresses:
                inet_pton(AF_INET, address)
            if endpoint.node_name == "":
                return False
    except (OSError, ValueError):
        return False
    return item.address_type == "IPv4"


def endpoints_faults(item: Endpoints) -> Iterator[Fault]:
    """Of its addresses."""
    for index, subset in enumerate(item.subsets or ()):
        for field, addresses in (("addresses", subset.addresses), ("notReadyAddresses", subset.not_ready_addresses)):
            for nth, address in enumerate(addresses or ()):
                if canonical_address(address.ip) is None:
                    yield Fault(f"subsets[{index}].{field}[{nth}].ip", _not_an_address(address.ip))


def _not_an_address(found: str, family: str = "IP") -> str:
    canonical = canonical_address(found) or ""
    mapped = ", which is IPv4-mapped" if ":" in found and "." in canonical else ""
    return f"expected an {family} address, got {shown(found)}{mapped}"
