"""Pods of this node come in, ServicePorts with a frontend of kind HOST_PORT go out: a second producer beside the store.

A host port is a service-port with one endpoint, on this node, and one frontend in each family. What Services claim
comes first (`Taken`); among pods a running one wins over a terminating one, then the older. The cost of a change is
that of the host ports of this node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from rulegen.config import Family, NodeConfiguration
from rulegen.errors import shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import ContainerPort, Pod
from rulegen.networks import family_of, is_loopback
from rulegen.reconcile.tracked import Tracked
from rulegen.reference import Finding, ObjectReference, bounded
from rulegen.services.model import (
    Backend,
    Frontend,
    FrontendKind,
    Reason,
    ServicePort,
    ServicePortKey,
    ServicePortName,
    TrafficPolicy,
    Verdict,
    found,
)
from rulegen.services.requested import seconds

POD = "Pod"
_PROTOCOLS = ("TCP", "UDP", "SCTP")
# Every address of the family; an empty hostIP is every address of both.
_UNSPECIFIED = {"0.0.0.0": Family.IPV4, "::": Family.IPV6}  # noqa: S104 - nothing listens there

# Who among the Services has a frontend: family, address ("" for a NodePort), port, protocol.
Taken: TypeAlias = Callable[[Family, str, int, str], ServicePortName | None]


class Claim(NamedTuple):
    """One host port of a pod in one family.

    `address`: the hostIP, "" for every address of the node. `created`: seconds since the epoch.
    """

    is_terminating: bool
    created: float
    namespace: str
    pod: str
    family: Family
    protocol: str
    address: str
    port: int
    backend: Backend

    @property
    def name(self) -> ServicePortName:
        """The service-port's."""
        port = f"{self.address}-{self.port}" if self.address else str(self.port)
        return ServicePortName(self.namespace, self.pod, port, self.protocol, POD)

    @property
    def rank(self) -> tuple[bool, float, str, str, str, str, str, int]:
        """Sorts before the claims that it beats."""
        return *self[:4], self.family.value, *self[5:8]

    @property
    def place(self) -> str:
        """What clients connect to, in words."""
        return f"host port {self.port}/{self.protocol}" + (f" on {self.address}" if self.address else "")

    def service_port(self) -> ServicePort:
        """What is compiled: outside clients keep their source, as with policy Local."""
        frontend = Frontend(FrontendKind.HOST_PORT, self.address, self.port, TrafficPolicy.LOCAL, Verdict.BALANCE)
        endpoints = (self.backend,)
        serving = endpoints if self.protocol == "UDP" else ()
        return ServicePort(self.name, self.family, (frontend,), endpoints, endpoints, serving=serving)


class _Asked(NamedTuple):
    """What a pod asks for: its claims, and what is wrong with it."""

    reference: ObjectReference
    claims: tuple[Claim, ...]
    findings: tuple[Finding, ...]


