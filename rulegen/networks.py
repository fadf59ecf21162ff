"""Canonical addresses, and CIDRs as people wrote them, come in; families and canonical CIDRs go out. No host."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import TypeAlias

from rulegen.config import Cidr, Family
from rulegen.kube.addresses import canonical_address

Network: TypeAlias = IPv4Network | IPv6Network

MATCH_ALL: dict[Family, Cidr] = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
# How many bits an IPv4-mapped address begins with.
_MAPPED = 96
LOOPBACK: dict[Family, str] = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


def family_of(address: str) -> Family:
    """The family of a canonical address or CIDR."""
    return Family.IPV6 if ":" in address else Family.IPV4


def is_loopback(address: str) -> bool:
    """Whether a canonical address is a loopback one."""
    return address.startswith("127.") or address == LOOPBACK[Family.IPV6]


def host_cidr(address: str) -> Cidr:
    """The CIDR of a canonical address alone."""
    return f"{address}/128" if ":" in address else f"{address}/32"


def with_port(address: str, port: int) -> str:
    """`10.128.0.5:8080`, `[fd00::5]:8080`; the address alone where there is no port (0)."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def parse_network(text: str) -> Network | None:
    """A CIDR, host bits cleared, or None when it is not one; read as leniently as addresses are (SVC-12).

    Of an IPv4-mapped range, the first 96 bits say only that; a shorter prefix holds more than IPv4 and is IPv6.
    """
    address_text, slash, prefix = text.strip().partition("/")
    address = canonical_address(address_text)
    if address is None or not slash or not (prefix.isascii() and prefix.isdigit()):
        return None
    try:
        length = int(prefix)
        if ":" in address_text and ":" not in address:
            address, length = (address, length - _MAPPED) if length >= _MAPPED else (f"::ffff:{address}", length)
        return ip_network((address, length), strict=False)
    except ValueError:
        return None


def split_networks(networks: Iterable[Network]) -> dict[Family, list[Network]]:
    """The networks of each family, in their order; both families are present."""
    split: dict[Family, list[Network]] = {Family.IPV4: [], Family.IPV6: []}
    for network in networks:
        split[Family.IPV4 if network.version == 4 else Family.IPV6].append(network)
    return split


def collapse(networks: Iterable[Network]) -> tuple[Cidr, ...]:
    """The same addresses in the fewest CIDRs, sorted; the networks are of one family."""
    return tuple(str(network) for network in collapse_addresses(networks))  # type: ignore[type-var]


def port_number(text: str) -> int | None:
    """A port from 1 to 65535 in decimal digits; None for what is none, however long it is."""
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdecimal()) or len(digits) > 5:
        return None
    number = int(digits or "0")
    return number if 1 <= number <= 65535 else None


def contains(networks: Iterable[Network], address: str) -> bool:
    """Whether a canonical address is in any of the networks."""
    parsed = ip_address(address)
    return any(parsed in network for network in networks)
