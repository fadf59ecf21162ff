"""Whose a frontend or a rule is: what the rules themselves say of it, whoever has written them.

rulegen's sets and kube-proxy's have the Service in the comment of an element, their chains in their names, iptables'
rules in a comment. One element at a time is asked for, never a whole set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from rulegen.config import Family
from rulegen.errors import legible
from rulegen.kube.addresses import canonical_address
from rulegen.live.known import FrontendKey
from rulegen.networks import with_port
from rulegen.nftables.elements import (
    PROTOCOL_BYTES,
    Field,
    SetSpec,
    Value,
    address_bytes,
    pack_port,
    unpack_register,
)
from rulegen.nftables.messages import Connection, KernelError
from rulegen.nftables.tables import TableSpec
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.registers import MAX_ENDPOINT_INDEX, RESTRICTED, SPECIAL, Kind

KUBE_PROXY = "kube-proxy"

_NAME = r"[a-z0-9-]+/[a-z0-9.-]+"
# `default/web:http`, and what kube-proxy adds: `cluster IP`, `-> 10.128.0.5:8080`, `has no endpoints`.
_COMMENT = re.compile(rf"(?P<service>{_NAME}(?::[a-z0-9-]+)?)(?: (?P<more>.*))?")
_KUBE_PROXY_CHAIN = re.compile(
    rf"(?P<kind>service|external|local|firewall|endpoint)-[A-Z2-7]{{8}}-(?P<name>{_NAME})/(?P<protocol>\w+)/(?P<port>[^_]*)"
    r"(?:__(?P<endpoint>.*)/(?P<endpoint_port>\d+))?"
)
_KINDS: Mapping[int, str] = {
    Kind.EXTERNAL: "external frontend",
    Kind.EXTERNAL_LOCAL: "external frontend",
    Kind.EXTERNAL_NONE_LOCAL: "external frontend",
    Kind.INTERNAL_LISTED: "ClusterIP",
    Kind.INTERNAL_LOCAL: "ClusterIP",
    Kind.INTERNAL_NONE_LOCAL: "ClusterIP",
    Kind.HOST_PORT: "hostPort",
    Kind.NO_ENDPOINTS: "frontend",
}


class KubeProxyTable(TableSpec):
    """Those of kube-proxy's maps whose elements say whose they are."""

    def __init__(self, family: Family) -> None:
        super().__init__(family, KUBE_PROXY)
        address = Field.IPV4 if family is Family.IPV4 else Field.IPV6
        frontend = (address, Field.PROTOCOL, Field.PORT)
        nodeport = (Field.PROTOCOL, Field.PORT)
        self.by_address = [
            self.add_set(name, frontend, (Field.VERDICT,)) for name in ("service-ips", "no-endpoint-services")
        ]
        self.by_port = [
            self.add_set(name, nodeport, (Field.VERDICT,)) for name in ("service-nodeports", "no-endpoint-nodeports")
        ]


_KUBE_PROXY_TABLES = {family: KubeProxyTable(family) for family in Family}


class Frontends:
    """Those of the rules in the kernel, looked up one by one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def of_rulegen(self, asked: FrontendKey) -> tuple[str, str]:
        """The Service, and the frontend in explain's words; "" where nobody has it."""
        layout = LAYOUTS[asked[0]]
        if (found := self._find(layout.frontends, asked)) is not None:
            register = unpack_register(found.data)
            kind, service = _kind(register), legible(found.comment)
            return service, frontend_words(kind, asked, service)
        if (found := self._find(layout.nodeports, asked)) is not None:
            kind = "hostPort" if unpack_register(found.data) & MAX_ENDPOINT_INDEX == Kind.HOST_PORT else "NodePort"
            service = legible(found.comment)
            return service, frontend_words(kind, asked, service)
        return "", ""

    def of_kube_proxy(self, asked: FrontendKey) -> tuple[str, str]:
        """The same of kube-proxy's table."""
        table = _KUBE_PROXY_TABLES[asked[0]]
        for sets, kind in ((table.by_address, "frontend"), (table.by_port, "NodePort")):
            for set_spec in sets:
                found = self._find(set_spec, asked)
                if found is not None and (service := service_in(found.comment)):
                    return service, frontend_words(kind, asked, service)
        return "", ""

    def _find(self, set_spec: SetSpec, asked: FrontendKey) -> Value | None:
        family, protocol, address, port = asked
        number = PROTOCOL_BYTES.get(protocol.upper())
        if number is None:
            return None
        prefix = address_bytes(family, address) if len(set_spec.key) > 2 else b""
        try:
            found = self._connection.lookup(set_spec, [prefix + number + pack_port(port)])
        except KernelError:  # the table is not as expected: then nothing is known
            return None
        return found[0][1] if found else None


def service_in(comment: str) -> str:
    """The service-port that a comment of rulegen's or kube-proxy's names; "" for any other."""
    found = _COMMENT.fullmatch(comment)
    return found["service"] if found else ""


def frontend_words(kind: str, asked: FrontendKey, service: str) -> str:
    """`ClusterIP 10.96.0.10 port 80/TCP of shop/web:http`."""
    _, protocol, address, port = asked
    where = "" if kind == "NodePort" else f" {address}"
    return f"{kind}{where} port {port}/{protocol.upper()}" + (f" of {service}" if service else "")


def kube_proxy_chain(chains: Iterable[str]) -> tuple[str, str]:
    """The Service that kube-proxy's chains for nftables name, and what kind of frontend they are for."""
    for found in _chains(chains):
        return _service(found), {"service": "ClusterIP", "local": "frontend", "endpoint": "frontend"}.get(
            found["kind"], "external frontend"
        )
    return "", ""


def kube_proxy_endpoint(chain: str) -> tuple[str, str]:
    """The Service and the endpoint, as `10.128.0.5:8080`, that a chain of kube-proxy's names; else ""."""
    found = _KUBE_PROXY_CHAIN.fullmatch(chain)
    if found is None or found["endpoint"] is None:
        return "", ""
    # A chain's name has no colon, so that kube-proxy writes dots into an IPv6 address.
    address = canonical_address(found["endpoint"]) or found["endpoint"].replace(".", ":")
    return _service(found), with_port(address, int(found["endpoint_port"]))


def iptables_kind(chains: Iterable[str], comments: Iterable[str]) -> str:
    """What kind of frontend kube-proxy's or rulegen's chains of iptables are for."""
    names = set(chains)
    if names & {"KUBE-NODEPORTS", "RULEGEN-NODEPORTS"}:
        return "NodePort"
    if "RULEGEN-HOST-PORTS" in names:
        return "hostPort"
    if any(name.startswith(("KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-", "RULEGEN-EXT-")) for name in names):
        return "external frontend"
    is_cluster_ip = any(comment.endswith(" cluster IP") for comment in comments)
    is_internal = any(name.startswith(("RULEGEN-SVC-", "RULEGEN-SVL-")) for name in names)
    return "ClusterIP" if is_cluster_ip or is_internal else "frontend"


def _chains(chains: Iterable[str]) -> Iterator[re.Match[str]]:
    return filter(None, map(_KUBE_PROXY_CHAIN.fullmatch, chains))


def _service(found: re.Match[str]) -> str:
    return f"{found['name']}:{found['port']}" if found["port"] else str(found["name"])


def _kind(register: int) -> str:
    if not register & SPECIAL:
        return "ClusterIP"
    return _KINDS.get(register & MAX_ENDPOINT_INDEX & ~RESTRICTED, "frontend")
