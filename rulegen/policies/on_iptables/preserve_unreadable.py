"""Pods that cannot be read since the start: what the kernel isolates and nobody knows stays isolated. Pure.

A rule that leads from an address to its policies says neither whose the address is nor which policies they are. So what
is read of them are addresses, each with the name of the chain that it led to; a pod that is known and is isolated in
the same way tells what that was. Where none does, the address is closed in that direction.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address

from rulegen.config import Family
from rulegen.iptables.chains import IPSET, Entries
from rulegen.iptables.ipsets import Element, element_of
from rulegen.policies.model import Address, Combination, Direction, Isolation, PolicyName
from rulegen.policies.on_iptables import names
from rulegen.reference import ObjectReference

_LEAF = re.compile(rf"-[sd] (\S+)/(?:32|128) -g ({names.PREFIX}(?:[EI]-\S+|STRICT))")
_POD = "a pod that cannot be read"
# Nobody's policy, so that it accepts nothing.
_CLOSED = (PolicyName("?", "?"),)

# By direction the chain that an address led to.
Leaves = dict[Address, dict[Direction, str]]


def isolated_addresses(live: Entries, unreadable: Collection[ObjectReference]) -> dict[Family, Leaves]:
    """What the kernel isolates; nothing as long as all pods can be read."""
    found: dict[Family, Leaves] = {family: {} for family in Family}
    if not any(reference.kind == "Pod" for reference in unreadable):
        return found
    for key, rules in live.items():
        if key.table == IPSET:
            for address, direction, chain in _led(element_of(key)):
                found[key.family].setdefault(address, {})[direction] = chain
        elif key.prefix == names.PREFIX:
            for address, direction, chain in _leaves(rules):
                found[key.family].setdefault(address, {})[direction] = chain
    return found


def _leaves(rules: Iterable[str]) -> Iterator[tuple[Address, Direction, str]]:
    for rule in rules:
        leaf = _LEAF.fullmatch(rule)
        if leaf is not None:
            direction = Direction.EGRESS if rule.startswith("-s") else Direction.INGRESS
            yield ip_address(leaf[1]).packed, direction, leaf[2]


def _led(element: Element | None) -> Iterator[tuple[Address, Direction, str]]:
    """With ipsets: an element of the set of those that are led to a chain."""
    found = names.led_to(element.set_name) if element is not None else None
    if element is not None and found is not None:
        yield ip_address(element.address).packed, *found


def isolation(leaves: Mapping[Direction, str], known: Mapping[str, Combination]) -> Isolation:
    """By what an address is to be isolated. `known`: the combinations of known pods, by their chains' names."""
    ingress, egress = (_combination(direction, leaves.get(direction), known) for direction in Direction)
    return Isolation(_POD, ingress, egress)


def _combination(direction: Direction, chain: str | None, known: Mapping[str, Combination]) -> Combination | None:
    if chain is None or chain == names.STRICT:
        return None
    return known.get(chain, Combination(direction, network=_CLOSED))
