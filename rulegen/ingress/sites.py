"""The Ingresses of one host, the oldest first, come in; what is served there and their conflicts go out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from rulegen.errors import printable
from rulegen.ingress.model import ROOT, Backend, Path, PathKind, Site
from rulegen.ingress.reading import ReadIngress, ReadTls, ServicePortRef
from rulegen.kube.objects import CERTIFICATE_TYPE, Service
from rulegen.nginx.configuration import Pem
from rulegen.reference import Finding, ObjectReference

# A namespace and a name.
ObjectName: TypeAlias = tuple[str, str]


class Reason(StrEnum):
    """Stable words for what is found."""

    UNUSABLE = "UnusableIngress"
    NO_CLASS = "NoIngressClass"
    NO_BACKEND = "NoBackend"
    NO_CERTIFICATE = "NoCertificate"
    CONFLICT = "IngressConflict"


class ServicePorts(NamedTuple):
    """What is read of a Service. `address`: its first ClusterIP, "" for none; of `ports` the TCP ones, by name."""

    address: str
    ports: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, item: Service) -> ServicePorts:
        """An ExternalName has no address, whatever its clusterIP says."""
        spec = item.spec
        address = next(iter(spec.cluster_ips or [spec.cluster_ip]), "") if spec.type != "ExternalName" else ""
        ports = tuple((port.name, port.port) for port in spec.ports or () if port.protocol == "TCP")
        return cls("" if address == "None" else address, ports)

    def number(self, port: int | str) -> int:
        """0: it has no such port."""
        return next((number for name, number in self.ports if port in (number, name) and port != ""), 0)


class Owned(NamedTuple):
    """An Ingress and whose it is."""

    name: ObjectName
    read: ReadIngress

    @property
    def title(self) -> str:
        return "/".join(self.name)

    @property
    def reference(self) -> ObjectReference:
        return ObjectReference("Ingress", *self.name)

    def finding(self, reason: Reason, message: str) -> Finding:
        """One that its owner is told."""
        return Finding(self.reference, reason, message, is_for_owner=True)


class About(NamedTuple):
    """A finding, and the hosts that it is about."""

    hosts: Collection[str]
    finding: Finding


class Resolved(NamedTuple):
    """What Ingresses may name. Of a certificate that cannot be used, why."""

    services: Mapping[ObjectName, ServicePorts]
    certificates: Mapping[ObjectName, Pem | str]

    def backend(self, namespace: str, wanted: ServicePortRef) -> tuple[Backend, str]:
        """Where it leads, and why nowhere ("": it leads somewhere)."""
        if not wanted.service:
            return Backend("a resource"), "a backend that is no Service is not supported"
        title = f"{namespace}/{wanted}"
        service = self.services.get((namespace, wanted.service))
        if service is None or not service.address:
            return Backend(title), f"there is no Service {namespace}/{wanted.service} with a ClusterIP"
        number = service.number(wanted.port)
        if not number:
            return Backend(title), f"the Service {namespace}/{wanted.service} has no TCP port {wanted.port}"
        return Backend(title, service.address, number), ""

    def certificate(self, namespace: str, tls: ReadTls) -> tuple[Pem | None, str]:
        """The certificate, and why there is none."""
        if not tls.secret:
            return None, "no secretName: there is no certificate"
        found = self.certificates.get((namespace, tls.secret))
        if isinstance(found, Pem):
            return found, ""
        title = f"Secret {namespace}/{tls.secret}"
        return None, f"{title} {found}" if found else f"there is no {title} of type {CERTIFICATE_TYPE}"

    def findings(self, owned: Owned) -> Iterator[About]:
        """What an Ingress names and is not there."""
        namespace = owned.name[0]
        for hosts, field, wanted in owned.read.backends:
            problem = self.backend(namespace, wanted)[1]
            if problem:
                yield About(hosts, owned.finding(Reason.NO_BACKEND, f"{field}: {problem}: the answer is 503"))
        for tls in owned.read.tls:
            problem = self.certificate(namespace, tls)[1]
            if problem:
                found = owned.finding(Reason.NO_CERTIFICATE, f"{tls.field}: {problem}")
                yield About(tls.hosts or owned.read.hosts, found)


class MadeSite(NamedTuple):
    """`site`: None where nobody asks for anything. `conflicts`: by Ingress, of those that do not get their way."""

    site: Site | None
    conflicts: dict[ObjectName, tuple[Finding, ...]]


class _Making:
    """One host being put together."""

    def __init__(self, host: str, resolved: Resolved) -> None:
        self._host = host
        self._resolved = resolved
        self.paths: dict[tuple[PathKind, str], Path] = {}
        self.certificate: Pem | None = None
        self.secret = ""
        self.conflicts: dict[ObjectName, list[Finding]] = {}

    def add_rules(self, owned: Owned) -> None:
        """The paths that it has for the host."""
        for path in owned.read.paths_for(self._host):
            made = Path(path.kind, path.path, self._backend(owned, path.backend), owned.title)
            self._add(owned, path.field, made)

    def add_default(self, owned: Owned) -> None:
        """Its `defaultBackend`, for what no rule matches of whoever's."""
        wanted = owned.read.default_backend
        if wanted is not None:
            place = self.paths.get((PathKind.PREFIX, ROOT))
            if place is None or place.is_default:
                made = Path(PathKind.PREFIX, ROOT, self._backend(owned, wanted), owned.title, is_default=True)
                self._add(owned, "spec.defaultBackend", made)

    def add_certificate(self, owned: Owned) -> None:
        """That which it names for the host, unless an older one has."""
        tls = owned.read.secret_for(self._host)
        found = self._resolved.certificate(owned.name[0], tls)[0] if tls is not None else None
        if tls is None or found is None:
            return
        if self.certificate is None:
            self.certificate, self.secret = found, f"{owned.name[0]}/{tls.secret}"
        elif self.certificate != found:
            self._note(owned, f"{tls.field}: {self._words} has the certificate of {self.secret} already")

    def _add(self, owned: Owned, field: str, path: Path) -> None:
        there = self.paths.setdefault((path.kind, path.path), path)
        if there != path:
            words = f"{path.kind.value} {printable(path.path)}" if not path.is_default else "the default"
            self._note(owned, f"{field}: {words} of {self._words} is Ingress {there.ingress}'s already")

    def _note(self, owned: Owned, message: str) -> None:
        self.conflicts.setdefault(owned.name, []).append(owned.finding(Reason.CONFLICT, message))

    def _backend(self, owned: Owned, wanted: ServicePortRef) -> Backend:
        return self._resolved.backend(owned.name[0], wanted)[0]

    @property
    def _words(self) -> str:
        return f"host {self._host}" if self._host else "all other hosts"


def site_of(host: str, ingresses: Sequence[Owned], resolved: Resolved) -> MadeSite:
    """`ingresses`: those that name the host, the oldest first."""
    making = _Making(host, resolved)
    for add in (making.add_rules, making.add_default, making.add_certificate):
        for owned in ingresses:
            add(owned)
    paths = tuple(sorted(making.paths.values(), key=lambda path: (path.path, path.kind.value)))
    site = Site(host, paths, making.certificate, making.secret) if ingresses else None
    return MadeSite(site, {name: tuple(found) for name, found in making.conflicts.items()})
