"""All objects and what they were compiled to come in; what is legal but probably wrong goes out, as Findings.

The store's own Findings are passed on. What is added here needs a look at several objects, or is no fault of a single
change, so the agent does not look for it. Never touches the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from rulegen.errors import shown
from rulegen.kube.mistakes import Notice
from rulegen.kube.objects import SERVICE_NAME, EndpointSlice, Service
from rulegen.networks import contains, parse_network
from rulegen.reference import Finding, ObjectReference
from rulegen.services.model import Frontend, FrontendKind, Reason, TrafficPolicy, found
from rulegen.services.on_nftables.slots import MAX_SLOTS, TOLERANCE, rounding_error, slot_counts
from rulegen.services.reasons import PortReasons
from rulegen.services.requested import service_reference
from rulegen.services.store import Store
from rulegen.services.weights import SERVICE_ANNOTATION, SLICE_ANNOTATIONS, parse_service_weights

_OWN_ANNOTATIONS = "rulegen.io/"


class LintInput(NamedTuple):
    """What is looked at. `findings`: what was found already, by whatever feature.

    `unselected`: Services that other proxies serve (SVC-1); their slices are not without one. `notices`: what was found
    in the objects before anybody asked what they mean.
    """

    store: Store
    findings: Sequence[Finding]
    services: Sequence[Service]
    unselected: Sequence[Service]
    slices: Sequence[EndpointSlice]
    notices: Sequence[Notice] = ()


class _Checked(NamedTuple):
    """A Service with what the store says about it; `reasons` is empty for one without frontends."""

    service: Service
    slices: Sequence[EndpointSlice]
    reasons: Sequence[PortReasons]

    @property
    def reference(self) -> ObjectReference:
        return service_reference((self.service.metadata.namespace, self.service.metadata.name))


# What a check yields about its Service.
_Found: TypeAlias = Iterator[tuple[Reason, str]]


def lint(given: LintInput) -> list[Finding]:
    """All findings, sorted, each once."""
    findings = set(noticed(given.findings, given.notices))
    by_service = _slices_by_service(given.slices)
    for service in given.services:
        key = (service.metadata.namespace, service.metadata.name)
        checked = _Checked(service, by_service.get(key, ()), given.store.reasons(*key))
        for check in _CHECKS:
            findings.update(found(checked.reference, reason, message) for reason, message in check(checked))
        findings.update(_outside_service_cidrs(given, checked))
    findings.update(_slices(given, by_service))
    return _in_order(findings)


def noticed(findings: Iterable[Finding], notices: Iterable[Notice]) -> list[Finding]:
    """What features have found, and what the objects themselves show; sorted, each once."""
    of_objects = {Finding(ObjectReference(one.subject, "", ""), Reason(one.mistake), one.message) for one in notices}
    return _in_order({*findings, *of_objects})


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (finding.subject, finding.reason, finding.message))


def _slices_by_service(slices: Sequence[EndpointSlice]) -> Mapping[tuple[str, str], list[EndpointSlice]]:
    found: dict[tuple[str, str], list[EndpointSlice]] = {}
    for slice_ in slices:
        name = (slice_.metadata.labels or {}).get(SERVICE_NAME)
        if name:
            found.setdefault((slice_.metadata.namespace, name), []).append(slice_)
    return found


# ---- the Service alone ----


def _unknown_annotations(checked: _Checked) -> _Found:
    yield from _annotations(checked.service.metadata.annotations, SERVICE_ANNOTATION)


def _annotations(annotations: Mapping[str, str] | None, known: str) -> _Found:
    for name in annotations or ():
        if name.startswith(_OWN_ANNOTATIONS) and name != known:
            yield Reason.UNKNOWN_ANNOTATION, f"annotation {shown(name)} is not read here; {known} is (D9)"


def _ignored_affinity(checked: _Checked) -> _Found:
    spec = checked.service.spec
    configured = spec.session_affinity_config and spec.session_affinity_config.client_ip
    if configured and spec.session_affinity != "ClientIP":
        message = "sessionAffinityConfig.clientIP has no effect: sessionAffinity is not ClientIP (SVC-55)"
        yield Reason.IGNORED_AFFINITY_TIMEOUT, message


def _ignored_ranges(checked: _Checked) -> _Found:
    spec = checked.service.spec
    if spec.load_balancer_source_ranges and spec.type != "LoadBalancer":
        message = f"loadBalancerSourceRanges guard load-balancer VIPs only, and the type is {spec.type} (SVC-50)"
        yield Reason.IGNORED_RANGES, message


def _ignored_policy(checked: _Checked) -> _Found:
    spec = checked.service.spec
    if spec.external_traffic_policy == "Local" and spec.type == "ClusterIP" and not spec.external_ips:
        message = "externalTrafficPolicy Local has no effect: type ClusterIP without externalIPs (SVC-15)"
        yield Reason.IGNORED_POLICY, message


def _no_health_check(checked: _Checked) -> _Found:
    spec = checked.service.spec
    local = spec.type == "LoadBalancer" and spec.external_traffic_policy == "Local"
    if checked.reasons and local and not spec.health_check_node_port:
        message = "externalTrafficPolicy Local without a healthCheckNodePort: no load balancer can tell nodes apart"
        yield Reason.NO_HEALTH_CHECK, f"{message} (SVC-77)"


# ---- the Service and its slices ----


def _unmatched_ports(checked: _Checked) -> _Found:
    """Ports that no slice with endpoints has; a Service without any endpoint has slices without ports."""
    for reasons in checked.reasons:
        family = reasons.intent.family
        filled = {
            slice_.metadata.name
            for slice_ in checked.slices
            if slice_.address_type == family.value and slice_.endpoints
        }
        if filled and filled.issubset(reasons.unjoined):
            message = f"{_port(reasons)} is in none of its slices, by name and protocol"
            yield Reason.UNMATCHED_PORT, f"{message}: nobody answers there (SVC-18, SVC-36)"


def _no_endpoints(checked: _Checked) -> _Found:
    """Only what load balancers and people outside send to: many a Service is scaled down to nothing for a while."""
    for reasons in checked.reasons:
        external = [frontend for frontend in reasons.intent.frontends if frontend.kind is not FrontendKind.CLUSTER_IP]
        if external and all(item.cluster for item in reasons.endpoints):
            yield Reason.NO_ENDPOINTS, f"{_port(reasons)} has {_where(external)} and no usable endpoint (SVC-36)"


def _all_weights_zero(checked: _Checked) -> _Found:
    for reasons in checked.reasons:
        if reasons.endpoints and not any(item.backend.weight for item in reasons.endpoints):
            yield Reason.ALL_WEIGHTS_ZERO, f"{_port(reasons)}: every endpoint has weight 0, so all is rejected (D9)"


def _no_local_endpoints(checked: _Checked) -> _Found:
    for reasons in checked.reasons:
        local = [frontend for frontend in reasons.intent.frontends if frontend.policy is TrafficPolicy.LOCAL]
        if local and reasons.endpoints and not any(item.node for item in reasons.endpoints):
            message = f"{_port(reasons)} has policy Local for {_where(local)}, and no endpoint has a nodeName"
            yield Reason.NO_LOCAL_ENDPOINTS, f"{message}: dropped on every node (SVC-20, SVC-37)"


def _partial_hints(checked: _Checked) -> _Found:
    for reasons in checked.reasons:
        if 0 < reasons.hinted < reasons.ready:
            message = f"{_port(reasons)}: {reasons.hinted} of {reasons.ready} ready endpoints have topology hints"
            yield Reason.PARTIAL_HINTS, f"{message}, so none counts (SVC-33)"


def _rounded_weights(checked: _Checked) -> _Found:
    for reasons in checked.reasons:
        for name, excluded in (("Cluster", "cluster"), ("Local", "local")):
            weights = [item.backend.weight for item in reasons.endpoints if not getattr(item, excluded)]
            error = rounding_error(weights, slot_counts(weights))
            if error > TOLERANCE:
                message = f"{_port(reasons)}, {name} list: probabilities are up to {error:.1%} off what the weights ask"
                yield Reason.ROUNDED_WEIGHTS, f"{message}; a list has at most {MAX_SLOTS} slots (D9)"


def _unmatched_weights(checked: _Checked) -> _Found:
    endpoints = [item for reasons in checked.reasons for item in reasons.endpoints]
    names = {name for item in endpoints for name in (item.target, item.node, item.backend.address)}
    if not endpoints:
        return
    try:
        rules = parse_service_weights(checked.service.metadata.annotations)
    except ValueError:  # a finding of the weights' own
        return
    matched = {rule for name in names for rule in rules.matching(name)}
    for rule in rules.rules:
        if rule not in matched:
            message = f"annotation {SERVICE_ANNOTATION}: {shown(rule.glob)} matches no endpoint's pod, node or address"
            yield Reason.UNMATCHED_WEIGHT, f"{message} (D9)"


def _port(reasons: PortReasons) -> str:
    name = reasons.intent.name
    port = f"port {name.port}/{name.protocol}" if name.port else f"the {name.protocol} port"
    return f"{port} ({reasons.intent.family.value})"


def _where(frontends: Sequence[Frontend]) -> str:
    return ", ".join(f"{frontend.kind.value} {frontend.address or frontend.port}" for frontend in frontends)


_CHECKS = (
    _unknown_annotations,
    _ignored_affinity,
    _ignored_ranges,
    _ignored_policy,
    _no_health_check,
    _unmatched_ports,
    _no_endpoints,
    _all_weights_zero,
    _no_local_endpoints,
    _partial_hints,
    _rounded_weights,
    _unmatched_weights,
)


# ---- what concerns more than a Service ----


def _outside_service_cidrs(given: LintInput, checked: _Checked) -> Iterator[Finding]:
    for reasons in checked.reasons:
        settings = given.store.node_settings(reasons.intent.family)
        networks = [
            network for cidr in (settings.service_cidrs if settings else ()) if (network := parse_network(cidr))
        ]
        for frontend in reasons.intent.frontends:
            inside = frontend.kind is not FrontendKind.CLUSTER_IP or contains(networks, frontend.address)
            if networks and not inside:
                message = f"ClusterIP {frontend.address} is in none of the ServiceCIDRs (SVC-67)"
                yield found(checked.reference, Reason.OUTSIDE_SERVICE_CIDRS, message)


def _slices(given: LintInput, by_service: Mapping[tuple[str, str], Sequence[EndpointSlice]]) -> Iterator[Finding]:
    services = {(item.metadata.namespace, item.metadata.name): item for item in (*given.services, *given.unselected)}
    for slice_ in given.slices:
        reference = ObjectReference("EndpointSlice", slice_.metadata.namespace, slice_.metadata.name)
        for reason, message in _annotations(slice_.metadata.annotations, SLICE_ANNOTATIONS[0]):
            yield found(reference, reason, message)
    for key, slices in by_service.items():
        service = services.get(key)
        for slice_ in slices:
            reference = ObjectReference("EndpointSlice", slice_.metadata.namespace, slice_.metadata.name)
            if service is None:
                message = f"there is no {service_reference(key)}, which its label {SERVICE_NAME} names (SVC-18)"
                yield found(reference, Reason.MISSING_SERVICE, message)
            elif slice_.endpoints and not _joins(service, slice_):
                message = f"none of its ports has the name and protocol of one of {service_reference(key)} (SVC-18)"
                yield found(reference, Reason.UNMATCHED_SLICE_PORT, message)


def _joins(service: Service, slice_: EndpointSlice) -> bool:
    ports = {(port.name, port.protocol) for port in service.spec.ports or ()}
    return any((port.name, port.protocol) in ports for port in slice_.ports or ())
