"""The fixed part of one family, rendered from `templates/iptables/`, taken apart into chains.

In: the node's settings and the mark bit. Out: the text with its comments, and the same as entries. Knows no single
Service.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from rulegen.config import Cidr, Family
from rulegen.iptables.chains import BaseChains, base_chains
from rulegen.iptables.same_address import same_address
from rulegen.resources import environment
from rulegen.services.model import NodeSettings
from rulegen.services.on_iptables import names

_LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}


class Extras(NamedTuple):
    """Parts of the fixed chains that are there only when a Service needs them."""

    source_ranges: bool = False
    health_checks: bool = False
    host_ports: bool = False


def render_base_chains(node: NodeSettings, masquerade_bit: int, extras: Extras) -> BaseChains:
    """The fixed part for this node. `masquerade_bit`: 0 to 31."""
    return _render_base_chains(node.family, node.nodeport_addresses, node.service_cidrs, masquerade_bit, extras)


def mark_text(masquerade_bit: int) -> str:
    """The masquerade mark, as iptables-save writes it."""
    return f"{1 << masquerade_bit:#x}"


@lru_cache(maxsize=16)
def _render_base_chains(
    family: Family,
    nodeport_addresses: tuple[Cidr, ...],
    service_cidrs: tuple[Cidr, ...],
    masquerade_bit: int,
    extras: Extras,
) -> BaseChains:
    template = environment("iptables").get_template("base_chains.rules.j2")
    text = template.render(
        loopback=_LOOPBACK[family],
        established=names.ESTABLISHED,
        extras=extras,
        mark=mark_text(masquerade_bit),
        same_address=same_address(family),
        nodeport_addresses=[destination_match(cidr) for cidr in nodeport_addresses],
        service_cidrs=[destination_match(cidr) for cidr in service_cidrs],
    )
    return base_chains(family, text)


def destination_match(cidr: Cidr) -> str:
    """`-d CIDR `, "" for the range that has every address, which iptables-save leaves out."""
    return "" if cidr.endswith("/0") else f"-d {cidr} "
