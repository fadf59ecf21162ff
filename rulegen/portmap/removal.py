"""What portmap leaves behind, removed: its chains in table nat, and its tables in nf_tables."""

from __future__ import annotations

import re
from functools import partial

from rulegen.config import Family
from rulegen.errors import ApplyError, UnseenError
from rulegen.interfaces import host_families
from rulegen.iptables.removal import has_foreign_chains, remove_foreign_chains
from rulegen.nftables import messages
from rulegen.nftables.elements import IP_KEYWORD
from rulegen.nftables.messages import Connection, KernelError
from rulegen.nftables.undisturbed import undisturbed

TABLE = "cni_hostport"
# CNI-DN- is one pod's; the others are there once.
_CHAIN = re.compile(r"CNI-(DN-[0-9A-Za-z]+|HOSTPORT-(DNAT|SETMARK|MASQ|SNAT))")


def families_with_rules(connection: Connection) -> list[Family]:
    """The families of this host in which portmap has left something. Raises HostError, UnseenError."""
    left = [family for family in host_families() if _has_table(connection, family)]
    return [family for family in host_families() if family in left or has_foreign_chains(family, is_chain)]


def remove(connection: Connection) -> list[str]:
    """Says what there was. Raises HostError, ApplyError, and UnseenError when rules may be left."""
    removed = _remove_tables(connection)
    try:
        return removed + remove_foreign_chains(is_chain, "CNI-")
    except UnseenError as error:
        raise UnseenError(str(error), [*removed, *error.removed]) from error


def is_chain(name: str) -> bool:
    """Whether a chain of iptables is portmap's, by its name."""
    return _CHAIN.fullmatch(name) is not None


def _remove_tables(connection: Connection) -> list[str]:
    families = [family for family in host_families() if _has_table(connection, family)]
    if families:
        try:
            connection.commit([messages.delete_table(family, TABLE) for family in families])
        except KernelError as error:
            raise ApplyError(f"cannot remove portmap's tables: {error}") from error
    return [f"{IP_KEYWORD[family]} {TABLE}" for family in families]


def _has_table(connection: Connection, family: Family) -> bool:
    return undisturbed(partial(connection.table, family, TABLE)) is not None