class HostPorts:
    """The host ports of one node's pods."""

    def __init__(self, configuration: NodeConfiguration) -> None:
        self._configuration = configuration
        self._pods: dict[tuple[str, str], _Asked] = {}
        self._service_ports: dict[ServicePortKey, ServicePort] = {}
        self._before: dict[ServicePortKey, ServicePort | None] = {}
        # Those that were told something.
        self._told: set[ObjectReference] = set()
        self._is_changed = False

    def put(self, pod: Pod) -> None:
        """A pod as it is now; one of another node, or that has no host ports to serve, is as if removed."""
        key = (pod.metadata.namespace, pod.metadata.name)
        asked = _read_pod(pod, self._configuration)
        if asked != self._pods.get(key):
            self._is_changed = True
            self._pods.pop(key, None)
            if asked is not None:
                self._pods[key] = asked

    def remove(self, namespace: str, name: str) -> None:
        """Removing an unknown pod does nothing."""
        self._is_changed |= self._pods.pop((namespace, name), None) is not None

    def compile(
        self, taken: Taken, findings: Tracked[ObjectReference, tuple[Finding, ...]], *, services_changed: bool
    ) -> None:
        """Decides whose each port is, and tells findings. `services_changed`: what Services claim may be another."""
        if not self._is_changed and not (services_changed and self._pods):
            return
        self._is_changed = False
        told = {asked.reference: list(asked.findings) for asked in self._pods.values()}
        owned: dict[ServicePortKey, ServicePort] = {}
        for claim, conflict in _resolved(self._pods.values(), taken):
            if conflict:
                reference = self._pods[claim.namespace, claim.pod].reference
                message = f"{claim.place}: {conflict.why}"
                told[reference].append(_found(reference, Reason.HOST_PORT_TAKEN, message))
            if conflict is None or conflict.is_partial:
                service_port = claim.service_port()
                owned[service_port.name, service_port.family] = service_port
        self._tell(told, findings)
        for key in self._service_ports.keys() | owned.keys():
            self._before.setdefault(key, self._service_ports.get(key))
        self._service_ports = owned

    def take(self) -> dict[ServicePortKey, ServicePort | None]:
        """The compiled ServicePorts that differ from what was taken last (None: gone), sorted."""
        changed = {
            key: self._service_ports.get(key)
            for key in sorted(self._before, key=lambda key: (key[0], key[1].value))
            if self._service_ports.get(key) != self._before[key]
        }
        self._before = {}
        return changed

    def service_ports(self) -> Mapping[ServicePortKey, ServicePort]:
        """All that were compiled."""
        return self._service_ports

    def _tell(
        self, told: Mapping[ObjectReference, list[Finding]], findings: Tracked[ObjectReference, tuple[Finding, ...]]
    ) -> None:
        now = {reference: said for reference, said in told.items() if said}
        for reference in self._told - now.keys():
            findings.set(reference, None)
        for reference, said in now.items():
            findings.set(reference, bounded(sorted(set(said))))
        self._told = set(now)


class _Conflict(NamedTuple):
    """Why a claim does not get its port, or (`is_partial`) not on every address."""

    why: str
    is_partial: bool = False


def _resolved(pods: Iterable[_Asked], taken: Taken) -> Iterator[tuple[Claim, _Conflict | None]]:
    """Every claim, the winners of each port first, with what stands in its way."""
    winners: dict[tuple[Family, str, int], dict[str, Claim]] = {}
    for claim in sorted((claim for asked in pods for claim in asked.claims), key=lambda claim: claim.rank):
        place = (claim.family, claim.protocol, claim.port)
        others = winners.setdefault(place, {})
        conflict = _conflict(claim, others, taken)
        yield claim, conflict
        if conflict is None or conflict.is_partial:
            others[claim.address] = claim


def _conflict(claim: Claim, others: Mapping[str, Claim], taken: Taken) -> _Conflict | None:
    node_port = taken(claim.family, "", claim.port, claim.protocol)
    if node_port is not None:
        return _Conflict(f"belongs to the NodePort of {node_port.title} (D21)")
    service = taken(claim.family, claim.address, claim.port, claim.protocol)
    if service is not None:
        return _Conflict(f"belongs to {service.title} (D21)")
    better = others.get(claim.address) or others.get("")
    if better is not None:
        return _Conflict(f"belongs to {better.name.title} (D21)")
    if not claim.address and others:
        addresses = ", ".join(sorted(others))
        return _Conflict(f"belongs to other pods on {addresses} (D21)", is_partial=True)
    return None


# ---- a pod to its claims ----


