"""A Service and its slices come in; the records that the DNS specification 1.1.0 wants of them go out. Pure.

Section numbers are those of the specification. Names and addresses of objects are not trusted: what does not keep to
the grammar of the API, or has no place in DNS, is left out with a finding. Records are text, see `dns.record_sets`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import nsmallest
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias

from rulegen.errors import shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.named_objects import Endpoint, EndpointSlice, Service

VERSION = "1.1.0"

# RFC 1035, 2.3.4: a label, and a name as text without the dot at its end.
_LONGEST_LABEL = 63
_LONGEST_NAME = 253
# A message holds 65,535 bytes (RFC 1035, 4.2.2); what is beside the records fits into the rest.
_LARGEST_SET = 60_000
# Of a record: the owner as a pointer, type, class, TTL, length.
_RECORD_HEADER = 12
# Names of one address. Any Service may name any address: what a server refuses would be refused to all that name it,
# and BIND refuses more than this.
_MOST_POINTERS = 100
_PRIORITY_AND_WEIGHT = "0 100"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_TYPES = {True: "AAAA", False: "A"}

# By owner (absolute) and type, what there is. Of an address: the names that it leads to.
Forward: TypeAlias = dict[tuple[str, str], tuple[str, ...]]
Reverse: TypeAlias = dict[str, tuple[str, ...]]


class ServiceRecords(NamedTuple):
    """What a Service asks for. `forward`: in its zone; `reverse`: by canonical address, absolute names."""

    forward: Forward
    reverse: Reverse


class Left(NamedTuple):
    """Something that has no record, and why: for a finding."""

    reason: str
    message: str


Leave: TypeAlias = Callable[[str, str], None]


def version_records(zone: str) -> Forward:
    """2.2: the version of the schema."""
    return {(f"dns-version.{zone}", "TXT"): (f'"{VERSION}"',)}


def first_names(names: Collection[str]) -> tuple[str, ...]:
    """As many as an address may lead to: a Service's own name before those of endpoints, each the first in order."""
    if len(names) <= _MOST_POINTERS:
        return tuple(sorted(names))
    return tuple(sorted(nsmallest(_MOST_POINTERS, names, key=lambda name: (name.count("."), name))))


def service_records(service: Service, slices: Iterable[EndpointSlice], zone: str) -> tuple[ServiceRecords, list[Left]]:
    """2.3 to 2.5. `zone`: absolute. `slices`: those of this Service, in any order."""
    records = _Records(f"{service.metadata.name}.{service.metadata.namespace}.svc.{zone}")
    spec = service.spec
    if spec.type == "ExternalName":
        _add_external_name(records, spec.external_name)
    elif addresses := _cluster_ips(service):
        _add_cluster_ips(records, service, addresses)
    elif "None" in (spec.cluster_ip, *(spec.cluster_ips or ())):
        _add_endpoints(records, slices, is_unready_too=bool(spec.publish_not_ready_addresses))
    return records.finish(), records.left


def _cluster_ips(service: Service) -> list[str]:
    spec = service.spec
    # clusterIPs is newer, and has the other field as its first; manifests may have one of them.
    found = [canonical_address(text) for text in spec.cluster_ips or [spec.cluster_ip]]
    return [address for address in found if address is not None]


