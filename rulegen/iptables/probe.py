"""What features' rules need of a kernel, tried before anything is changed, and named where it is missing.

What is needed comes as rules, each by what it needs in words; it is tried in a chain that nothing leads to.
"""

from __future__ import annotations

from collections.abc import Mapping

from rulegen.config import Family
from rulegen.errors import HostError
from rulegen.iptables import binaries
from rulegen.iptables.binaries import RestoreError, Variant
from rulegen.iptables.names import PREFIX

_CHAIN = f"{PREFIX}PROBE"


def check_needs(variant: Variant, family: Family, wait: int, needs: Mapping[str, tuple[str, str]]) -> None:
    """Raises HostError naming everything that the kernel or iptables lacks.

    `needs`: in words -> the table and a rule that is taken where there is such a thing.
    """
    try:
        _try(variant, family, wait, needs)
    except binaries.LockedError:
        raise
    except RestoreError as error:
        missing = [name for name in needs if not _has(variant, family, wait, {name: needs[name]})]
        if not missing:
            raise
        command = "ip6tables" if family is Family.IPV6 else "iptables"
        raise HostError(f"{command} ({variant.value}) on this host lacks {', '.join(missing)}") from error


def _has(variant: Variant, family: Family, wait: int, need: Mapping[str, tuple[str, str]]) -> bool:
    try:
        _try(variant, family, wait, need)
    except RestoreError:
        return False
    return True


def _try(variant: Variant, family: Family, wait: int, needs: Mapping[str, tuple[str, str]]) -> None:
    """Legacy iptables asks the kernel only about rules that stay, so the chain is made first and removed then."""
    tables: dict[str, list[str]] = {}
    for table, rule in needs.values():
        tables.setdefault(table, []).append(f"-A {_CHAIN} {rule}")
    text = [line for table, rules in tables.items() for line in _table(table, rules)]
    gone = [line for table in tables for line in _table(table, [f"-X {_CHAIN}"])]
    # One that hangs, or is interrupted, is not asked a second time; the next apply removes the chain.
    try:
        binaries.restore(variant, family, "\n".join(text), wait=wait)
    except RestoreError:
        binaries.restore(variant, family, "\n".join(gone), wait=wait)
        raise
    binaries.restore(variant, family, "\n".join(gone), wait=wait)


def _table(table: str, lines: list[str]) -> list[str]:
    return [f"*{table}", f":{_CHAIN} - [0:0]", *lines, "COMMIT", ""]
