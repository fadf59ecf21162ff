"""The fixed part of one family, rendered from `templates/iptables/`, taken apart into chains.

In: the node's settings and the mark bit. Out: the text with its comments, and the same as entries. A rule is the text
after `-A CHAIN`, written as iptables-save lists it. Never talks to the kernel; knows no Service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rulegen.config import Cidr, Family
from rulegen.iptables import names
from rulegen.iptables.rules import parse_rule
from rulegen.services.model import NodeSettings

if TYPE_CHECKING:
    from jinja2 import Template

MANGLE, NAT, FILTER = "mangle", "nat", "filter"

# Where source and destination address stand in a packet, and how many words of 32 bits they have.
_ADDRESSES = {Family.IPV4: (12, 16, 1), Family.IPV6: (8, 24, 4)}
_LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}


class EntryKey(NamedTuple):
    """A chain: a rulegen chain with all its rules, or a built-in one with those rules that rulegen put there."""

    family: Family
    table: str
    chain: str

    @property
    def is_built_in(self) -> bool:
        """Whether the chain is the kernel's, so that others' rules stand there too."""
        return not names.is_ours(self.chain)


Rules: TypeAlias = tuple[str, ...]
Entries: TypeAlias = dict[EntryKey, Rules]


@dataclass(frozen=True)
class BaseChains:
    """One family's fixed part. `text` has a line for each rule and the comments; `entries` the same without them."""

    family: Family
    text: str
    entries: Mapping[EntryKey, Rules]


class Extras(NamedTuple):
    """Parts of the fixed chains that are there only when a Service needs them."""

    source_ranges: bool = False
    health_checks: bool = False


def render_base_chains(node: NodeSettings, masquerade_bit: int, extras: Extras) -> BaseChains:
    """The fixed part for this node. `masquerade_bit`: 0 to 31."""
    return _render_base_chains(node.family, node.nodeport_addresses, node.service_cidrs, masquerade_bit, extras)


def is_our_rule(rule: str) -> bool:
    """Whether rulegen put a rule into somebody else's chain: it leads to a chain of rulegen's, or says so in a comment.

    The text of a comment or a log prefix may look like either.
    """
    if names.PREFIX not in rule:
        return False
    parsed = parse_rule(rule)
    return names.is_ours(parsed.target) or parsed.options.get("--comment") == names.ESTABLISHED


def mark_text(masquerade_bit: int) -> str:
    """The masquerade mark, as iptables-save writes it."""
    return f"{1 << masquerade_bit:#x}"


def parse_rules(family: Family, lines: Iterable[str]) -> Entries:
    """The entries of a file for iptables-restore; only rulegen's own chains, and its rules in others."""
    entries: dict[EntryKey, list[str]] = {}
    table = ""
    for line in lines:
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(f":{names.PREFIX}"):
            entries[EntryKey(family, table, line[1:].split(" ", 1)[0])] = []
        elif line.startswith(("-A ", "-I ")):
            command, chain, rule = line.rstrip("\n").split(" ", 2)
            key = EntryKey(family, table, chain)
            if not key.is_built_in or is_our_rule(rule):
                rules = entries.setdefault(key, [])
                rules.insert(0 if command == "-I" else len(rules), rule)
    return {key: tuple(rules) for key, rules in entries.items()}


def target_of(rule: str) -> str:
    """The chain or extension that a rule leads to, "" for none."""
    for option in (" -j ", " -g "):
        _, found, target = f" {rule}".rpartition(option)
        if found:
            return target.split(" ", 1)[0]
    return ""


@lru_cache(maxsize=16)
def _render_base_chains(
    family: Family,
    nodeport_addresses: tuple[Cidr, ...],
    service_cidrs: tuple[Cidr, ...],
    masquerade_bit: int,
    extras: Extras,
) -> BaseChains:
    text = _template().render(
        loopback=_LOOPBACK[family],
        established=names.ESTABLISHED,
        extras=extras,
        mark=mark_text(masquerade_bit),
        same_address=_same_address(family),
        nodeport_addresses=[destination_match(cidr) for cidr in nodeport_addresses],
        service_cidrs=[destination_match(cidr) for cidr in service_cidrs],
    )
    return BaseChains(family, text, parse_rules(family, text.splitlines()))


def destination_match(cidr: Cidr) -> str:
    """`-d CIDR `, "" for the range that has every address, which iptables-save leaves out."""
    return "" if cidr.endswith("/0") else f"-d {cidr} "


def _same_address(family: Family) -> str:
    """A BPF program as `-m bpf` takes it: true when the packet's source address is its destination."""
    source, destination, words = _ADDRESSES[family]
    instructions = list(_comparisons(source, destination, words))
    return ",".join(map(str, [len(instructions), *instructions]))


def _comparisons(source: int, destination: int, words: int) -> Iterator[str]:
    for word in range(words):
        yield f"32 0 0 {source + 4 * word}"
        yield "7 0 0 0"
        yield f"32 0 0 {destination + 4 * word}"
        # on to the next word, or to the last instruction
        yield f"29 0 {4 * (words - word) - 3} 0"
    yield "6 0 0 1"
    yield "6 0 0 0"


@lru_cache(maxsize=1)
def _template() -> Template:
    import jinja2

    from rulegen.resources import templates

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates("iptables")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - rules, not HTML; nothing that a cluster sends is filled in
    )
    return environment.get_template("base_chains.rules.j2")
