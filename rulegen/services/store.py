"""Objects come in one by one, changed ServicePorts go out. The only thing in `services` with a memory.

The cost of a change is that of the Service it concerns, and of those that share a Frontend with it; only what every
ServicePort depends on (the node's zone and addresses) recompiles all. Compiling waits until somebody asks for a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rulegen.config import Family, NodeConfiguration
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR
from rulegen.reconcile.tracked import Tracked
from rulegen.reference import Finding, ObjectReference, bounded
from rulegen.services.endpoints import JoinedSlices, SliceDigest, digest_slice
from rulegen.services.health_checks import HealthChecks, health_checks
from rulegen.services.host_ports import HostPorts
from rulegen.services.model import (
    Changes,
    HealthCheck,
    NodeSettings,
    Reason,
    ServiceKey,
    ServicePort,
    ServicePortKey,
    ServicePortName,
    found,
)
from rulegen.services.node import node_facts, node_findings, node_settings
from rulegen.services.ownership import Ownership
from rulegen.services.reasons import PortReasons, port_reasons
from rulegen.services.requested import PortIntent, ServiceIntent, read_service, service_reference
from rulegen.services.service_ports import OwnedPort, compile_port
from rulegen.services.weights import NO_WEIGHTS

# Of a Service, over all its ports and both families. What a slice lists counts once for each port that it has, so that
# a few slices of a megabyte could stand for millions.
MAX_ENDPOINTS = 200_000
# From here on a Service is large: what it costs to compile can be noticed by others.
_LARGE = 2000

_NO_SLICES = JoinedSlices(())


class Store:
    """The cluster as one node sees it."""

    def __init__(self, configuration: NodeConfiguration) -> None:
        self._configuration = configuration
        self._node: Node | None = None
        self._facts = node_facts(configuration, None)
        self._service_cidrs: dict[str, ServiceCIDR] = {}
        self._services: dict[ServiceKey, Service] = {}
        self._intents: dict[ServiceKey, ServiceIntent] = {}
        self._ownership = Ownership()
        self._slices: dict[tuple[str, str], SliceDigest] = {}
        self._slices_of: dict[ServiceKey, dict[str, SliceDigest]] = {}
        self._pending: set[ServiceKey] = set()
        self._service_ports: dict[ServiceKey, dict[ServicePortKey, ServicePort]] = {}
        # The Services that have thousands of entries, and about how many; for reading.
        self.large: dict[ServiceKey, int] = {}
        # What is told to whom, sorted: of a Service its own and those of its slices, of the Node also those of the
        # ServiceCIDRs. And the Services that have any: when one is gone nobody else knows its uid.
        self.findings_of: Tracked[ObjectReference, tuple[Finding, ...]] = Tracked()
        self._told: dict[ServiceKey, ObjectReference] = {}
        self._before: dict[ServicePortKey, ServicePort | None] = {}
        self._health_checks = HealthChecks()
        self._node_settings = node_settings(configuration, None, ())
        self._node_before: dict[Family, NodeSettings] = {}
        # The other producer of ServicePorts, where it is wanted; it is fed apart.
        self.host_ports: HostPorts | None = None
        self._find_node_findings()

    def set_objects(self, objects: Iterable[Service | EndpointSlice | Node | ServiceCIDR]) -> None:
        """Many objects as they are now, in any order."""
        for item in objects:
            self.set_object(item)

    def set_object(self, item: Service | EndpointSlice | Node | ServiceCIDR) -> None:
        """An object as it is now."""
        match item:
            case Service():
                self.set_service(item)
            case EndpointSlice():
                self.set_slice(item)
            case Node():
                self.set_node(item)
            case ServiceCIDR():
                self.set_service_cidr(item)

    def set_service(self, service: Service) -> None:
        """A Service as it is now; one that is not for this proxy any more is as if removed (SVC-1, SVC-4)."""
        key = (service.metadata.namespace, service.metadata.name)
        intent = self._read_service(service)
        if intent is None:
            self.remove_service(*key)
            return
        self._services[key] = service
        self._set_intent(key, intent)

    def remove_service(self, namespace: str, name: str) -> None:
        """Removing an unknown Service does nothing."""
        key = (namespace, name)
        if self._services.pop(key, None) is not None:
            self._set_intent(key, None)

    def set_slice(self, slice_: EndpointSlice) -> None:
        """A slice as it is now; under the Service that its label names now, and no other (D6)."""
        digest = digest_slice(slice_, self._configuration.node_name)
        name = (slice_.metadata.namespace, slice_.metadata.name)
        if digest == self._slices.get(name):
            return
        self.remove_slice(*name)
        if digest is not None:
            self._slices[name] = digest
            service = (digest.namespace, digest.service)
            self._slices_of.setdefault(service, {})[digest.name] = digest
            self._pending.add(service)

    def remove_slice(self, namespace: str, name: str) -> None:
        """Removing an unknown slice does nothing (SVC-24)."""
        digest = self._slices.pop((namespace, name), None)
        if digest is None:
            return
        service = (digest.namespace, digest.service)
        del self._slices_of[service][name]
        if not self._slices_of[service]:
            del self._slices_of[service]
        self._pending.add(service)

    def set_node(self, node: Node) -> None:
        """A Node as it is now; all but the own one are ignored, and its deletion is never told (SVC-3, SVC-35)."""
        if node.metadata.name != self._configuration.node_name:
            return
        self._node = node
        self._read_node()
        facts = node_facts(self._configuration, node)
        if facts == self._facts:
            return
        self._facts = facts
        for key, service in self._services.items():
            intent = self._read_service(service)
            if intent is not None:
                self._intents[key] = intent
        self._pending.update(self._services)

    def set_service_cidr(self, service_cidr: ServiceCIDR) -> None:
        """A ServiceCIDR as it is now; it counts at once (SVC-67, D4)."""
        self._service_cidrs[service_cidr.metadata.name] = service_cidr
        self._read_node()

    def remove_service_cidr(self, name: str) -> None:
        """Removing an unknown ServiceCIDR does nothing."""
        if self._service_cidrs.pop(name, None) is not None:
            self._read_node()

    def take_changes(self) -> Changes:
        """What differs from what was taken last, sorted by key; the first time, everything."""
        self._compile_pending()
        changed: dict[ServicePortKey, ServicePort | None] = {}
        for key, before in self._before.items():
            name = key[0]
            after = self._service_ports.get((name.namespace, name.name), {}).get(key)
            if after != before:
                changed[key] = after
        self._before = {}
        service_ports = {key: changed[key] for key in sorted(changed, key=_sort_key)}
        if self.host_ports is not None:
            service_ports |= self.host_ports.take()
        node = {
            family: settings
            for family, settings in self._node_settings.items()
            if settings != self._node_before.get(family)
        }
        self._node_before = self._node_settings
        return Changes(service_ports, node, self._health_checks.take())

    def service_ports(self) -> list[ServicePort]:
        """All ServicePorts, sorted by name and family."""
        self._compile_pending()
        merged = {
            key: service_port
            for service_ports in self._service_ports.values()
            for key, service_port in service_ports.items()
        }
        if self.host_ports is not None:
            merged |= self.host_ports.service_ports()
        return [merged[key] for key in sorted(merged, key=_sort_key)]

    def health_checks(self) -> list[HealthCheck]:
        """What load balancers may ask about Services, sorted."""
        self._compile_pending()
        return self._health_checks.current()

    def node_settings(self, family: Family) -> NodeSettings | None:
        """The node's part of a family; None for a family that is not configured."""
        return self._node_settings.get(family)

    def service(self, namespace: str, name: str) -> Service | None:
        """A Service as it is now; None for one that is not for this proxy, or not known."""
        return self._services.get((namespace, name))

    def reference(self, key: ServiceKey) -> ObjectReference:
        """A Service by its name, with its uid as long as it is known."""
        service = self._services.get(key)
        return service_reference(key)._replace(uid=service.metadata.uid if service else "")

    def claimant(self, family: Family, address: str, port: int, protocol: str) -> ServicePortName | None:
        """The service-port of a Service that a Frontend belongs to; `address`: "" for a NodePort."""
        return self._ownership.claimant((family, address, port, protocol))

    @property
    def node(self) -> Node | None:
        """The own Node, None while it is not known."""
        return self._node

    def findings(self) -> list[Finding]:
        """All that is legal but probably wrong, sorted."""
        self._compile_pending()
        findings = set[Finding]()
        findings.update(*(found for _, found in self.findings_of.items()))
        findings.update(*(digest.findings for digest in self._slices.values()))
        return sorted(findings)

    def reasons(self, namespace: str, name: str) -> list[PortReasons]:
        """Why the endpoints of a Service are in its lists or not, by port and family; nothing for an unknown one."""
        key = (namespace, name)
        intent = self._intents.get(key)
        if intent is None:
            return []
        slices = self._slices_by_name(key)
        return [
            port_reasons(
                port,
                tuple(self._ownership.owner(port, frontend) for frontend in port.frontends),
                [slice_ for slice_ in slices if slice_.family is port.family],
                intent.weights,
                self._facts,
            )
            for port in sorted(intent.ports, key=lambda port: _sort_key((port.name, port.family)))
        ]

    def _read_service(self, service: Service) -> ServiceIntent | None:
        before = self._intents.get((service.metadata.namespace, service.metadata.name))
        weights = before.weights if before else NO_WEIGHTS
        return read_service(service, self._configuration.families, self._facts.addresses, weights)

    def _read_node(self) -> None:
        self._node_settings = node_settings(self._configuration, self._node, self._service_cidrs.values())
        self._find_node_findings()

    def _find_node_findings(self) -> None:
        found = sorted(node_findings(self._configuration, self._node, self._service_cidrs.values()))
        self.findings_of.set(ObjectReference("Node", "", self._configuration.node_name), tuple(found) or None)

    def _set_intent(self, key: ServiceKey, intent: ServiceIntent | None) -> None:
        before = self._intents.pop(key, None)
        self._pending |= self._ownership.replace(before, intent)
        self._pending.add(key)
        if intent is not None:
            self._intents[key] = intent

    def _compile_pending(self) -> None:
        services_changed = bool(self._pending)
        # In the order in which all is gone through later: of a whole cluster, it lies in memory as it was made.
        for key in sorted(self._pending):
            self._compile(key)
        self._pending.clear()
        if self.host_ports is not None:
            self.host_ports.compile(self.claimant, self.findings_of, services_changed=services_changed)

    def _compile(self, key: ServiceKey) -> None:
        intent = self._intents.get(key)
        slices = self._slices_by_name(key) if intent is not None else []
        joined = {
            family: JoinedSlices([one for one in slices if one.family is family])
            for family in self._configuration.families
        }
        findings: list[Finding] = []
        for digest in slices:
            findings += digest.findings
        service_ports: dict[ServicePortKey, ServicePort] = {}
        if intent is not None:
            service_ports, found = self._compile_ports(intent, joined)
            findings += intent.findings
            if found:
                findings += bounded(found)
        before = self._service_ports.pop(key, {})
        for service_port_key in (*before, *service_ports):
            self._before.setdefault(service_port_key, before.get(service_port_key))
        if service_ports:
            self._service_ports[key] = service_ports
        size = _size(service_ports.values())
        if size >= _LARGE:
            self.large[key] = size
        elif self.large:
            self.large.pop(key, None)
        self._set_findings(key, findings)
        self._health_checks.replace(key, health_checks(intent, joined) if intent else {})

    def _compile_ports(
        self, intent: ServiceIntent, slices: Mapping[Family, JoinedSlices]
    ) -> tuple[dict[ServicePortKey, ServicePort], list[Finding]]:
        findings: list[Finding] = []
        service_ports: dict[ServicePortKey, ServicePort] = {}
        room = MAX_ENDPOINTS
        for port in intent.ports:
            owned = self._owned(intent.key, port, findings)
            if owned.frontends:
                listed = slices[port.family]
                room -= listed.count(port.name.port, port.name.protocol)
                if room < 0:
                    findings.append(_too_many_endpoints(intent.key, port))
                    listed = _NO_SLICES
                service_ports[port.name, port.family] = compile_port(intent, owned, listed, self._facts)
        return service_ports, findings

    def _slices_by_name(self, key: ServiceKey) -> list[SliceDigest]:
        """A Service's slices by name."""
        slices = self._slices_of.get(key, {})
        # Mostly there is one in each family.
        return [slices[name] for name in sorted(slices)] if len(slices) > 1 else list(slices.values())

    def _set_findings(self, key: ServiceKey, findings: list[Finding]) -> None:
        if not findings and key not in self._told:
            # As nearly always.
            return
        reference = self.reference(key)
        before = self._told.pop(key, reference)
        if before != reference or not findings:
            self.findings_of.set(before, None)
        if findings:
            self._told[key] = reference
            self.findings_of.set(reference, tuple(sorted(set(findings))))

    def _owned(self, key: ServiceKey, port: PortIntent, findings: list[Finding]) -> OwnedPort:
        owned = []
        for frontend in port.frontends:
            owner = self._ownership.owner(port, frontend)
            if owner is port.name or owner == port.name:
                owned.append(frontend)
                continue
            what = frontend.address or "NodePort"
            message = f"{frontend.kind.value} {what} port {frontend.port}/{port.name.protocol} belongs to {owner} (D2)"
            findings.append(found(service_reference(key), Reason.DUPLICATE_FRONTEND, message))
        return OwnedPort(port, tuple(owned))


def _too_many_endpoints(key: ServiceKey, port: PortIntent) -> Finding:
    name = port.name.port or port.name.protocol
    message = f"port {name}: no endpoint counts: with those of the other ports there are more than {MAX_ENDPOINTS}"
    return found(service_reference(key), Reason.TOO_MANY_ENDPOINTS, message)


def _size(service_ports: Iterable[ServicePort]) -> int:
    """About how many entries a Service has."""
    size = 0
    for service_port in service_ports:
        size += len(service_port.cluster_endpoints) + len(service_port.local_endpoints) + len(service_port.draining)
        for frontend in service_port.frontends:
            size += 1 + len(frontend.allowed_sources or ())
    return size


# That of their names; to ask for these takes longer.
_FAMILY_ORDER = {family: place for place, family in enumerate(Family)}


def _sort_key(key: ServicePortKey) -> tuple[tuple[str, ...], int]:
    return key[0], _FAMILY_ORDER[key[1]]
