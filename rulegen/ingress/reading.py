"""An Ingress comes in as plain values; rules with decoded paths go out, or all that is wrong with it.

What is read here is what a tenant wrote: hosts are held to the API's grammar, and paths are compared as a server sees
them, decoded. What would never match, or could not be told apart, is a fault rather than a surprise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from rulegen.errors import shown
from rulegen.ingress.model import ANY_HOST, ROOT, PathKind
from rulegen.kube.faults import Fault

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_SERVICE = re.compile(_LABEL)
_SECRET = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MAX_HOST = 253
# nginx keeps the length of a location in one byte, and cuts what is longer: some are for what stands for the host.
_MAX_PATH = 242
_MAX_FAULTS = 10
_MAX_PORT = 65535
# What the API refuses in a path, and `?` and `#`, which no path of a request has.
_REFUSED = ("//", "/./", "/../", "%2f", "%2F", "?", "#")
_REFUSED_ENDS = ("/.", "/..")


class ServicePortRef(NamedTuple):
    """A Service's port, by its number or its name; `service` "": what is asked for is no Service."""

    service: str
    port: int | str

    def __str__(self) -> str:
        return f"{self.service}:{self.port}"


class ReadPath(NamedTuple):
    """See `model.Path`; `field`: where it was written."""

    kind: PathKind
    path: str
    backend: ServicePortRef
    field: str


class ReadRule(NamedTuple):
    """The paths of a host."""

    host: str
    paths: tuple[ReadPath, ...]


class ReadTls(NamedTuple):
    """A Secret, and the hosts that it is for; none: all that the Ingress names."""

    hosts: tuple[str, ...]
    secret: str
    field: str


@dataclass(frozen=True)
class ReadIngress:
    """A whole spec. `class_name`: None where none is named. What is asked for a host costs nothing of the others."""

    class_name: str | None
    default_backend: ServicePortRef | None
    rules: tuple[ReadRule, ...]
    tls: tuple[ReadTls, ...]

    @cached_property
    def hosts(self) -> frozenset[str]:
        """All hosts that it may serve."""
        own = {rule.host for rule in self.rules}
        if self.default_backend is not None:
            own |= {ANY_HOST, *(host for tls in self.tls for host in tls.hosts)}
        return frozenset(own)

    @property
    def backends(self) -> Iterator[tuple[Collection[str], str, ServicePortRef]]:
        """Each with the hosts that it is for, and the field that names it."""
        if self.default_backend is not None:
            yield self.hosts, "spec.defaultBackend", self.default_backend
        for rule in self.rules:
            for path in rule.paths:
                yield (rule.host,), path.field, path.backend

    def paths_for(self, host: str) -> Sequence[ReadPath]:
        """Of all its rules for the host."""
        return self._paths.get(host, ())

    def secret_for(self, host: str) -> ReadTls | None:
        """Which Secret has the certificate of a host: one that names it, or its wildcard, or no host at all."""
        names = (host, "*." + host.partition(".")[2]) if host else ()
        return next((self._tls[name] for name in names if name in self._tls), self._tls_of_all)

    @cached_property
    def _paths(self) -> Mapping[str, list[ReadPath]]:
        found: dict[str, list[ReadPath]] = {}
        for rule in self.rules:
            found.setdefault(rule.host, []).extend(rule.paths)
        return found

    @cached_property
    def _tls(self) -> Mapping[str, ReadTls]:
        # The first one that names a host.
        return {host: tls for tls in reversed(self.tls) for host in tls.hosts}

    @cached_property
    def _tls_of_all(self) -> ReadTls | None:
        return next((tls for tls in self.tls if not tls.hosts), None)


