"""A Service comes in, what it asks for goes out: for each service-port and family, Frontends and the lists they use.

Nothing here looks at endpoints or at other Services: Frontends say BALANCE until `service_ports` knows better, and may
turn out to belong to somebody else (`ownership`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from math import inf
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from rulegen.config import Cidr, Family
from rulegen.errors import shown
from rulegen.kube import objects
from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import Service, ServiceSpec
from rulegen.networks import (
    Network,
    collapse,
    contains,
    family_of,
    host_cidr,
    parse_network,
    split_networks,
)
from rulegen.reference import Finding, ObjectReference, bounded
from rulegen.services.model import (
    SERVICE,
    Frontend,
    FrontendKind,
    Reason,
    ServiceKey,
    ServicePortName,
    TrafficPolicy,
    Verdict,
    found,
)
from rulegen.services.weights import NO_WEIGHTS, SERVICE_ANNOTATION, ServiceWeights, parse_service_weights

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
DEFAULT_AFFINITY_TIMEOUT = 10800

Report: TypeAlias = Callable[[Reason, str], None]

# What a Service may list. An address is an entry for each port, a range one for each port and VIP, so that without
# bounds one object of a few hundred kilobytes could ask for millions of entries.
MAX_ADDRESSES = 1000
MAX_EXTERNAL_ENTRIES = 20_000
MAX_RANGES = 5000
MAX_RANGE_ENTRIES = 20_000

# No packet comes from there: what cannot be checked must not be open.
_NOBODY: dict[Family, Cidr] = {Family.IPV4: "0.0.0.0/32", Family.IPV6: "::/128"}

_KIND_ORDER = {kind: order for order, kind in enumerate(FrontendKind)}


class PortIntent(Struct, frozen=True, gc=False):
    """What one service-port asks for in one family. `frontends` are sorted and have different addresses."""

    name: ServicePortName
    family: Family
    frontends: tuple[Frontend, ...]
    uses_cluster: bool
    uses_local: bool


class ServiceIntent(Struct, frozen=True, gc=False):
    """What a Service asks for. `created`: seconds since the epoch, infinite when unknown. Else as in `ServicePort`."""

    key: ServiceKey
    created: float
    ports: tuple[PortIntent, ...]
    affinity_timeout: int | None
    health_check_port: int
    weights: ServiceWeights
    findings: tuple[Finding, ...]


class _FamilyAddresses(NamedTuple):
    cluster_ip: str
    external_ips: tuple[str, ...] = ()
    vips: tuple[str, ...] = ()
    allowed_sources: tuple[Cidr, ...] | None = None


def service_reference(key: ServiceKey) -> ObjectReference:
    """How findings name a Service."""
    return ObjectReference(SERVICE, *key)


def read_service(
    service: Service,
    families: Iterable[Family],
    node_addresses: Mapping[Family, str],
    weights_before: ServiceWeights = NO_WEIGHTS,
) -> ServiceIntent | None:
    """What a Service asks for in the families; None when it is not for this proxy or has no ClusterIP (SVC-1, SVC-4).

    `node_addresses`: this node's address in each family (SVC-53), which opens a VIP's own ranges (SVC-52).
    `weights_before`: the Service's weights until now, which are parsed anew only when the annotation is another.
    """
    if why_skipped(service):
        return None
    metadata, spec = service.metadata, service.spec
    key = (metadata.namespace, metadata.name)
    reference = service_reference(key)
    findings: list[Finding] = []

    def report(reason: Reason, message: str) -> None:
        findings.append(found(reference, reason, message))

    addresses = _addresses(service, families, node_addresses, report)
    ports = _ports(spec.ports or (), report)
    return ServiceIntent(
        key,
        seconds(metadata.creation_timestamp),
        tuple([_port_intent(key, port, family, addresses[family], spec) for family in addresses for port in ports]),
        _affinity_timeout(spec),
        _health_check_port(spec),
        _weights(metadata.annotations, weights_before, report),
        bounded(findings) if findings else (),
    )


def why_skipped(service: Service) -> str:
    """Why a Service is not for this proxy or has nothing to reach it by (SVC-1, SVC-4); "" when it is and has."""
    if PROXY_NAME_LABEL in (service.metadata.labels or ()):
        return f"the label {PROXY_NAME_LABEL} gives it to another proxy (SVC-1)"
    if service.spec.type == "ExternalName":
        return "type ExternalName: a name in the DNS and nothing else (SVC-4)"
    if service.spec.cluster_ip == "None":
        return "headless, spec.clusterIP is None: its clients go to its endpoints directly (SVC-4)"
    return "" if service.spec.cluster_ip else "no ClusterIP yet: spec.clusterIP is empty (SVC-4)"


def _port_intent(
    key: ServiceKey, port: objects.ServicePort, family: Family, addresses: _FamilyAddresses, spec: ServiceSpec
) -> PortIntent:
    internal = TrafficPolicy.LOCAL if spec.internal_traffic_policy == "Local" else TrafficPolicy.CLUSTER
    external = _external_policy(spec)
    accessible = bool(port.node_port or addresses.vips or addresses.external_ips)
    return PortIntent(
        ServicePortName(key[0], key[1], port.name, port.protocol),
        family,
        _frontends(port, addresses, internal, external),
        # SVC-16.
        uses_cluster=internal is TrafficPolicy.CLUSTER or accessible,
        uses_local=internal is TrafficPolicy.LOCAL or (external is TrafficPolicy.LOCAL and accessible),
    )


def _health_check_port(spec: ServiceSpec) -> int:
    """SVC-77; 0 for most Services."""
    is_asked = spec.type == "LoadBalancer" and spec.external_traffic_policy == "Local"
    return (spec.health_check_node_port or 0) if is_asked else 0


def _external_policy(spec: ServiceSpec) -> TrafficPolicy:
    """SVC-15: Local only where it is effective."""
    effective = spec.type != "ClusterIP" or bool(spec.external_ips)
    local = effective and spec.external_traffic_policy == "Local"
    return TrafficPolicy.LOCAL if local else TrafficPolicy.CLUSTER


def _frontends(
    port: objects.ServicePort, addresses: _FamilyAddresses, internal: TrafficPolicy, external: TrafficPolicy
) -> tuple[Frontend, ...]:
    """SVC-9.

    An address listed as more than one kind is one Frontend: ClusterIP, else VIP (and so with its source ranges), else
    externalIP.
    """
    number = port.port
    cluster_ip = Frontend(FrontendKind.CLUSTER_IP, addresses.cluster_ip, number, internal, Verdict.BALANCE)
    if not (addresses.external_ips or addresses.vips or port.node_port):
        return (cluster_ip,)
    by_address: dict[str, Frontend] = {}
    for address in addresses.external_ips:
        by_address[address] = Frontend(FrontendKind.EXTERNAL_IP, address, number, external, Verdict.BALANCE)
    for address in addresses.vips:
        by_address[address] = Frontend(
            FrontendKind.LOAD_BALANCER, address, number, external, Verdict.BALANCE, addresses.allowed_sources
        )
    by_address[cluster_ip.address] = cluster_ip
    if port.node_port:
        by_address[""] = Frontend(FrontendKind.NODE_PORT, "", port.node_port, external, Verdict.BALANCE)
    return tuple(sorted(by_address.values(), key=lambda frontend: (_KIND_ORDER[frontend.kind], frontend.address)))


def _addresses(
    service: Service, families: Iterable[Family], node_addresses: Mapping[Family, str], report: Report
) -> dict[Family, _FamilyAddresses]:
    spec = service.spec
    cluster_ips = {family: address for family in families if (address := _cluster_ip(spec, family, report))}
    external_ips = _canonical(spec.external_ips or (), "spec.externalIPs", report)
    vips = _canonical(_vip_texts(service), "status.loadBalancer.ingress", report)
    entries = (len(external_ips) + len(vips)) * len(spec.ports or ())
    if entries > MAX_EXTERNAL_ENTRIES:
        message = f"more than {MAX_EXTERNAL_ENTRIES} external addresses times ports ({entries}): none of them counts"
        report(Reason.UNUSABLE_ADDRESS, message)
        external_ips, vips = [], []
    if not external_ips and not vips:
        return {family: _FamilyAddresses(address) for family, address in cluster_ips.items()}
    for address in external_ips + vips:
        family = family_of(address)
        if family in families and family not in cluster_ips:
            report(Reason.UNUSED_ADDRESS, f"{address} is unused: the Service has no {family.value} ClusterIP (SVC-5)")
    ranges = _source_ranges(spec, report)
    return {
        family: _guarded(
            _FamilyAddresses(
                cluster_ip,
                tuple(address for address in external_ips if family_of(address) is family),
                tuple(address for address in vips if family_of(address) is family),
            ),
            None if ranges is None else ranges[family],
            node_addresses[family],
            len(spec.ports or ()),
            report,
        )
        for family, cluster_ip in cluster_ips.items()
    }


def _guarded(
    addresses: _FamilyAddresses, ranges: list[Network] | None, node_address: str, port_count: int, report: Report
) -> _FamilyAddresses:
    """The addresses of a family with the sources that its VIPs let in."""
    vips = addresses.vips
    if not vips or ranges is None:
        return addresses
    family = family_of(addresses.cluster_ip)
    if not ranges:
        open_vips = ", ".join(vips)
        message = f"loadBalancerSourceRanges has no {family.value} range: {open_vips} open to all (SVC-13, D8)"
        report(Reason.OPEN_FAMILY, message)
        return addresses
    allowed = _allowed_sources(ranges, vips, node_address)
    entries = len(allowed or ()) * len(vips) * port_count
    if entries > MAX_RANGE_ENTRIES:
        report(Reason.UNUSABLE_RANGE, _too_many_ranges(f"{entries}, for {len(vips)} VIPs and {port_count} ports"))
        allowed = (_NOBODY[family],)
    return addresses._replace(allowed_sources=allowed)


def _too_many_ranges(found: str) -> str:
    return (
        f"loadBalancerSourceRanges: expected at most {MAX_RANGES} ranges and {MAX_RANGE_ENTRIES} entries, "
        f"found {found}: nobody is let in (SVC-51)"
    )


def _allowed_sources(ranges: list[Network], vips: tuple[str, ...], node_address: str) -> tuple[Cidr, ...] | None:
    """SVC-13 and SVC-52, for at least one range."""
    if any(network.prefixlen == 0 for network in ranges):
        return None
    own = [network for vip in vips if (network := parse_network(host_cidr(vip)))]
    return collapse(ranges + own if contains(ranges, node_address) else ranges)


def _cluster_ip(spec: ServiceSpec, family: Family, report: Report) -> str | None:
    """SVC-5. What a manifest leaves out, the API server sets: `clusterIPs`, and then `ipFamilies`."""
    cluster_ips = spec.cluster_ips or (spec.cluster_ip,)
    if spec.ip_families:
        index = spec.ip_families.index(family.value) if family.value in spec.ip_families else len(cluster_ips)
        text = cluster_ips[index] if index < len(cluster_ips) else ""
    else:
        text = next((text for text in cluster_ips if _is_of(text, family)), cluster_ips[0])
    if text in ("", "None"):
        return None
    address = canonical_address(text)
    if address is not None and family_of(address) is family:
        return address
    if address is None or spec.ip_families:
        report(Reason.UNUSABLE_ADDRESS, f"ClusterIP {shown(text)} is not an {family.value} address; skipped (SVC-5)")
    return None


def _is_of(text: str, family: Family) -> bool:
    address = canonical_address(text)
    return address is not None and family_of(address) is family


def _vip_texts(service: Service) -> list[str]:
    """SVC-10."""
    if service.status is None or service.status.load_balancer is None:
        return []
    ingresses = service.status.load_balancer.ingress or ()
    return [ingress.ip for ingress in ingresses if ingress.ip_mode in (None, "VIP")]


def _canonical(texts: Sequence[str], field: str, report: Report) -> list[str]:
    """The different addresses among the texts; blank ones are skipped in silence (SVC-12)."""
    if not texts:
        return []
    addresses: dict[str, None] = {}
    if len(texts) > MAX_ADDRESSES:
        report(Reason.UNUSABLE_ADDRESS, f"{field}: only the first {MAX_ADDRESSES} of {len(texts)} addresses count")
    for text in texts[:MAX_ADDRESSES]:
        address = canonical_address(text.strip())
        if address is not None:
            addresses[address] = None
        elif text.strip():
            report(Reason.UNUSABLE_ADDRESS, f"{field}: {shown(text)} is not an IP address; skipped (SVC-12)")
    return list(addresses)


def _source_ranges(spec: ServiceSpec, report: Report) -> dict[Family, list[Network]] | None:
    """The ranges of each family; None when the Service lists none (SVC-13)."""
    texts = [text for text in spec.load_balancer_source_ranges or () if text.strip()]
    if not texts:
        return None
    if len(texts) > MAX_RANGES:
        report(Reason.UNUSABLE_RANGE, _too_many_ranges(str(len(texts))))
        texts = list(_NOBODY.values())
    networks: list[Network] = []
    for text in texts:
        network = parse_network(text)
        if network is None:
            report(Reason.UNUSABLE_RANGE, f"loadBalancerSourceRanges: {shown(text)} is not a CIDR; skipped (SVC-12)")
        else:
            networks.append(network)
    return split_networks(networks)


def _ports(ports: Sequence[objects.ServicePort], report: Report) -> list[objects.ServicePort]:
    """The ports by name and protocol; the API server allows no duplicates, and of such the last one counts."""
    by_name = {(port.name, port.protocol): port for port in ports}
    if len(by_name) < len(ports):
        report(
            Reason.DUPLICATE_PORT, "spec.ports: several ports with one name and protocol; the last one counts (SVC-18)"
        )
    return list(by_name.values())


def _affinity_timeout(spec: ServiceSpec) -> int | None:
    """SVC-55, SVC-56."""
    if spec.session_affinity != "ClientIP":
        return None
    client_ip = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
    return (client_ip.timeout_seconds if client_ip else None) or DEFAULT_AFFINITY_TIMEOUT


def _weights(annotations: Mapping[str, str] | None, before: ServiceWeights, report: Report) -> ServiceWeights:
    try:
        return parse_service_weights(annotations, before)
    except ValueError as error:
        report(Reason.MALFORMED_WEIGHT, f"annotation {SERVICE_ANNOTATION}: {error}; ignored as a whole (D9)")
        return NO_WEIGHTS


def seconds(timestamp: str | None) -> float:
    """A creationTimestamp since the epoch.

    An object without a usable one has not been stored by an API server yet, so it is the newest.
    """
    try:
        moment = datetime.fromisoformat(timestamp or "")
    except ValueError:
        return inf
    # Without an offset it is not RFC 3339, and would mean something else on every host.
    return moment.timestamp() if moment.tzinfo else inf
