"""Objects, and what manifests say they are, come in; what is legal but probably a mistake goes out, as Notices.

What a person wrote and what `kubectl` printed differ in ways that no object alone shows: no ClusterIP yet, Services
without their slices. Nothing here changes what is compiled. What a Service asks for is `services`' to judge.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias

from rulegen.alike import alike
from rulegen.errors import printable, shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.kinds import Kind
from rulegen.kube.objects import EndpointSlice, Service

INPUT = "input"


class Mistake(StrEnum):
    """What it is; the words are those of `lint -o json`."""

    CLUSTER_IP_MISMATCH = "ClusterIPMismatch"
    MISSPELT_KIND = "MisspeltKind"
    NO_CLUSTER_IP = "NoClusterIP"
    NO_SERVICES = "NoServices"
    NO_SLICES = "NoSlices"
    REPEATED_KEY = "RepeatedKey"
    UNKNOWN_FIELD = "UnknownField"
    UNREAD_VERSION = "UnreadVersion"
    UNREADABLE_DOCUMENT = "UnreadableDocument"
    UNUSUAL_ADDRESS = "UnusualAddress"


class Notice(NamedTuple):
    """`subject`: an object (`Service default/web`), a place in a file, or `input` for all of it; all safe to print."""

    subject: str
    mistake: Mistake
    message: str


def summary(notices: Iterable[Notice]) -> list[str]:
    """One line for each kind of mistake, with its first object; `lint` names them all."""
    by_mistake: dict[Mistake, list[Notice]] = {}
    for notice in notices:
        by_mistake.setdefault(notice.mistake, []).append(notice)
    lines = []
    for found in by_mistake.values():
        more = f"; {len(found) - 1} more like it, which rulegen lint names" if len(found) > 1 else ""
        lines.append(f"{found[0].subject}: {found[0].message}{more}")
    return lines


# ---- what manifests say an object is ----


_ALIKE = 0.85


def misspelt_kind(api_version: str, kind: str, read: Collection[Kind]) -> tuple[Mistake, str] | None:
    """Whether a kind that is not read was probably meant to be one that is, as those in `read` are.

    Other groups have Services, too: a kind is a mistake only in a group that is Kubernetes' own, or like one.
    """
    found_kind = _meant_kind(kind, read)
    group, _, version = api_version.rpartition("/")
    if found_kind is None or not _is_like_ours(group, read):
        return None
    meant, wanted = found_kind.name, found_kind.api_versions[0]
    if kind == meant and api_version.lower().startswith(wanted.rpartition("/")[0] + "/v") and "beta" in version:
        message = f"{meant} of {printable(api_version)}, which is not read: {wanted} is (SVC-17)"
        return Mistake.UNREAD_VERSION, message
    found = f"{printable(kind)} of {printable(api_version)}"
    return Mistake.MISSPELT_KIND, f"{found} is not read; {meant} of {wanted} is (SVC-1, SVC-17)"


def _meant_kind(name: str, read: Collection[Kind]) -> Kind | None:
    by_name = {kind.name: kind for kind in read}
    if name in by_name:
        return by_name[name]
    folded = {kind.name.lower(): kind for kind in read}
    close = alike(name.lower(), folded, 1, _ALIKE)
    return folded[close[0]] if close else None


def _is_like_ours(group: str, read: Collection[Kind]) -> bool:
    if "." not in group or group.endswith(".k8s.io"):
        return True
    return bool(alike(group, [kind.group for kind in read], 1, _ALIKE))


# ---- objects ----


# What is found in an object, without its name.
_Found: TypeAlias = Iterator[tuple[Mistake, str]]


def mistakes_of(
    services: Sequence[Service], unselected: Sequence[Service], slices: Sequence[EndpointSlice]
) -> list[Notice]:
    """All that is found in objects. `unselected`: Services that other proxies serve (SVC-1)."""
    found = [Notice(INPUT, *mistake) for mistake in _in_all(services, unselected, slices)]
    for service in services:
        found += [Notice(_subject(service), *mistake) for mistake in _in_service(service)]
    for item in slices:
        found += [Notice(_subject(item), *mistake) for mistake in _in_slice(item)]
    return found


def _subject(item: Service | EndpointSlice) -> str:
    return f"{type(item).__name__} {item.metadata.namespace}/{item.metadata.name}"


def _in_all(services: Sequence[Service], unselected: Sequence[Service], slices: Sequence[EndpointSlice]) -> _Found:
    if not services and not unselected:
        yield Mistake.NO_SERVICES, "holds no Service, so there are rules for none (SVC-1)"
    elif not slices and any(service.spec.cluster_ip not in ("", "None") for service in services):
        message = "holds no EndpointSlice, so every Service rejects (SVC-36); `kubectl get all` does not print them"
        yield Mistake.NO_SLICES, message


def _in_service(service: Service) -> _Found:
    spec = service.spec
    if spec.cluster_ips and spec.cluster_ips[0] != spec.cluster_ip:
        message = f"clusterIP is {shown(spec.cluster_ip)}, and the first of clusterIPs {shown(spec.cluster_ips[0])}"
        yield Mistake.CLUSTER_IP_MISMATCH, f"{message}: Kubernetes has them equal (SVC-5)"
    elif not spec.cluster_ip and spec.type != "ExternalName":
        yield Mistake.NO_CLUSTER_IP, "has no clusterIP, as before it is created: no rules for it (SVC-4)"
    yield from _unusual("clusterIP", dict.fromkeys(spec.cluster_ips or (spec.cluster_ip,)))
    if spec.external_ips:
        yield from _unusual("externalIP", spec.external_ips)
    if service.status and service.status.load_balancer:
        ingresses = service.status.load_balancer.ingress or ()
        yield from _unusual("load-balancer VIP", [ingress.ip for ingress in ingresses])


def _in_slice(item: EndpointSlice) -> _Found:
    if item.address_type != "FQDN":
        texts = [endpoint.addresses[0] for endpoint in item.endpoints or () if endpoint.addresses]
        yield from _unusual("endpoint", [text for text in texts if text[:2] in _BEGINNINGS])


# A quick look, since there are many addresses: how all begin that may be unusual.
_BEGINNINGS = frozenset(
    ("0.", "00", "0:", "12", "16", "22", "23", "25", "::", "fe", "ff", "FE", "FF", "Fe", "Ff", "fE", "fF")
)


def _unusual(field: str, addresses: Iterable[str]) -> _Found:
    for text in addresses:
        address = canonical_address(text.strip()) if text[:2] in _BEGINNINGS else None
        kind = _unusual_kind(address) if address else ""
        if kind:
            yield Mistake.UNUSUAL_ADDRESS, f"{field} {address} is {kind} address, which is hardly meant (SVC-12)"


def _unusual_kind(address: str) -> str:
    parsed = ip_address(address)
    kinds = {
        "the unspecified": parsed.is_unspecified,
        "a loopback": parsed.is_loopback,
        "a link-local": parsed.is_link_local,
        "a multicast": parsed.is_multicast,
        "the broadcast": address == "255.255.255.255",
    }
    return next((kind for kind, applies in kinds.items() if applies), "")
