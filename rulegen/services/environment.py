"""The environment variables by which a pod finds Services, as the kubelet sets them in a container that starts now.

In: Services as the API has them. Out: names and values, in an order that does not depend on theirs. The rules are those
of the kubelet (`getServiceEnvVarMap` and the package `envvars` of Kubernetes 1.36): Services of the pod's namespace,
and default/kubernetes where that namespace has none of this name; of each its clusterIP, the first one. Asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import NamedTuple

from rulegen.errors import shown
from rulegen.kube.objects import Service

_DEFAULT_NAMESPACE, _API_SERVER = "default", "kubernetes"
_HEADLESS = "None"


class Variable(NamedTuple):
    """`service`: whose it is, as in `shop/web`."""

    name: str
    value: str
    service: str


class Environment(NamedTuple):
    """`notes`: Services that might be expected among them and are not, and variables that two Services would set."""

    variables: list[Variable]
    notes: list[str]


def environment(services: Iterable[Service], namespace: str, *, links: bool = True) -> Environment:
    """Of a pod in `namespace`. `links`: the pod's enableServiceLinks; without them only the API server's remain.

    A name that two Services would set keeps the value of the later one by name; the kubelet takes either.
    """
    found: dict[str, Variable] = {}
    visible = list(_visible(services, namespace, links))
    notes = [f"{_name(service)}: {lacking}" for service in visible if (lacking := _lacking(service))]
    for service in _one_of_each_name(filter(_has_variables, visible), namespace):
        for name, value in _variables(service):
            if (other := found.pop(name, None)) is not None:
                notes.append(f"{name}: set by {other.service} and {_name(service)}; a pod may get the value of either")
            found[name] = Variable(name, value, _name(service))
    return Environment(list(found.values()), sorted(notes))


def _visible(services: Iterable[Service], namespace: str, links: bool) -> Iterator[Service]:
    for service in services:
        is_own = links and service.metadata.namespace == namespace
        if is_own or (service.metadata.namespace, service.metadata.name) == (_DEFAULT_NAMESPACE, _API_SERVER):
            yield service


def _one_of_each_name(services: Iterable[Service], namespace: str) -> list[Service]:
    """Sorted by name; the namespace's own before default/kubernetes."""
    by_name: dict[str, Service] = {}
    for service in services:
        if service.metadata.namespace == namespace or service.metadata.name not in by_name:
            by_name[service.metadata.name] = service
    return [by_name[name] for name in sorted(by_name)]


def _has_variables(service: Service) -> bool:
    return bool(service.spec.ports) and _is_address(service.spec.cluster_ip)


def _lacking(service: Service) -> str:
    """Why a Service has no variables though it looks as if it should; "" when it has, or is not meant to have."""
    spec = service.spec
    if spec.type == "ExternalName" or spec.cluster_ip == _HEADLESS or _has_variables(service):
        return ""
    if not spec.cluster_ip:
        return "has no clusterIP yet, so no variables"
    if not _is_address(spec.cluster_ip):
        return f"clusterIP: expected an IP address, found {shown(spec.cluster_ip)}; it gets no variables"
    return "has no ports, so no variables"


def _variables(service: Service) -> Iterator[tuple[str, str]]:
    """`WEB_SERVICE_HOST`, `WEB_SERVICE_PORT`, `WEB_SERVICE_PORT_HTTP`, `WEB_PORT`, `WEB_PORT_80_TCP`, ..."""
    prefix, address, ports = _upper(service.metadata.name), service.spec.cluster_ip, service.spec.ports or []
    yield f"{prefix}_SERVICE_HOST", address
    yield f"{prefix}_SERVICE_PORT", str(ports[0].port)
    for port in ports:
        if port.name:
            yield f"{prefix}_SERVICE_PORT_{_upper(port.name)}", str(port.port)
    host = f"[{address}]" if ":" in address else address
    yield f"{prefix}_PORT", f"{ports[0].protocol.lower()}://{host}:{ports[0].port}"
    for port in ports:
        protocol = port.protocol.lower()
        link = f"{prefix}_PORT_{port.port}_{port.protocol}"
        yield link, f"{protocol}://{host}:{port.port}"
        yield f"{link}_PROTO", protocol
        yield f"{link}_PORT", str(port.port)
        yield f"{link}_ADDR", address


def _upper(name: str) -> str:
    return name.replace("-", "_").upper()


def _name(service: Service) -> str:
    return f"{service.metadata.namespace}/{service.metadata.name}"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    # A zone, as in fe80::1%eth0, may hold anything.
    return "%" not in text