def _read_pod(pod: Pod, node: NodeConfiguration) -> _Asked | None:
    """None where there is nothing to serve and nothing to say."""
    if not _is_served(pod, node.node_name):
        return None
    metadata = pod.metadata
    reference = ObjectReference(POD, metadata.namespace, metadata.name, metadata.uid)
    findings: list[Finding] = []
    claims: dict[tuple[ServicePortName, Family], Claim] = {}
    repeated: Counter[str] = Counter()
    for port in _host_ports(pod):
        for claim in _claims(pod, port, node, reference, findings):
            if claims.setdefault((claim.name, claim.family), claim) != claim:
                repeated[claim.place] += 1
    findings += (
        _found(reference, Reason.HOST_PORT_TAKEN, f"{place}: listed more than once, the first one counts (D21)")
        for place in repeated
    )
    asked = _Asked(reference, tuple(claims.values()), bounded(findings))
    return asked if asked.claims or asked.findings else None


def _is_served(pod: Pod, node_name: str) -> bool:
    spec, status = pod.spec, pod.status
    return (
        spec is not None
        and status is not None
        and bool(node_name)
        and spec.node_name == node_name
        and not spec.host_network
        and status.phase == "Running"
    )


def asks_for_host_port(pod: Pod) -> bool:
    """Whether a pod has a container with a host port, on whatever node; one on the host network has that anyway."""
    return any(True for _ in _host_ports(pod)) and not (pod.spec is not None and pod.spec.host_network)


def _host_ports(pod: Pod) -> Iterator[ContainerPort]:
    if pod.spec is None:
        return
    sidecars = (each for each in pod.spec.init_containers or () if each.restart_policy == "Always")
    for container in (*(pod.spec.containers or ()), *sidecars):
        yield from (port for port in container.ports or () if port.host_port)


def _claims(
    pod: Pod, port: ContainerPort, node: NodeConfiguration, reference: ObjectReference, findings: list[Finding]
) -> Iterator[Claim]:
    where = f"hostPort {port.host_port}"
    if not 1 <= port.host_port <= 65535 or not 1 <= port.container_port <= 65535 or port.protocol not in _PROTOCOLS:
        message = (
            f"{where}: expected ports from 1 to 65535 and TCP, UDP or SCTP, "
            f"found containerPort {port.container_port}, protocol {shown(port.protocol)}; skipped (D21)"
        )
        findings.append(_found(reference, Reason.UNUSABLE_HOST_PORT, message))
        return
    host_ip = canonical_address(port.host_ip) if port.host_ip else ""
    if host_ip is None:
        message = f"{where}: hostIP {shown(port.host_ip)} is not an IP address; skipped (D21)"
        findings.append(_found(reference, Reason.UNUSABLE_HOST_PORT, message))
        return
    if host_ip and is_loopback(host_ip):
        message = f"{where}: hostIP {host_ip} is loopback, on which host ports are not accepted (D21)"
        findings.append(_found(reference, Reason.HOST_PORT_ON_LOOPBACK, message))
        return
    families = [_UNSPECIFIED.get(host_ip) or family_of(host_ip)] if host_ip else list(Family)
    address = "" if host_ip in _UNSPECIFIED else host_ip
    metadata = pod.metadata
    for pod_ip in _addresses(pod):
        family = family_of(pod_ip)
        if family in families and family in node.families:
            yield Claim(
                metadata.deletion_timestamp is not None,
                seconds(metadata.creation_timestamp),
                metadata.namespace,
                metadata.name,
                family,
                port.protocol,
                address,
                port.host_port,
                Backend(pod_ip, port.container_port, local=True),
            )


def _addresses(pod: Pod) -> Iterator[str]:
    """A pod's first usable address of each family."""
    status = pod.status
    if status is None:
        return
    texts = [each.ip for each in status.pod_ips or ()] or [status.pod_ip or ""]
    seen = set()
    for text in texts:
        address = canonical_address(text)
        if address is not None and not is_loopback(address) and family_of(address) not in seen:
            seen.add(family_of(address))
            yield address


def _found(reference: ObjectReference, reason: Reason, message: str) -> Finding:
    return found(reference._replace(uid=""), reason, message)
