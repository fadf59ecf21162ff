"""Rules of a policy as nft reads them, and the sets that they look into. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rulegen.config import Family
from rulegen.nftables.elements import IP_KEYWORD
from rulegen.policies.model import ALL_PORTS, Action, AddressRange, Direction, PortRange, Ports, Rule, Rules
from rulegen.policies.names import blocks_name, named_port_name, ports_name
from rulegen.policies.ranges import is_everything, text_of
from rulegen.policies.selected import selector_id

_PEER_FIELD = {Direction.INGRESS: "saddr", Direction.EGRESS: "daddr"}
# What passes on returns from the chain of its tier, to what comes after it.
_VERDICTS = {Action.ACCEPT: "counter accept", Action.PASS: "counter return"}


def rule_lines(rule: Rule, direction: Direction, family: Family) -> Iterator[str]:
    """The rule for each kind of peer with each kind of port, `ip saddr @pods-1b2c tcp dport 80 counter accept`.

    None where it matches nobody of this family.
    """
    verdict = _VERDICTS.get(rule.action) or denial(direction)
    for peer in _peer_matches(rule, direction, family):
        for port in _port_matches(rule.ports, family):
            yield " ".join(filter(None, (peer, port, verdict)))


def denial(direction: Direction) -> str:
    """The end of a rule that denies."""
    return f"counter goto denied-{direction.word}"


def block_lists(rules: Rules, family: Family) -> Iterator[tuple[AddressRange, ...]]:
    """The lists of ranges that need a set."""
    for rule in rules:
        blocks = rule.blocks_of(family)
        if len(blocks) > 1:
            yield blocks


def port_lists(rules: Rules) -> Iterator[tuple[PortRange, ...]]:
    """The lists of ports that need a set."""
    for rule in rules:
        if rule.ports is not None and len(rule.ports.ranges) > 1:
            yield rule.ports.ranges


def _peer_matches(rule: Rule, direction: Direction, family: Family) -> Iterator[str]:
    if rule.anyone:
        yield ""
    field = f"{IP_KEYWORD[family]} {_PEER_FIELD[direction]}"
    for selector in rule.selectors:
        yield f"{field} @{selector_id(selector)}"
    blocks = rule.blocks_of(family)
    if len(blocks) > 1:
        yield f"{field} @{blocks_name(blocks)}"
    elif blocks:
        yield "" if is_everything(blocks[0]) else f"{field} {text_of(blocks[0])}"


def _port_matches(ports: Ports | None, family: Family) -> Iterator[str]:
    if ports is None:
        yield ""
        return
    if len(ports.ranges) > 1:
        yield f"meta l4proto . th dport @{ports_name(ports.ranges)}"
    for item in ports.ranges if len(ports.ranges) == 1 else ():
        yield _range_match(item)
    for named in ports.named:
        protocol = f"meta l4proto {named.protocol.lower()} " if named.protocol else ""
        yield f"{protocol}{IP_KEYWORD[family]} daddr . meta l4proto . th dport @{named_port_name(named.name)}"


def _range_match(item: PortRange) -> str:
    protocol = item.protocol.lower()
    if (item.first, item.last) == ALL_PORTS:
        return f"meta l4proto {protocol}"
    ports = str(item.first) if item.first == item.last else f"{item.first}-{item.last}"
    return f"{protocol} dport {ports}"
