"""What kube-proxy leaves behind in its modes nftables and iptables, removed (SVC-99).

Of iptables, in: the rules as `iptables-save` lists them, in each variant and family. Out: one `iptables-restore` for
each table that holds chains of kube-proxy. KUBE-FIREWALL and the kubelet's own chains stay; so do all other rules, in
their order.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from functools import partial

from rulegen.config import Family
from rulegen.errors import ApplyError, StaleError
from rulegen.interfaces import host_families
from rulegen.iptables import binaries
from rulegen.iptables.binaries import Variant
from rulegen.iptables.kernel import remove_everywhere, remove_hidden
from rulegen.iptables.listing import list_tables
from rulegen.iptables.rules import parse_rule
from rulegen.kube_proxy.rules import CHAIN, NFTABLES_TABLE, undisturbed
from rulegen.nftables import messages
from rulegen.nftables.elements import IP_KEYWORD
from rulegen.nftables.messages import Connection, KernelError

_LOCK_SECONDS = 60
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
    return remove_everywhere(Variant, _is_chain, _remove_chains)


def _remove_chains(variant: Variant, family: Family) -> Iterator[str]:
    for table in list_tables(variant, family, lambda _: False):
        remove_hidden(family, [table], lambda rule: _is_chain(rule.target) and not _is_chain(rule.chain))
        if commands := removal(table.lines):
            text = "\n".join([f"*{table.name}", *commands, "COMMIT", ""])
            binaries.restore(variant, family, text, wait=_LOCK_SECONDS)
            yield f"{binaries.NAME[family]}-{variant.value} {table.name}"


def removal(lines: list[str]) -> list[str]:
    """What `iptables-restore --noflush` must be told to free one table, given as saved, of kube-proxy's chains."""
    chains = [line[1:].split(" ")[0] for line in lines if line.startswith(":")]
    ours = [chain for chain in chains if _is_chain(chain)]
    jumps = [line for line in lines if line.startswith("-A ") and _is_foreign_jump(line, set(ours))]
    return [
        *(f":{chain} - [0:0]" for chain in ours),
        *(f"-D{line.removeprefix('-A')}" for line in jumps),
        *(f"-X {chain}" for chain in ours),
    ]


def _is_chain(name: str) -> bool:
    return CHAIN.fullmatch(name) is not None


def _is_foreign_jump(line: str, ours: Collection[str]) -> bool:
    """Whether a rule of somebody else's chain leads to one of these; the text of a comment may look like it."""
    chain, _, rule = line[3:].partition(" ")
    return chain not in ours and "KUBE-" in rule and parse_rule(rule).target in ours
