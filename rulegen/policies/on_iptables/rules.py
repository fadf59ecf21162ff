"""A policy's rules as iptables-save lists them. Pure.

Here a rule stands in the chain of each combination that has its policy: an ACCEPT would end all of FORWARD, and a chain
cannot tell the one that called it that it has accepted. So what is accepted RETURNs from the combination's own chain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import ip_address, summarize_address_range
from typing import Protocol

from rulegen.config import Family
from rulegen.iptables.names import safe_comment
from rulegen.policies.model import (
    ALL_PORTS,
    Action,
    Address,
    Direction,
    PolicyName,
    PortRange,
    Ports,
    Rule,
    family_of,
)
from rulegen.policies.on_iptables import names
from rulegen.policies.ranges import is_everything
from rulegen.policies.selected import selector_id
from rulegen.policies.selectors import Selector
from rulegen.policies.store import PortPlace

# So many ranges stand in rules of their own; more are looked up in an ipset.
MAX_RANGES = 4
# Without ipsets, each member of a selector is a rule; more than this would cost packets too much.
MAX_MEMBERS = 256

_PEER = {Direction.INGRESS: ("-s", "src"), Direction.EGRESS: ("-d", "dst")}


class Members(Protocol):
    """Who is in the sets, where there are no ipsets to look into."""

    def of_selector(self, selector_id: str) -> Collection[Address]:
        """The addresses that a selector selects."""
        ...

    def of_port(self, name: str, direction: Direction) -> Collection[PortPlace]:
        """Where a port has this name; for ingress on this node only."""
        ...


class Writer:
    """Writes the rules of one family. `members`: None where the host has ipsets."""

    def __init__(self, family: Family, members: Members | None) -> None:
        self._family = family
        self._members = members

    def rules(self, policy: PolicyName, rule: Rule, direction: Direction, targets: dict[Action, str]) -> Iterator[str]:
        """`-p tcp -m set --match-set rulegen-pods-1b2c src -m tcp --dport 80 -m comment --comment "..." -j RETURN`.

        Raises NoIpsetError.
        """
        # iptables-save puts quotes around a text with a space, and none around some of those without.
        comment = safe_comment(str(policy))
        end = f'-m comment --comment "{comment}" {targets[rule.action]}'
        for address, peer in self._peers(rule, direction):
            for protocol, port in self._ports(rule.ports):
                yield " ".join(filter(None, (address, protocol, peer, port, end)))
        if self._members is not None:
            for match in self._places(rule, direction, self._members):
                yield f"{match} {end}"

    # What selects a peer: an option of the address, and a match.
    def _peers(self, rule: Rule, direction: Direction) -> Iterator[tuple[str, str]]:
        if rule.anyone:
            yield "", ""
        for selector in rule.selectors:
            yield from self._selected(selector, direction)
        yield from self._blocks(rule, direction)

    def _selected(self, selector: Selector, direction: Direction) -> Iterator[tuple[str, str]]:
        option, word = _PEER[direction]
        id_ = selector_id(selector)
        if self._members is None:
            yield "", f"-m set --match-set {names.selector_ipset(self._family, id_)} {word}"
            return
        members = self._members.of_selector(id_)
        if len(members) > MAX_MEMBERS:
            raise NoIpsetError(f"{selector} are {len(members)} addresses")
        for address in sorted(members):
            yield f"{option} {host_text(address)}", ""

    def _blocks(self, rule: Rule, direction: Direction) -> Iterator[tuple[str, str]]:
        option, word = _PEER[direction]
        blocks = rule.blocks_of(self._family)
        cidrs = [cidr for block in blocks for cidr in cidrs_of(*block)]
        if len(cidrs) > MAX_RANGES and self._members is None:
            yield "", f"-m set --match-set {names.blocks_ipset(self._family, blocks)} {word}"
            return
        for block in blocks:
            if is_everything(block):
                yield "", ""
            else:
                for cidr in cidrs_of(*block):
                    yield f"{option} {cidr}", ""

    # What selects a port: a protocol, and a match.
    def _ports(self, ports: Ports | None) -> Iterator[tuple[str, str]]:
        if ports is None:
            yield "", ""
            return
        for item in ports.ranges:
            yield f"-p {item.protocol.lower()}", _port_match(item)
        for named in ports.named if self._members is None else ():
            protocol = f"-p {named.protocol.lower()}" if named.protocol else ""
            yield protocol, f"-m set --match-set {names.named_ipset(self._family, named.name)} dst,dst"

    # Without ipsets, a named port is a rule for each place that has it.
    def _places(self, rule: Rule, direction: Direction, members: Members) -> Iterator[str]:
        for named in rule.ports.named if rule.ports is not None else ():
            places = [place for place in members.of_port(named.name, direction) if named.protocol in {"", place[1]}]
            if len(places) > MAX_MEMBERS:
                raise NoIpsetError(f"the port {named.name} is in {len(places)} places")
            for address, protocol, port in sorted(places):
                where = f"-d {host_text(address)} -p {protocol.lower()} -m {protocol.lower()} --dport {port}"
                if direction is Direction.INGRESS:
                    yield from (f"{source} {where}".strip() for source, _ in self._peers(rule, direction))
                elif self._is_peer(rule, address, members):
                    yield where

    @staticmethod
    def _is_peer(rule: Rule, address: Address, members: Members) -> bool:
        return (
            rule.anyone
            or any(address in members.of_selector(selector_id(selector)) for selector in rule.selectors)
            or any(len(first) == len(address) and first <= address <= last for first, last in rule.blocks)
        )


class NoIpsetError(Exception):
    """Something needs an ipset, and there are none; says what, in words."""


def host_text(address: Address) -> str:
    """An address as iptables-save writes it."""
    return f"{ip_address(address)}/{len(address) * 8}"


def cidrs_of(first: Address, last: Address) -> list[str]:
    """A range as CIDRs."""
    return [str(network) for network in summarize_address_range(ip_address(first), ip_address(last))]


def is_of(family: Family, address: Address) -> bool:
    """Whether an address is of a family."""
    return family_of(address) is family


def _port_match(item: PortRange) -> str:
    if (item.first, item.last) == ALL_PORTS:
        return ""
    ports = str(item.first) if item.first == item.last else f"{item.first}:{item.last}"
    return f"-m {item.protocol.lower()} --dport {ports}"
