"""What kube-proxy leaves behind in its modes nftables and iptables, removed (rule 99).

Of iptables, in: the rules as `iptables-save` lists them, in each variant and family. Out: one `iptables-restore` for
each table that holds chains of kube-proxy. KUBE-FIREWALL and the kubelet's own chains stay; so do all other rules, in
their order.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from functools import partial

from rulegen.config import Family
from rulegen.errors import ApplyError, StaleError
from rulegen.interfaces import host_families
from rulegen.iptables import programs
from rulegen.iptables.programs import Variant
from rulegen.kube_proxy.rules import CHAIN, NFTABLES_TABLE, undisturbed
from rulegen.nftables import netlink
from rulegen.nftables.layout import IP_KEYWORD
from rulegen.nftables.netlink import Connection, KernelError

_JUMP = re.compile(r"-A (?P<chain>\S+) (?:.* )?-[jg] (?P<target>\S+)(?: .*)?")
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
            connection.commit([netlink.delete_table(family, NFTABLES_TABLE) for family in families], generation)
        except KernelError as error:
            kind = StaleError if error.number in _STALE else ApplyError
            raise kind(f"cannot remove kube-proxy's tables: {error}") from error
    return [f"{IP_KEYWORD[family]} {NFTABLES_TABLE}" for family in families]


def remove_iptables_rules() -> list[str]:
    """Removes kube-proxy's chains and the jumps to them; says from which tables. Raises ApplyError, HostError."""
    removed = []
    for variant in filter(programs.installed, Variant):
        for family in Family:
            saved = programs.save(variant, family)
            for table, lines in _tables(saved):
                commands = removal(lines)
                if commands:
                    text = "\n".join([f"*{table}", *commands, "COMMIT", ""])
                    programs.restore(variant, family, text, wait=_LOCK_SECONDS)
                    removed.append(f"{programs.NAME[family]}-{variant.value} {table}")
    return removed


def removal(lines: list[str]) -> list[str]:
    """What `iptables-restore --noflush` must be told to free one table, given as saved, of kube-proxy's chains."""
    chains = [line[1:].split(" ")[0] for line in lines if line.startswith(":")]
    ours = [chain for chain in chains if CHAIN.fullmatch(chain)]
    jumps = [line for line in lines if (jump := _JUMP.fullmatch(line)) and _is_foreign_jump(jump, ours)]
    return [
        *(f":{chain} - [0:0]" for chain in ours),
        *(f"-D{line.removeprefix('-A')}" for line in jumps),
        *(f"-X {chain}" for chain in ours),
    ]


def _is_foreign_jump(jump: re.Match[str], ours: list[str]) -> bool:
    return jump["target"] in ours and jump["chain"] not in ours


def _tables(saved: str) -> Iterator[tuple[str, list[str]]]:
    table = ""
    lines: list[str] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            table, lines = line[1:], []
        elif line == "COMMIT":
            yield table, lines
        else:
            lines.append(line)
