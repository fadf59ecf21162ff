"""What of kube-proxy's rules is in this network namespace, as digests that change whenever somebody writes them anew.

In: the kernel's chains and rules, by netlink, and what iptables-legacy-save prints. Out: a digest for each place. Of
nf_tables the digest is of the numbers that the kernel gives to chains and rules, so that the same rules written again
differ: kube-proxy writes its rules anew at each change and at least every two hours (SVC-90 and SVC-91). Legacy
iptables has no such numbers; there it is of the text. Changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from hashlib import blake2b

from rulegen.config import Family
from rulegen.interfaces import host_families
from rulegen.iptables import binaries
from rulegen.iptables.binaries import Variant
from rulegen.iptables.listing import list_tables
from rulegen.netlink.nf_tables import SET_DYNAMIC, SET_TIMEOUT
from rulegen.nftables.foreign import handles
from rulegen.nftables.messages import Connection
from rulegen.nftables.undisturbed import undisturbed

NFTABLES_TABLE = "kube-proxy"
_IPTABLES_TABLES = ("raw", "mangle", "nat", "filter")
# Chains of kube-proxy's modes iptables and ipvs. KUBE-FIREWALL and the kubelet's own are not among them.
CHAIN = re.compile(
    r"KUBE-(?:SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL|PROXY-CANARY"
    r"|NODE-PORT|LOAD-BALANCER|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER"
    r"|(?:SVC|SVL|SEP|FW|EXT|XLB)-[A-Z0-9]+)"
)
# Chains that there are only when kube-proxy serves a Service.
_OF_SERVICE = re.compile(r"KUBE-(?:SVC|SVL|SEP|FW|EXT|XLB)-|(?:service|endpoint|external|firewall|local)-[A-Z2-7]{8}-")
_LEGACY = "legacy"
_DIGEST_BYTES = 4


class Found(dict[str, str]):
    """The digest of what there is, by place: `ip`, `ip6` (the mode nftables); `nft4`, `legacy6`, ... (iptables)."""

    @property
    def in_words(self) -> str:
        """The places, for people."""
        return ", ".join(_WORDS.get(place, place) for place in self)

    @property
    def tells_writes(self) -> bool:
        """Whether rules that are written again, and are the same, would differ everywhere."""
        return not any(place.startswith(_LEGACY) for place in self)


_WORDS = {
    "ip": f"table ip {NFTABLES_TABLE}",
    "ip6": f"table ip6 {NFTABLES_TABLE}",
    "nft4": "iptables-nft",
    "nft6": "ip6tables-nft",
    "legacy4": "iptables-legacy",
    "legacy6": "ip6tables-legacy",
}
_PLACES: Mapping[Family, tuple[str, str, str]] = {
    Family.IPV4: ("ip", "nft4", "legacy4"),
    Family.IPV6: ("ip6", "nft6", "legacy6"),
}


def find(connection: Connection) -> Found:
    """All of it. Raises HostError when it cannot be read, StaleError when it keeps changing."""
    found = Found()
    for family in host_families():
        found |= undisturbed(partial(_read, connection, family))
        if digest := _digest(_legacy_lines(family)):
            found[_PLACES[family][2]] = digest
    return found


def serving(connection: Connection) -> dict[Family, bool]:
    """The families in which there are rules of kube-proxy, and whether they serve any Service. Raises HostError."""
    found: dict[Family, bool] = {}
    for family in host_families():
        chains = undisturbed(partial(_chains, connection, family))
        legacy = [line[1:] for line in _legacy_lines(family) if line.startswith(":")]
        if chains is not None or legacy:
            found[family] = any(_OF_SERVICE.match(name) for name in [*(chains or ()), *legacy])
    return found


def _read(connection: Connection, family: Family) -> Found:
    found = Found()
    own, iptables, _ = _PLACES[family]
    listed = handles(connection, family, _is_kube_proxys)
    if connection.table(family, NFTABLES_TABLE) is not None:
        lines = [f"{one.chain} {one.handle}" for one in listed if one.table == NFTABLES_TABLE]
        found[own] = _digest([NFTABLES_TABLE, *lines, *_elements(connection, family)])
    if lines := [f"{one.table} {one.chain} {one.handle}" for one in listed if one.table != NFTABLES_TABLE]:
        found[iptables] = _digest(lines)
    return found


def _is_kube_proxys(table: str, chain: str) -> bool:
    return table == NFTABLES_TABLE or (table in _IPTABLES_TABLES and CHAIN.fullmatch(chain) is not None)


def _chains(connection: Connection, family: Family) -> list[str] | None:
    """The names of kube-proxy's chains in nf_tables; None when nothing there is its."""
    has_table = connection.table(family, NFTABLES_TABLE) is not None
    names = [chain.name for chain in connection.chains(family, NFTABLES_TABLE)]
    for table in _IPTABLES_TABLES:
        names += [chain.name for chain in connection.chains(family, table) if CHAIN.fullmatch(chain.name)]
    return names if has_table or names else None


def _elements(connection: Connection, family: Family) -> list[str]:
    """Of sets that packets change by themselves: nothing."""
    return sorted(
        f"{one.name} {element.key.hex()} {element.value.data.hex()}"
        for one in connection.sets(family, NFTABLES_TABLE)
        if not one.flags & (SET_DYNAMIC | SET_TIMEOUT)
        for element in connection.elements(family, NFTABLES_TABLE, one.name)
    )


def _legacy_lines(family: Family) -> list[str]:
    """The chains and rules of kube-proxy in legacy iptables. Raises HostError."""
    if not binaries.installed(Variant.LEGACY):
        return []
    lines = []
    for line in (line for table in list_tables(Variant.LEGACY, family) for line in table.lines):
        name = line[1:].split(" ")[0] if line.startswith(":") else line.removeprefix("-A ").split(" ")[0]
        if CHAIN.fullmatch(name):
            lines.append(line.split(" [")[0] if line.startswith(":") else line)
    return lines


def _digest(lines: Iterable[str]) -> str:
    """Of nothing it is the empty text."""
    text = "\n".join(lines)
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=_DIGEST_BYTES).hexdigest() if text else ""
