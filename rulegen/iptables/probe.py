"""What rulegen's rules need of a kernel, tried before anything is changed, and named where it is missing.

Each feature is a rule of the kind that rulegen writes; it is tried in a chain that nothing leads to.
"""

from __future__ import annotations

from rulegen.config import Family
from rulegen.errors import HostError
from rulegen.iptables import binaries
from rulegen.iptables.base_chains import FILTER, NAT
from rulegen.iptables.binaries import RestoreError, Variant
from rulegen.iptables.names import PREFIX

_CHAIN = f"{PREFIX}PROBE"
# In words -> the table and a rule.
FEATURES: dict[str, tuple[str, str]] = {
    "match addrtype": (NAT, "-m addrtype --dst-type LOCAL"),
    "match bpf": (NAT, '-m bpf --bytecode "1,6 0 0 1"'),
    "match comment": (NAT, '-m comment --comment "rulegen"'),
    "match conntrack": (NAT, "-m conntrack --ctstate NEW,DNAT"),
    "match mark": (NAT, "-m mark --mark 0x1/0x1"),
    "match recent": (NAT, f"-m recent --set --name {_CHAIN} --rsource"),
    "match statistic": (NAT, "-m statistic --mode random --probability 0.5"),
    "match tcp": (NAT, "-p tcp -m tcp --dport 1"),
    "match udp": (NAT, "-p udp -m udp --dport 1"),
    "match sctp": (NAT, "-p sctp -m sctp --dport 1"),
    "target DNAT": (NAT, "-p tcp -j DNAT --to-destination {address}:1"),
    "target MARK": (NAT, "-j MARK --set-xmark 0x1/0x1"),
    "target MASQUERADE with --random-fully": (NAT, "-j MASQUERADE --random-fully"),
    "target REJECT": (FILTER, "-j REJECT"),
}
_ADDRESS = {Family.IPV4: "192.0.2.1", Family.IPV6: "[2001:db8::1]"}


def check_features(
    variant: Variant, family: Family, wait: int, features: dict[str, tuple[str, str]] | None = None
) -> None:
    """Raises HostError naming every feature that the kernel or iptables lacks."""
    features = FEATURES if features is None else features
    try:
        _try(variant, family, wait, features)
    except binaries.LockedError:
        raise
    except RestoreError as error:
        missing = [name for name in features if not _has(variant, family, wait, {name: features[name]})]
        if not missing:
            raise
        command = "ip6tables" if family is Family.IPV6 else "iptables"
        raise HostError(f"{command} ({variant.value}) on this host lacks {', '.join(missing)}") from error


def _has(variant: Variant, family: Family, wait: int, feature: dict[str, tuple[str, str]]) -> bool:
    try:
        _try(variant, family, wait, feature)
    except RestoreError:
        return False
    return True


def _try(variant: Variant, family: Family, wait: int, features: dict[str, tuple[str, str]]) -> None:
    """Legacy iptables asks the kernel only about rules that stay, so the chain is made first and removed then."""
    tables: dict[str, list[str]] = {}
    for table, rule in features.values():
        tables.setdefault(table, []).append(f"-A {_CHAIN} " + rule.format(address=_ADDRESS[family]))
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