class _Records:
    """Collects the records of one Service; `name`: its own, absolute."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._forward: dict[tuple[str, str], set[str]] = {}
        self._reverse: dict[str, set[str]] = {}
        self._left: dict[Left, None] = {}

    @property
    def left(self) -> list[Left]:
        return list(self._left)

    def leave(self, reason: str, message: str) -> None:
        self._left[Left(reason, message)] = None

    def add(self, owner: str, kind: str, data: str) -> None:
        if self._fits(owner):
            self._forward.setdefault((owner, kind), set()).add(data)

    def add_address(self, owner: str, address: str) -> None:
        self.add(owner, _TYPES[":" in address], address)

    def add_pointer(self, address: str, owner: str) -> None:
        if self._fits(owner):
            self._reverse.setdefault(address, set()).add(owner)

    def _fits(self, owner: str) -> bool:
        if len(owner) - 1 > _LONGEST_NAME or len(owner.partition(".")[0]) > _LONGEST_LABEL:
            self.leave("NameTooLong", f"no record {shown(owner)}: a name has at most 253 characters, a label 63")
            return False
        return True

    def finish(self) -> ServiceRecords:
        forward = {key: self._bounded(key, sorted(data)) for key, data in sorted(self._forward.items())}
        return ServiceRecords(forward, {address: self._pointers(address) for address in self._reverse})

    def _pointers(self, address: str) -> tuple[str, ...]:
        names = self._reverse[address]
        found = first_names(names)
        if len(found) < len(names):
            self.leave("TooManyRecords", f"{address} leads to {len(found)} of {len(names)} names: it may have no more")
        return found

    def _bounded(self, key: tuple[str, str], data: list[str]) -> tuple[str, ...]:
        """As many as fit into one answer, the first in order: more no server could give."""
        largest = max(_size(key[1], text) for text in data)
        most = _LARGEST_SET // largest
        if len(data) > most:
            self.leave(
                "TooManyRecords",
                f"{shown(key[0])} has {most} of {len(data)} {key[1]} records: no more fit into an answer",
            )
        return tuple(data[:most])


def _size(kind: str, text: str) -> int:
    """About so many bytes in a message, names written out."""
    return _RECORD_HEADER + {"A": 4, "AAAA": 16}.get(kind, len(text) + 2)


# -- 2.5 --


def _add_external_name(records: _Records, name: str) -> None:
    target = name.removesuffix(".")
    if canonical_address(target) is not None:
        records.leave("ExternalNameIsAddress", f"externalName {shown(name)} is an address, which no CNAME can lead to")
    elif len(target) > _LONGEST_NAME or not all(map(_LABEL.fullmatch, target.split("."))):
        records.leave("BadExternalName", f"externalName: expected a DNS name in lower case, got {shown(name)}")
    elif f"{target}." == records.name:
        records.leave("BadExternalName", "externalName leads to the Service itself")
    else:
        records.add(records.name, "CNAME", f"{target}.")


# -- 2.3 --


def _add_cluster_ips(records: _Records, service: Service, addresses: Iterable[str]) -> None:
    for address in addresses:
        records.add_address(records.name, address)
        records.add_pointer(address, records.name)
    for port in service.spec.ports or ():
        if port.name:
            _add_service(records, port.name, port.protocol, f"{port.port} {records.name}")


def _add_service(records: _Records, port: str, protocol: str, target: str) -> None:
    """Adds `_http._tcp.web.shop.svc.cluster.local. SRV 0 100 80 web.shop.svc.cluster.local.`."""
    records.add(f"_{port}._{protocol.lower()}.{records.name}", "SRV", f"{_PRIORITY_AND_WEIGHT} {target}")


# -- 2.4 --


def _add_endpoints(records: _Records, slices: Iterable[EndpointSlice], *, is_unready_too: bool) -> None:
    for item in slices:
        if item.address_type == "FQDN":
            continue
        ports = [port for port in item.ports or () if port.name and port.port]
        for endpoint in item.endpoints or ():
            if is_unready_too or endpoint.conditions is None or endpoint.conditions.ready is not False:
                for host, address in _hosts(endpoint, records.leave):
                    owner = f"{host}.{records.name}"
                    records.add_address(records.name, address)
                    records.add_address(owner, address)
                    records.add_pointer(address, owner)
                    for port in ports:
                        _add_service(records, port.name or "", port.protocol, f"{port.port} {owner}")


def _hosts(endpoint: Endpoint, leave: Leave) -> Iterator[tuple[str, str]]:
    """The hostname of 2.1 for each address of an endpoint."""
    hostname = endpoint.hostname or ""
    if hostname and not _LABEL.fullmatch(hostname):
        leave("BadHostname", f"hostname of an endpoint: expected a DNS label, got {shown(hostname)}")
        hostname = ""
    for text in endpoint.addresses:
        address = canonical_address(text)
        if address is not None:
            yield hostname or assigned_hostname(address), address


def assigned_hostname(address: str) -> str:
    """The hostname of an endpoint that has none: `10-244-1-5`, `fd00-0-0-0-0-0-0-5`.

    IPv6 addresses are written without `::`, so that a label neither begins nor ends with a hyphen.
    """
    if ":" not in address:
        return address.replace(".", "-")
    return "-".join(f"{int(group, 16):x}" for group in ip_address(address).exploded.split(":"))
