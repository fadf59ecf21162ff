"""What rulegen claims for itself of the kernel's hooks and of a packet, for all targets and features. Only values.

A new feature enters here what it hooks into, marks or keeps in a packet; nothing else names such a number.
Priorities are those of `enum nf_ip_hook_priorities` (linux/netfilter_ipv4.h), which IPv6 shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# ---- hooks of the nftables tables ----

DSTNAT, SRCNAT = -100, 100


class Hook(NamedTuple):
    """Where a base chain hooks into the kernel. `kind` is nft's type of the chain."""

    kind: str
    hook: str
    priority: int

    def __str__(self) -> str:
        return f"type {self.kind} hook {self.hook} priority {self.priority}; policy accept;"


# By the name of the chain. No two share a hook and a priority: their order would depend on which was loaded last.
HOOKS: Mapping[str, Hook] = {
    "prerouting": Hook("nat", "prerouting", DSTNAT),
    "output": Hook("nat", "output", DSTNAT),
    # Behind everybody's DNAT; firewalld's stands at +10.
    "prerouting-unused": Hook("nat", "prerouting", DSTNAT + 50),
    "output-unused": Hook("nat", "output", DSTNAT + 50),
    # Before everybody's SNAT.
    "input": Hook("nat", "input", SRCNAT - 1),
    "postrouting": Hook("nat", "postrouting", SRCNAT - 1),
}

# The one exception to type nat, by option: behind the rules of others at priority 0, so that what they drop is never
# accelerated.
ACCELERATION = Hook("filter", "forward", 10)

# Network policies: behind what others do at the priority of mangle and DNAT, before what they accept or drop at filter.
POLICY_HOOKS: Mapping[str, Hook] = {
    "egress": Hook("filter", "forward", -4),
    "ingress": Hook("filter", "forward", -3),
    "egress-again": Hook("filter", "forward", -2),
    "ingress-again": Hook("filter", "forward", -1),
    "node": Hook("filter", "input", -2),
    "node-again": Hook("filter", "input", -1),
}

# Egress masquerading: behind everybody's SNAT, which keeps the kernel from calling this. So whatever somebody else has
# translated, or translates to an address of his choice, stays as it is.
EGRESS_HOOKS: Mapping[str, Hook] = {"postrouting": Hook("nat", "postrouting", SRCNAT + 1)}

# Only while `rulegen trace` runs, which decides nothing: behind the reassembly of fragments, before all else; and
# behind all else, before conntrack confirms a connection.
_FIRST, _LAST = -399, (1 << 31) - 2
TRACE_HOOKS: Mapping[str, Hook] = {
    "arrives": Hook("filter", "prerouting", _FIRST),
    "sent": Hook("filter", "output", _FIRST),
    "forwarded": Hook("filter", "forward", _FIRST),
    "to-node": Hook("filter", "input", _FIRST),
    "delivered": Hook("filter", "input", _LAST),
    "leaves": Hook("filter", "postrouting", _LAST),
}

# ---- a packet's mark, in rules of both targets ----

# The bit for "to be masqueraded", kube-proxy's; the configuration may name another one.
MASQUERADE_BIT = 14

# ---- a packet's priority (`meta priority`), from the lookup of a frontend to DNAT ----

# Bit 31 "set by rulegen", 19 bits service-port id, then 12 bits whose meaning depends on what the register names.
OURS = 0x80000000
ID_SHIFT = 12
MAX_ID = (1 << 19) - 1
