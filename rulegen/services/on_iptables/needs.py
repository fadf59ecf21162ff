"""What the rules of Services need of a kernel: each as a rule of the kind that is written. Only values."""

from __future__ import annotations

from collections.abc import Mapping

from rulegen.config import Family
from rulegen.iptables.chains import FILTER, NAT
from rulegen.iptables.names import PREFIX

# In words -> the table and a rule.
NEEDS: Mapping[str, tuple[str, str]] = {
    "match addrtype": (NAT, "-m addrtype --dst-type LOCAL"),
    "match bpf": (NAT, '-m bpf --bytecode "1,6 0 0 1"'),
    "match comment": (NAT, '-m comment --comment "rulegen"'),
    "match conntrack": (NAT, "-m conntrack --ctstate NEW,DNAT"),
    "match mark": (NAT, "-m mark --mark 0x1/0x1"),
    "match recent": (NAT, f"-m recent --set --name {PREFIX}PROBE --rsource"),
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


def needs(family: Family) -> dict[str, tuple[str, str]]:
    """Those of a family's rules."""
    return {name: (table, rule.format(address=_ADDRESS[family])) for name, (table, rule) in NEEDS.items()}
