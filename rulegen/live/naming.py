"""A Service as a person calls it comes in, the frontends that the rules in the kernel have for it go out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rulegen.alike import alike
from rulegen.errors import InputError, printable, shown
from rulegen.live.known import FrontendKey, Known

_NAME = re.compile(
    r"(?:(?P<namespace>[a-z0-9][a-z0-9-]*)/)?(?P<name>[a-z][a-z0-9-]*)(?::(?P<port>[a-z0-9-]+))?"
    r"(?:/(?P<protocol>tcp|udp|sctp|TCP|UDP|SCTP))?"
)
_KINDS = frozenset({"svc", "service", "services"})
_MOST = 10
_ALIKE = 0.75


def is_name(text: str) -> bool:
    """Whether it can be no address."""
    return _NAME.fullmatch(text) is not None


def frontends_named(known: Known, text: str) -> list[FrontendKey]:
    """Those of `shop/web`, `shop/web:http`, `web:80/tcp`, `svc/web`; sorted.

    Raises InputError for what nobody is called, with those that have a similar name, and for what several are called.
    """
    found = _NAME.fullmatch(text)
    if found is None:
        raise InputError(f"expected a Service as NAMESPACE/NAME[:PORT], got {shown(text)}")
    namespace = "" if found["namespace"] in _KINDS else found["namespace"] or ""
    services = {_service(service.name) for service in known.shares}
    named = [service for service in services if _is_called(service, namespace, found["name"])]
    if not named:
        asked = f"{namespace}/{found['name']}" if namespace else found["name"]
        close = alike(asked if namespace else f"default/{asked}", sorted(services), _MOST, _ALIKE)
        there_is = f"; there is {_listed(close)}" if close else ""
        raise InputError(f"the rules of this node are for no Service {printable(asked)}{there_is}")
    if len(named) > 1:
        raise InputError(f"{printable(found['name'])} may be {_listed(named)}: say which, with its namespace")
    return _ports(known, named[0], found["port"] or "", (found["protocol"] or "").lower())


def _ports(known: Known, service: str, port: str, protocol: str) -> list[FrontendKey]:
    """Those of a Service's frontends that have a port, by name or number, and a protocol; "" for any."""
    frontends = {key: one.name for key, one in known.frontends.items() if _service(one.name) == service}
    found = [
        key
        for key, name in frontends.items()
        if (not port or port in {str(key[3]), name.partition(":")[2]}) and protocol in {"", key[1]}
    ]
    if not found:
        ports = {_port_words(key, name) for key, name in frontends.items()}
        asked = "/".join(filter(None, (port, protocol)))
        raise InputError(f"{service} has no port {printable(asked)} in the rules of this node; it has {_listed(ports)}")
    return sorted(found, key=lambda key: (key[0].value, *key[1:]))


def _port_words(key: FrontendKey, name: str) -> str:
    port_name = name.partition(":")[2]
    return f"{key[3]}/{key[1]}" + (f" ({port_name})" if port_name else "")


def _service(name: str) -> str:
    """Without its port."""
    return name.partition(":")[0]


def _is_called(service: str, namespace: str, name: str) -> bool:
    its_namespace, _, its_name = service.partition("/")
    return its_name == name and namespace in {"", its_namespace}


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return ", ".join(map(printable, found[:_MOST])) + more
