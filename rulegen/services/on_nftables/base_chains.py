"""The fixed part of one family, rendered from `templates/nftables/`, taken apart into its chains.

In: the node's settings, the mark bit, and where the ClusterIPs lie. Out: the set declarations as text, and each chain
as text with a digest that names it. The chains that exist once for each number in use (`lb-3`, `sticky-10800`) come
from the same templates, one at a time. Never talks to the kernel; knows no Service.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from rulegen.claims import HOOKS
from rulegen.config import Cidr, Family
from rulegen.nftables.elements import IP_KEYWORD
from rulegen.nftables.tables import BaseChains, Chain, base_chains_of, digest
from rulegen.resources import environment
from rulegen.services.model import NodeSettings, PodDetector
from rulegen.services.on_nftables.layout import AFFINITY_SIZE, LAYOUTS

if TYPE_CHECKING:
    from jinja2.environment import TemplateModule

# These are there whether used or not. The chains for other numbers are made from the first (`transaction`); and a chain
# made while the map it looks into is full costs the kernel a walk over that map, so the usual numbers are there before.
USUAL_SLOTS = range(1, 17)

_LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1"}
# nft 1.0.6 miscompiles a dynamic key of more than 16 bytes that has a value, so an IPv6 client goes in as two hashes.
_CLIENT_TYPE = {
    Family.IPV4: "ip saddr",
    Family.IPV6: "numgen random mod 4294967295 . numgen random mod 4294967295",
}
_CLIENT = {
    Family.IPV4: "ip saddr",
    Family.IPV6: "jhash ip6 saddr mod 4294967295 seed 0x51ed270b . jhash ip6 saddr mod 4294967295 seed 0x2545f491",
}


def render_base_chains(
    node: NodeSettings, masquerade_bit: int, ranges: tuple[str, ...], nodeports: str, *, host_ports: bool = False
) -> BaseChains:
    """The fixed part for this node.

    `masquerade_bit`: 0 to 31. `ranges`: see `service_ranges`. `nodeports`: see `nodeport_range`. `host_ports`: whether
    there are some.
    """
    accepted = accepts_nodeports(node.family, node.nodeport_addresses)
    detector, masquerade_all = node.detector, node.masquerade_all
    ports = _NodePorts(nodeports, accepted, host_ports, _overlap(node.nodeport_addresses, node.service_cidrs))
    return _render_base_chains(node.family, detector, masquerade_all, masquerade_bit, ranges, ports)


class _NodePorts(NamedTuple):
    range: str
    accepts: str
    has_host_ports: bool
    in_service_cidrs: bool


@lru_cache(maxsize=64)
def _overlap(accepted: tuple[Cidr, ...], service_cidrs: tuple[Cidr, ...]) -> bool:
    """Whether an address that accepts NodePorts may be in a ServiceCIDR."""
    return any(ip_network(one).overlaps(ip_network(other)) for one in accepted for other in service_cidrs)


@lru_cache(maxsize=16)
def _render_base_chains(
    family: Family,
    detector: PodDetector | None,
    masquerade_all: bool,
    masquerade_bit: int,
    ranges: tuple[str, ...],
    nodeports: _NodePorts,
) -> BaseChains:
    variables = {
        "ip": IP_KEYWORD[family],
        "nodeports": nodeports.range,
        "accepts_nodeports": nodeports.accepts,
        "host_ports": nodeports.has_host_ports,
        "own_in_service_cidrs": nodeports.in_service_cidrs,
        "loopback": _LOOPBACK[family],
        "mark": f"0x{1 << masquerade_bit:08x}",
        "unmark": f"0x{0xFFFFFFFF ^ 1 << masquerade_bit:08x}",
        "is_pod": _source_is_pod(family, detector, ""),
        "not_pod": _source_is_pod(family, detector, "!= "),
        "masquerade_all": masquerade_all,
        "service_ranges": ranges,
        "hook": HOOKS,
        "same_addresses": _same_addresses(family),
        "client_type": _CLIENT_TYPE[family],
        "affinity_size": AFFINITY_SIZE,
    }
    template = environment("nftables").get_template("base_chains.nft.j2")
    schema = digest(template.render(variables, schema="").partition("# ---- chains ----")[0])
    text = template.render(variables, schema=schema)
    return base_chains_of(LAYOUTS[family], text, schema, BALANCE_CHAINS[family])


# Without known ServiceCIDRs, prefixes around ClusterIPs are no longer than this: nearly every new one lies within.
_COARSE = {Family.IPV4: 16, Family.IPV6: 64}


@lru_cache(maxsize=64)
def service_ranges(family: Family, cidrs: tuple[Cidr, ...], cluster_ips: tuple[bytes, ...]) -> tuple[str, ...]:
    """What destinations must match to be looked up among the ClusterIPs and in the ServiceCIDRs (SVC-67).

    `cluster_ips`: the lowest and the highest one, or none. A prefix around all, which may hold more, costs next to
    nothing beside a lookup; the sets themselves where that would be the whole address space.
    """
    networks: list[IPv4Network | IPv6Network] = [ip_network(cidr) for cidr in cidrs]
    if networks:
        networks = [_covering(networks)]
    addresses = [ip_address(address) for address in cluster_ips]
    if not all(any(address in network for network in networks) for address in addresses):
        networks += [ip_network((int(address), _COARSE[family]), strict=False) for address in addresses]
    if not networks:
        return ()
    covering = _covering(networks)
    return (str(covering),) if covering.prefixlen else ("@cluster-ips", "@service-cidrs")


# NodePorts are looked for in whole blocks of so many ports: nearly every new one lies within. By default Kubernetes
# gives out 30000 to 32767, all in one block.
NODEPORT_BLOCK = 4096


def nodeport_range(blocks: Collection[int]) -> str:
    """The ports from the first block that has a NodePort to the last one, as a rule has them; "" without any.

    `blocks`: the numbers of those blocks, a port's being the port divided by `NODEPORT_BLOCK`. A comparison costs next
    to nothing beside a lookup.
    """
    if not blocks:
        return ""
    return f"{min(blocks) * NODEPORT_BLOCK}-{(max(blocks) + 1) * NODEPORT_BLOCK - 1}"


def _covering(networks: Sequence[IPv4Network | IPv6Network]) -> IPv4Network | IPv6Network:
    """The smallest network that holds all."""
    covering = networks[0]
    while not all(network.subnet_of(covering) for network in networks):  # type: ignore[arg-type]
        covering = covering.supernet()
    return covering


@lru_cache(maxsize=64)
def accepts_nodeports(family: Family, cidrs: tuple[Cidr, ...]) -> str:
    """What destinations must match to accept NodePorts, loopback never among them (SVC-63, SVC-66).

    A comparison for what nearly every node has, its primary address or all addresses; a lookup for a longer list.
    """
    daddr, loopback = f"{IP_KEYWORD[family]} daddr", _LOOPBACK[family]
    networks = [ip_network(cidr) for cidr in cidrs]
    not_loopback = f"{daddr} != {loopback}"
    if len(networks) != 1:
        return f"{not_loopback} {daddr} @nodeport-addresses"
    if not networks[0].prefixlen:
        return not_loopback
    accepted = f"{daddr} {cidrs[0].removesuffix(f'/{networks[0].max_prefixlen}')}"
    return f"{not_loopback} {accepted}" if networks[0].overlaps(ip_network(loopback)) else accepted


# Where the addresses stand in the network header, in bits, and how long they are.
_ADDRESSES = {Family.IPV4: (96, 128, 32), Family.IPV6: (64, 192, 128)}


def _same_addresses(family: Family) -> str:
    """Matches a source that is the destination: no byte differs, the last first, in which others mostly do.

    nf_tables compares no two parts of a packet before Linux 6.13, but looks both up as one key.
    """
    source, destination, length = _ADDRESSES[family]
    lookups = (f"@nh,{source + bit},8 . @nh,{destination + bit},8 @hairpin" for bit in range(length - 8, -1, -8))
    return " ".join(lookups)


def _source_is_pod(family: Family, detector: PodDetector | None, negation: str) -> str:
    if detector is None:
        return ""
    if detector.cidr:
        return f"{IP_KEYWORD[family]} saddr {negation}{detector.cidr}"
    # A name is quoted whole; what cannot stand in an interface's name was refused with the configuration.
    name = detector.interface or f"{detector.interface_prefix}*"
    return f'iifname {negation}"{name}"'


def is_balance_chain(name: str) -> bool:
    """Whether a chain is one of those that exist once for each number in use."""
    return name.rpartition("-")[0] in _BALANCE_MACROS and name.rpartition("-")[2].isdecimal()


_BALANCE_MACROS = {"lb": "lb", "pick": "pick", "sticky": "sticky", "sticky-local": "sticky_local"}


@lru_cache(maxsize=4096)
def balance_chain(family: Family, name: str) -> Chain:
    """The chain `name`: `lb-N`, `pick-N`, `sticky-SECONDS` or `sticky-local-SECONDS`."""
    macro, _, number = name.rpartition("-")
    text: str = getattr(_balance_module(family), _BALANCE_MACROS[macro])(int(number))
    return Chain(name, _from_chain(text))


def balance_chain_text(family: Family, name: str) -> str:
    """The same with the comment above it, for a rendered file."""
    macro, _, number = name.rpartition("-")
    text: str = getattr(_balance_module(family), _BALANCE_MACROS[macro])(int(number))
    return text.strip("\n") + "\n"


class BalanceChains:
    """The chains of one family that stand once for each number in use; see `tables.Generated`."""

    # The fixed part itself jumps there.
    required: Sequence[str] = ("lb-1",)

    def __init__(self, family: Family) -> None:
        self._family = family

    def chain(self, name: str) -> Chain:
        """The chain, without a comment above it."""
        if not is_balance_chain(name):
            raise KeyError(name)
        return balance_chain(self._family, name)

    def chain_text(self, name: str) -> str:
        """The same with its comment."""
        return balance_chain_text(self._family, name)

    def set_text(self, name: str) -> str:
        """All sets are in the fixed part."""
        raise KeyError(name)

    def model(self, name: str) -> str | None:
        """`lb-1` and `pick-1`; a chain of another kind is like no other."""
        kind = name.rpartition("-")[0]
        return f"{kind}-1" if kind in {"lb", "pick"} and is_balance_chain(name) else None


BALANCE_CHAINS: Mapping[Family, BalanceChains] = {family: BalanceChains(family) for family in Family}


def _from_chain(text: str) -> str:
    """`text` from the line `chain NAME {` on."""
    return text[text.index("\tchain ") :].rstrip("\n") + "\n"


@lru_cache(maxsize=2)
def _balance_module(family: Family) -> TemplateModule:
    template = environment("nftables").get_template("balance.nft.j2")
    return template.make_module({"ip": IP_KEYWORD[family], "client": _CLIENT[family]})
