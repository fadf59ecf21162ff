"""A Service's name comes in; its Frontends, endpoints, lists and entries go out, with the rules that made them so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rulegen.alike import alike
from rulegen.config import Family
from rulegen.errors import InputError, shown
from rulegen.kube.objects import Service
from rulegen.reference import ObjectReference
from rulegen.services.explain.model import (
    EndpointExplanation,
    FindingExplanation,
    FrontendExplanation,
    ListExplanation,
    PortExplanation,
    Ruleset,
    ServiceExplanation,
    SourceExplanation,
    View,
)
from rulegen.services.model import Frontend, FrontendKind, NodeSettings, ServicePort, ServicePortKey, ServicePortName
from rulegen.services.reasons import EndpointReasons, PortReasons
from rulegen.services.requested import why_skipped
from rulegen.services.simulate import Fate, Match, Origin, Treatment, treat


class ServiceName(NamedTuple):
    """Which Service, and which of its ports: by name or number, "" for all."""

    namespace: str
    name: str
    port: str

    def __str__(self) -> str:
        """`namespace/name`, without the port."""
        return f"{self.namespace}/{self.name}"


def parse_service_name(text: str) -> ServiceName:
    """`default/web` or `default/web:http`. Raises InputError."""
    namespace, slash, rest = text.partition("/")
    name, colon, port = rest.partition(":")
    if not (namespace and slash and name) or "/" in rest or bool(colon) is not bool(port):
        raise InputError(f"expected a Service as NAMESPACE/NAME or NAMESPACE/NAME:PORT, got {shown(text)}")
    return ServiceName(namespace, name, port)


def explain_service(view: View, wanted: ServiceName) -> ServiceExplanation:
    """Raises InputError for a Service or port that is not there, with those that have a similar name."""
    return ServiceExplainer(view).explain(wanted)


class ServiceExplainer:
    """Explains one Service after another, without looking through all others for each."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._service_ports = {
            (service_port.name, service_port.family): service_port for service_port in view.store.service_ports()
        }
        self._findings: dict[ObjectReference, list[FindingExplanation]] = {}
        for finding in view.store.findings():
            said = FindingExplanation(finding.subject, str(finding.reason), finding.message)
            self._findings.setdefault(finding.reference, []).append(said)

    def explain(self, wanted: ServiceName) -> ServiceExplanation:
        """Raises InputError as `explain_service` does."""
        view = self._view
        service = view.services.get((wanted.namespace, wanted.name))
        if service is None:
            raise InputError(f"no Service {wanted}{_similar(str(wanted), map('/'.join, view.services))}")
        numbers = _wanted_ports(service, wanted)
        found = [
            reasons
            for reasons in view.store.reasons(wanted.namespace, wanted.name)
            if (reasons.intent.name.port, reasons.intent.name.protocol) in numbers
        ]
        named = [_service_port_key(wanted, port, family) for port in numbers for family in view.configuration.families]
        return ServiceExplanation(
            str(wanted),
            service.spec.type,
            view.configuration.node_name,
            tuple(_facts(view, service, found)),
            tuple(self._findings_about(wanted, found)),
            tuple(_port(view, reasons, self._service_ports.get(_key(reasons))) for reasons in found),
            view.ruleset.service_ports_agree(named),
        )

    def _findings_about(self, wanted: ServiceName, found: list[PortReasons]) -> Iterator[FindingExplanation]:
        slices = {
            name for reasons in found for name in (*reasons.unjoined, *(item.slice for item in reasons.endpoints))
        }
        objects = {
            ObjectReference("Service", wanted.namespace, wanted.name),
            *(ObjectReference("EndpointSlice", wanted.namespace, name) for name in slices),
        }
        for reference in sorted(objects):
            yield from self._findings.get(reference, ())


def _key(reasons: PortReasons) -> ServicePortKey:
    return reasons.intent.name, reasons.intent.family


def _service_port_key(wanted: ServiceName, port: tuple[str, str], family: Family) -> ServicePortKey:
    return ServicePortName(wanted.namespace, wanted.name, *port), family


def _similar(name: str, names: Iterable[str]) -> str:
    """The end of a message: names that may have been meant."""
    candidates = sorted(names)
    _, _, last = name.partition("/")
    same_name = [candidate for candidate in candidates if candidate.endswith(f"/{last}")]
    close = list(dict.fromkeys([*same_name, *alike(name, candidates)]))[:3]
    return f"; there is {', '.join(close)}" if close else ""


def _wanted_ports(service: Service, wanted: ServiceName) -> list[tuple[str, str]]:
    """Name and protocol of the ports asked for."""
    ports = service.spec.ports or []
    found: list[tuple[str, str]] = [
        (port.name, port.protocol) for port in ports if wanted.port in ("", port.name, str(port.port))
    ]
    if wanted.port and not found:
        there = ", ".join(port.name or str(port.port) for port in ports) or "none"
        raise InputError(f"Service {wanted} has no port {shown(wanted.port)}; it has: {there}")
    return found


