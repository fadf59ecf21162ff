"""What ip-masq-agent leaves behind, removed; whether rulegen masquerades in its place. Asks and changes the kernel."""

from __future__ import annotations

from collections.abc import Iterator

from rulegen.config import Family
from rulegen.egress.model import Side
from rulegen.errors import RulegenError
from rulegen.interfaces import host_families
from rulegen.iptables.removal import has_foreign_chains, remove_foreign_chains

# Its default, and how Google's own build calls it.
CHAINS = ("IP-MASQ-AGENT", "IP-MASQ")
_MARKER = "IP-MASQ"


def families_with_rules() -> list[Family]:
    """The families of this host in which it has left its chain. Raises HostError."""
    return [family for family in host_families() if has_foreign_chains(family, is_chain)]


def remove() -> list[str]:
    """Says where there was something. Raises HostError, and UnseenError when rules may be left."""
    return remove_foreign_chains(is_chain, _MARKER)


def is_chain(name: str) -> bool:
    """Whether a chain is that agent's, by its name."""
    return name in CHAINS


def in_force() -> tuple[set[Family], list[str]]:
    """The families in which rulegen masquerades, on either target, and why it may be more. Raises nothing."""
    families: set[Family] = set()
    unread = []
    for read in (_on_nftables, _on_iptables):
        try:
            families |= set(read())
        except RulegenError as error:
            unread.append(str(error))
    return families, unread


def _on_nftables() -> Iterator[Family]:
    """Where the chain is there as it was loaded, and any pods are known."""
    from rulegen.egress.on_nftables.table import TABLES
    from rulegen.nftables.kernel import Kernel
    from rulegen.nftables.live import ALTERED

    with Kernel() as kernel:
        live = kernel.read(tuple(TABLES.values()))
    filled = {set_spec for set_spec, _ in live.entries}
    for family, table in TABLES.items():
        chains = [live.entries.get((table.chains, name.encode())) for name in table.text.chains]
        if table.sides[Side.PODS] in filled and all(one is not None and one != ALTERED for one in chains):
            yield family


def _on_iptables() -> Iterator[Family]:
    """Where the built-in chain leads to pods, and the last chain masquerades."""
    from rulegen.egress.on_iptables.chains import EXEMPT, MASQUERADE, PODS, POSTROUTING, PREFIX
    from rulegen.iptables import binaries
    from rulegen.iptables.chains import NAT, EntryKey
    from rulegen.iptables.kernel import Kernel
    from rulegen.iptables.names import PREFIX as OURS

    for variant in filter(binaries.installed, binaries.Variant):
        entries = Kernel(variant).read((PREFIX, OURS))
        for family in Family:
            begin, pods, end = (
                entries.get(EntryKey(family, NAT, chain, PREFIX), ()) for chain in (POSTROUTING, PODS, EXEMPT)
            )
            if begin and pods and MASQUERADE in end[-1:]:
                yield family