class Faults:
    """Collects what is wrong in one object."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def add(self, path: str, expected: str, value: object) -> None:
        """Notes one; a thousand are as good as ten."""
        if len(self.found) < _MAX_FAULTS:
            self.found.append(Fault(path, f"expected {expected}, got {'nothing' if value is None else shown(value)}"))

    def mapping(self, value: object, path: str) -> Mapping[str, Any]:
        """`value` where it is an object, nothing where it is absent."""
        if isinstance(value, Mapping):
            return value
        if value is not None:
            self.add(path, "an object", value)
        return {}

    def items(self, value: object, path: str) -> Iterator[tuple[str, Any]]:
        """The items of an array with their fields; none where it is absent."""
        if isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield f"{path}[{index}]", item
        elif value is not None:
            self.add(path, "an array", value)


def read_ingress(spec: object) -> tuple[ReadIngress, list[Fault]]:
    """With faults, nothing of it is to be used."""
    faults = Faults()
    fields = faults.mapping(spec, "spec")
    class_name = fields.get("ingressClassName")
    if class_name is not None and not (isinstance(class_name, str) and _SECRET.fullmatch(class_name)):
        faults.add("spec.ingressClassName", "a name", class_name)
        class_name = None
    default = fields.get("defaultBackend")
    read = ReadIngress(
        class_name,
        None if default is None else _backend(default, "spec.defaultBackend", faults),
        tuple(_rule(item, path, faults) for path, item in faults.items(fields.get("rules"), "spec.rules")),
        tuple(_tls(item, path, faults) for path, item in faults.items(fields.get("tls"), "spec.tls")),
    )
    if read.default_backend is None and not read.rules:
        faults.add("spec", "rules or a defaultBackend", None)
    return read, faults.found


def _rule(value: object, field: str, faults: Faults) -> ReadRule:
    fields = faults.mapping(value, field)
    host = _host(fields.get("host"), f"{field}.host", faults)
    http = faults.mapping(fields.get("http"), f"{field}.http")
    place = f"{field}.http.paths"
    return ReadRule(host, tuple(_path(item, path, faults) for path, item in faults.items(http.get("paths"), place)))


def _host(value: object, field: str, faults: Faults) -> str:
    if value is None or value == "":
        return ANY_HOST
    if isinstance(value, str) and len(value) <= _MAX_HOST and _HOST.fullmatch(value):
        if re.fullmatch(r"[0-9.]+", value):
            faults.add(field, "a name and no IP address", value)
        return value
    faults.add(field, "a host name in lower case, or *. and one", value)
    return ANY_HOST


def _path(value: object, field: str, faults: Faults) -> ReadPath:
    fields = faults.mapping(value, field)
    written, kind = fields.get("path"), fields.get("pathType")
    if kind not in ("Exact", "Prefix", "ImplementationSpecific"):
        faults.add(f"{field}.pathType", "Exact, Prefix or ImplementationSpecific", kind)
    if not written and kind == "ImplementationSpecific":
        written = ROOT
    path = _decoded(written, f"{field}.path", faults)
    path_kind = PathKind.EXACT if kind == "Exact" else PathKind.PREFIX
    if path_kind is PathKind.PREFIX and path != ROOT:
        path = path.removesuffix("/")
    return ReadPath(path_kind, path, _backend(fields.get("backend"), f"{field}.backend", faults), field)


def _decoded(value: object, field: str, faults: Faults) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        faults.add(field, "a path that begins with /", value)
        return ROOT
    refused = next((text for text in _REFUSED if text in value), "")
    refused = refused or next((text for text in _REFUSED_ENDS if value.endswith(text)), "")
    if refused:
        faults.add(field, f"a path without {refused}", value)
    elif _PERCENT.search(value):
        faults.add(field, "two hexadecimal digits after each %", value)
    else:
        return _as_text(value, field, faults)
    return ROOT


def _as_text(value: str, field: str, faults: Faults) -> str:
    """A path of which only the encoding is left to be looked at."""
    try:
        content = unquote_to_bytes(value.encode())
        path = content.decode()
    except UnicodeError:
        faults.add(field, "a path in UTF-8", value)
        return ROOT
    elements = path.split("/")
    if any(char < " " or char == "\x7f" for char in path):
        faults.add(field, "a path without control characters", value)
    elif len(content) > _MAX_PATH:
        faults.add(field, f"a path of at most {_MAX_PATH} bytes", value)
    elif "." in elements or ".." in elements or "//" in path:
        # As `/%2e/`: a request's is resolved before it is compared.
        faults.add(field, "a path without . and .. as elements", value)
    else:
        return path
    return ROOT


def _backend(value: object, field: str, faults: Faults) -> ServicePortRef:
    fields = faults.mapping(value, field)
    if "service" not in fields and fields.get("resource") is not None:
        return ServicePortRef("", 0)
    service = faults.mapping(fields.get("service"), f"{field}.service")
    name = service.get("name")
    if not isinstance(name, str) or not _SERVICE.fullmatch(name):
        faults.add(f"{field}.service.name", "a Service's name", name)
        name = ""
    port = faults.mapping(service.get("port"), f"{field}.service.port")
    number, port_name = port.get("number"), port.get("name")
    # Zero and "" are what the API has for nothing.
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= _MAX_PORT and not port_name:
        return ServicePortRef(name, number)
    if isinstance(port_name, str) and _PORT_NAME.fullmatch(port_name) and not number:
        return ServicePortRef(name, port_name)
    faults.add(f"{field}.service.port", "a number from 1 to 65535 or a name", number or port_name or None)
    return ServicePortRef(name, 0)


def _tls(value: object, field: str, faults: Faults) -> ReadTls:
    fields = faults.mapping(value, field)
    hosts = tuple(_host(item, path, faults) for path, item in faults.items(fields.get("hosts"), f"{field}.hosts"))
    secret = fields.get("secretName")
    if secret is not None and secret != "" and not (isinstance(secret, str) and _SECRET.fullmatch(secret)):
        faults.add(f"{field}.secretName", "a Secret's name", secret)
        secret = None
    return ReadTls(hosts, secret or "", field)