# ---- the Service ----


def _facts(view: View, service: Service, found: list[PortReasons]) -> Iterator[str]:
    """Why a Service has no frontends, wholly or in a family."""
    skipped = why_skipped(service)
    if skipped:
        yield f"no frontends: {skipped}"
        return
    if not service.spec.ports:
        yield "no frontends: it has no ports (SVC-9)"
        return
    there = {reasons.intent.family for reasons in found}
    listed = service.spec.ip_families or []
    for family in Family:
        if family in there:
            continue
        if family in view.configuration.families:
            yield f"no frontends for {family.value}: the Service has no ClusterIP of that family (SVC-5)"
        elif family.value in listed:
            yield f"no frontends for {family.value}: this node has no rules for that family"


# ---- one service-port ----


def _port(view: View, reasons: PortReasons, service_port: ServicePort | None) -> PortExplanation:
    name, family = _key(reasons)
    settings = view.store.node_settings(family)
    owned = {(frontend.kind, frontend.address): frontend for frontend in service_port.frontends} if service_port else {}
    frontends = tuple(
        _frontend(
            frontend, owner, None if service_port is None or settings is None else (service_port, owned, settings)
        )
        for frontend, owner in zip(reasons.intent.frontends, reasons.owners, strict=True)
    )
    return PortExplanation(
        str(name),
        family.value,
        name.protocol,
        frontends,
        service_port.affinity_timeout if service_port else None,
        tuple(_lists(view.ruleset, reasons)),
        tuple(_endpoint(item) for item in sorted(reasons.endpoints, key=_endpoint_order)),
        tuple(map(str, service_port.draining)) if service_port else (),
        (*_notes(reasons, settings), *(view.ruleset.notes(service_port) if service_port else ())),
        view.ruleset.service_port_entries((name, family)),
    )


def _endpoint_order(item: EndpointReasons) -> tuple[str, str]:
    return str(item.backend), item.slice


def _notes(reasons: PortReasons, settings: NodeSettings | None) -> Iterator[str]:
    for slice_ in reasons.unjoined:
        name, protocol = reasons.intent.name.port, reasons.intent.name.protocol
        yield f"EndpointSlice {slice_} has no port {shown(name)} with protocol {protocol} (SVC-18)"
    if settings is not None and settings.detector is None:
        yield "pods cannot be told from other sources: no pod detector (SVC-48)"


def _lists(ruleset: Ruleset, reasons: PortReasons) -> Iterator[ListExplanation]:
    in_cluster = [item.backend for item in reasons.endpoints if not item.cluster]
    in_local = [item.backend for item in reasons.endpoints if not item.local]
    for name, reason, backends in (("Cluster", reasons.cluster, in_cluster), ("Local", reasons.local, in_local)):
        yield ListExplanation(name, reason, *ruleset.weigh(sorted(backends, key=str)))


def _endpoint(item: EndpointReasons) -> EndpointExplanation:
    backend = item.backend
    return EndpointExplanation(
        str(backend), item.slice, item.target, item.node, backend.weight, item.cluster, item.local
    )


def _frontend(
    frontend: Frontend,
    owner: ServicePortName,
    owning: tuple[ServicePort, dict[tuple[FrontendKind, str], Frontend], NodeSettings] | None,
) -> FrontendExplanation:
    """`owning`: the ServicePort, the Frontends that it owns, and the node's part; None when it owns none."""
    verdict, belongs_to = "", str(owner)
    sources: tuple[SourceExplanation, ...] = ()
    if owning is not None:
        service_port, owned, settings = owning
        own = owned.get((frontend.kind, frontend.address))
        if own is not None:
            verdict, sources, belongs_to = own.verdict.value, tuple(_sources(Match(service_port, own), settings)), ""
    return FrontendExplanation(
        frontend.kind.value,
        frontend.address,
        frontend.port,
        frontend.policy.value,
        verdict,
        belongs_to,
        frontend.allowed_sources,
        sources,
    )


def _sources(match: Match, settings: NodeSettings) -> Iterator[SourceExplanation]:
    for origin in Origin:
        if origin is Origin.POD and settings.detector is None:
            continue
        treatment = treat(match, settings, origin)
        source = "outside, and pods" if origin is Origin.OUTSIDE and settings.detector is None else origin.value
        yield SourceExplanation(
            source,
            treatment.decision.fate.value,
            _which(treatment),
            treatment.masquerade,
            treatment.decision.reason,
        )


def _which(treatment: Treatment) -> str:
    if treatment.decision.fate is not Fate.BALANCED:
        return ""
    return "Local" if treatment.is_local else "Cluster"
