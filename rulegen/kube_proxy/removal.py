"""What kube-proxy leaves behind in its modes nftables and iptables, removed (SVC-99).

KUBE-FIREWALL and the kubelet's own chains stay; so do all other rules, in their order.
"""

from __future__ import annotations

import errno
from functools import partial

from rulegen.errors import ApplyError, StaleError
from rulegen.interfaces import host_families
from rulegen.iptables.removal import remove_foreign_chains
from rulegen.kube_proxy.rules import CHAIN, NFTABLES_TABLE
from rulegen.nftables import messages
from rulegen.nftables.elements import IP_KEYWORD
from rulegen.nftables.messages import Connection, KernelError
from rulegen.nftables.undisturbed import undisturbed

_STALE = (errno.ERESTART, errno.ENOENT)


def remove_nftables_tables(connection: Connection, generation: int | None = None) -> list[str]:
    """Removes kube-proxy's tables, in one transaction; says which there were.

    `generation`: only if nobody has committed anything to nf_tables since then. Raises StaleError when somebody has,
    HostError and ApplyError.
    """
    families = [
        family
        for family in host_families()
        if undisturbed(partial(connection.table, family, NFTABLES_TABLE)) is not None
    ]
    if families:
        try:
            connection.commit([messages.delete_table(family, NFTABLES_TABLE) for family in families], generation)
        except KernelError as error:
            kind = StaleError if error.number in _STALE else ApplyError
            raise kind(f"cannot remove kube-proxy's tables: {error}") from error
    return [f"{IP_KEYWORD[family]} {NFTABLES_TABLE}" for family in families]


def remove_iptables_rules() -> list[str]:
    """Removes kube-proxy's chains and the jumps to them; says from which tables.

    Raises HostError without privileges, else UnseenError, after all the rest was done, when tables cannot be looked at,
    or not all could be removed.
    """
    return remove_foreign_chains(_is_chain, "KUBE-")


def _is_chain(name: str) -> bool:
    return CHAIN.fullmatch(name) is not None
