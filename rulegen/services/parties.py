"""What `--from` and `--to` say comes in; addresses, ports and protocols go out, and what was named. Pure.

Who has a name is known to the `Directory`. Whether a packet gets there is nobody's word in this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rulegen.config import Family
from rulegen.errors import InputError, shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import Node, Service
from rulegen.networks import family_of, port_number
from rulegen.services.names import (
    PROTOCOLS,
    Directory,
    KnownPod,
    NamedPort,
    bounded,
    cluster_ips,
    ports_of,
    service_name,
)
from rulegen.services.node import host_addresses

THIS_NODE = "node"
_ICMP = "ICMP"
_FORMS = "expected ADDRESS:PORT/tcp, udp or sctp, or ADDRESS/icmp"

T = TypeVar("T")


class Source(NamedTuple):
    """Where packets come from. `addresses`: at most one of each family; `is_node`: this node, with whichever it has."""

    addresses: Mapping[Family, str]
    is_node: bool = False
    pod: KnownPod | None = None


class Target(NamedTuple):
    """Where packets go: `addresses`, at most one of each family, none for a Service without any of its own.

    `port`: 0 for ICMP. `is_node`: this node, at whichever address it has. `service` and `pod`: what was named, None for
    an address.
    """

    addresses: Mapping[Family, str]
    port: int
    protocol: str
    is_node: bool = False
    service: Service | None = None
    pod: KnownPod | None = None


class _Parts(NamedTuple):
    """A destination taken apart: `port` and `protocol` are "" where it says none."""

    host: str
    port: str
    protocol: str


def source(directory: Directory, text: str) -> Source:
    """What `--from` says. Raises InputError."""
    if text == THIS_NODE:
        return Source({}, is_node=True)
    address = canonical_address(_unbracketed(text))
    if address is not None:
        return Source({family_of(address): address})
    pod = _only(text, [(f"pod/{found}", found) for found in directory.pods_named(text)], "--from: ")
    if pod is not None:
        return Source(_by_family(_addresses(pod, "--from")), pod=pod)
    node = directory.node_named(text)
    if node is not None:
        return Source(_node_addresses(node, "--from"))
    keys = list(directory.service_keys(text))
    if keys:
        raise InputError(f"--from: {'/'.join(keys[0])} is a Service, which sends nothing{directory.pods_of(keys[0])}")
    near = directory.pods_alike(text)
    message = f"--from: expected an IP address or {THIS_NODE}, got {shown(text)}, and no pod has this name"
    raise InputError(f"{message}{near}")


def target(directory: Directory, text: str) -> Target:
    """What `--to` says. Raises InputError."""
    whole = directory.candidates(text)
    parts = _Parts(text, "", "") if whole else _split(text)
    if _looks_like_an_address(parts.host):
        return _address(directory, text, parts)
    if parts.host == THIS_NODE:
        return Target({}, *_number_and_protocol(parts, text, ()), is_node=True)
    candidates = whole or directory.candidates(parts.host)
    node = directory.node_named(parts.host)
    if node is not None and not candidates:
        ports = list(directory.ports_at(node.metadata.name))
        return Target(_node_addresses(node, "--to"), *_number_and_protocol(parts, text, ports))
    found = _only(parts.host, candidates, "--to: ")
    if isinstance(found, Service):
        return _service_target(found, parts)
    if found is not None:
        number, protocol = _number_and_protocol(parts, text, found.ports, f"pod {found}")
        return Target(_by_family(_addresses(found, "--to")), number, protocol, pod=found)
    raise InputError(f"--to: {_FORMS}, or a name, got {shown(text)}: {directory.unknown(parts.host)}")


# ---- addresses ----


def _address(directory: Directory, text: str, parts: _Parts) -> Target:
    """The port and the protocol of an address; where it says no protocol, the one that a Service has there."""
    address = canonical_address(_unbracketed(parts.host))
    is_bracketed = parts.host.startswith("[")
    if address is None or (is_bracketed and ":" not in parts.host):
        raise InputError(
            f"--to: expected an IP address, in brackets if it is IPv6, got {shown(_unbracketed(parts.host))}"
        )
    ports = list(directory.ports_at(address))
    if not parts.port and parts.protocol != _ICMP:
        is_known = any(
            address in known
            for known in (directory.services_by_address, directory.pods_by_address, directory.nodes_by_address)
        )
        has = f"; there is {bounded(ports)}" if ports and is_known else ""
        form = "; an IPv6 address with a port is [ADDRESS]:PORT" if ":" in address and not is_bracketed else ""
        raise InputError(f"--to: {_FORMS}, got {shown(text)}{form}{has}")
    if parts.port and (parts.protocol == _ICMP or not parts.port.isdecimal()):
        raise InputError(f"--to: {_FORMS}, got {shown(text)}")
    return Target({family_of(address): address}, *_number_and_protocol(parts, text, ports))


# ---- texts ----


def _split(text: str) -> _Parts:
    """`HOST[:PORT][/PROTOCOL]`, in which names have slashes, and IPv6 addresses colons."""
    host, slash, protocol = text.rpartition("/")
    if not slash or protocol.upper() not in (*PROTOCOLS, _ICMP):
        host, protocol = text, ""
    if canonical_address(host) is not None or (host.startswith("[") and host.endswith("]")):
        return _Parts(host, "", protocol.upper())
    name, colon, port = host.rpartition(":")
    # More colons than one: an address without brackets, and so without a port.
    if not colon or (":" in name and not name.endswith("]")):
        return _Parts(host, "", protocol.upper())
    if not port:
        raise InputError(f"--to: expected a port behind the colon, got {shown(text)}")
    return _Parts(name, port, protocol.upper())


def _unbracketed(text: str) -> str:
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def _looks_like_an_address(host: str) -> bool:
    return ":" in host or host.startswith("[") or bool(re.fullmatch(r"[\d.]*\.[\d.]*(?:/.*)?", host, re.ASCII))


def _only(text: str, found: Sequence[tuple[str, T]], option: str = "") -> T | None:
    if len(found) > 1:
        raise InputError(f"{option}{shown(text)} may be {bounded([name for name, _ in found], ' or ')}")
    return found[0][1] if found else None


# ---- ports ----


def _service_target(service: Service, parts: _Parts) -> Target:
    """The port of a Service: by name or number, or its only one."""
    name, spec, ports = service_name(service), service.spec, ports_of(service)
    if spec.type == "ExternalName" or spec.cluster_ip in ("", "None"):
        # Nothing is sent there, so that it needs no port.
        if not ports and not parts.port:
            return Target({}, 0, parts.protocol or PROTOCOLS[0], service=service)
        return Target({}, *_number_and_protocol(parts, name, ports, f"Service {name}"), service=service)
    number, protocol = _number_and_protocol(parts, name, ports, f"Service {name}")
    return Target(_by_family(cluster_ips(service)), number, protocol, service=service)


def _number_and_protocol(parts: _Parts, text: str, ports: Sequence[NamedPort], whose: str = "") -> tuple[int, str]:
    """The number, 0 for ICMP, and the protocol: what is written, else what `ports` have, else TCP."""
    if parts.protocol == _ICMP:
        if parts.port:
            raise InputError(f"--to: ICMP has no ports, got {shown(parts.port)}")
        return 0, _ICMP
    if not parts.port:
        return _only_port(parts, text, ports, whose)
    if parts.port.isascii() and parts.port.isdecimal():
        number = port_number(parts.port)
        if number is None:
            raise InputError(f"--to: expected a port from 1 to 65535, got {shown(parts.port)}")
        return number, parts.protocol or _protocol(number, ports)
    named = [port for port in ports if port.name == parts.port]
    if not named:
        has = f"; it has {bounded(ports)}" if ports else ""
        raise InputError(f"--to: {whose or shown(text)} has no port {shown(parts.port)}{has}")
    same = [port for port in named if port.protocol == parts.protocol] or named
    return same[0].number, parts.protocol or same[0].protocol


def _only_port(parts: _Parts, text: str, ports: Sequence[NamedPort], whose: str) -> tuple[int, str]:
    fitting = [port for port in dict.fromkeys(ports) if parts.protocol in ("", port.protocol)]
    if len({port.number for port in fitting}) == 1:
        number = fitting[0].number
        return number, parts.protocol or _protocol(number, fitting)
    has = f"; it has {bounded(dict.fromkeys(ports))}" if ports else ""
    raise InputError(f"--to: which port of {whose or shown(text)}? Write {shown(text + ':PORT')}{has}")


def _protocol(number: int, ports: Sequence[NamedPort]) -> str:
    """That of the port with a number, else of all ports if they have but one; TCP comes first."""
    there = {port.protocol for port in ports if port.number == number}
    everywhere = {port.protocol for port in ports}
    fitting = there or (everywhere if len(everywhere) == 1 else set())
    return next((protocol for protocol in PROTOCOLS if protocol in fitting), PROTOCOLS[0])


# ---- addresses of objects ----


def _by_family(addresses: Iterable[str]) -> dict[Family, str]:
    """The first of each family, IPv4 first."""
    first: dict[Family, str] = {}
    for address in addresses:
        first.setdefault(family_of(address), address)
    return {family: first[family] for family in Family if family in first}


def _node_addresses(node: Node, option: str) -> dict[Family, str]:
    addresses = _by_family(host_addresses(node))
    if not addresses:
        raise InputError(f"{option}: node {node.metadata.name} states no address")
    return addresses


def _addresses(pod: KnownPod, option: str) -> tuple[str, ...]:
    if not pod.addresses:
        phase = f" (phase {shown(pod.phase)})" if pod.phase else ""
        raise InputError(f"{option}: pod {pod} has no address{phase}")
    return pod.addresses
