"""Chains as values: what an entry of this driver is, what a feature says of its chains, and text taken apart. Pure.

A rule is the text after `-A CHAIN`, written as iptables-save lists it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

from rulegen.config import Family
from rulegen.iptables import names
from rulegen.iptables.names import PREFIX
from rulegen.iptables.rules import parse_rule
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.feature import Compiler

RAW, MANGLE, NAT, FILTER = "raw", "mangle", "nat", "filter"
# In the order of a packet.
TABLES = (RAW, MANGLE, NAT, FILTER)
# Of entries that are no chains; see `ipsets`.
IPSET = "ipset"


class EntryKey(NamedTuple):
    """A chain: one of a feature's with all its rules, or a built-in one with those rules that the feature put there.

    Or a set of ipset, or an element of one; see `ipsets`. `prefix`: how the names of the feature's chains begin; it
    tells whose part of a built-in chain is meant.
    """

    family: Family
    table: str
    chain: str
    prefix: str = PREFIX

    @property
    def is_built_in(self) -> bool:
        """Whether the chain is the kernel's, so that others' rules stand there too."""
        return self.table != IPSET and not names.is_ours(self.chain)


Rules: TypeAlias = tuple[str, ...]
Entries: TypeAlias = dict[EntryKey, Rules]


@dataclass(frozen=True)
class BaseChains:
    """One family's fixed part of a feature.

    `text` has a line for each rule and the comments, table by table, as iptables-restore takes it where nothing of the
    feature is yet; `entries` the same without comments.
    """

    family: Family
    text: str
    entries: Mapping[EntryKey, Rules]


class ChainCompiler(Compiler[Entries], Protocol):
    """A Compiler for this driver.

    `prefix`: with which the names of its chains begin; no other feature's do, unless with a longer one. `rank`: in a
    built-in chain the rules of the lowest come first. `guards`: it refuses packets that nobody else may accept before.
    `yields`: its rules come behind what other programs have in a built-in chain, wherever that sends packets; its rank
    is above that of those which do not.
    """

    prefix: str
    rank: int
    guards: bool
    yields: bool

    @property
    def base_chains(self) -> Mapping[Family, BaseChains]:
        """Each family's fixed part, as the last update made it."""
        ...

    def needs(self, family: Family) -> Mapping[str, tuple[str, str]]:
        """What the rules need of a kernel: in words, with the table and a rule that it takes if it has that."""
        ...

    def sections(self, chains: Entries) -> Mapping[str, Sequence[EntryKey]]:
        """Chains of one table that are not in the fixed part, in the order of a rendered file, by their headings."""
        ...


@runtime_checkable
class UsesIpsets(Protocol):
    """A `ChainCompiler` whose rules look into sets of ipset where a host has them."""

    def use_ipsets(self, *, are_there: bool) -> None:
        """Whether all entries from now on, also of what was compiled before, use sets. Before anybody says, they do."""
        ...


def by_rank(compilers: CompilerSet) -> list[ChainCompiler]:
    """The compilers in the order in which their rules stand in a built-in chain."""
    found = cast("list[ChainCompiler]", list(compilers.by_feature.values()))
    return sorted(found, key=lambda compiler: (compiler.rank, compiler.prefix))


def prefixes_of(compilers: Iterable[ChainCompiler]) -> tuple[str, ...]:
    """The prefixes of compilers, in their order, and the one that all others begin with."""
    return tuple(dict.fromkeys((*(compiler.prefix for compiler in compilers), PREFIX)))


def features_by_prefix(compilers: CompilerSet) -> dict[str, str]:
    """The features, by the prefixes of their chains, and by `IPSET` the one that uses sets."""
    found = cast("Mapping[str, ChainCompiler]", compilers.by_feature)
    prefixes = {compiler.prefix: name for name, compiler in found.items()}
    for name, compiler in found.items():
        if isinstance(compiler, UsesIpsets):
            prefixes[IPSET] = name
    return prefixes


def guards_of(compilers: Iterable[ChainCompiler]) -> tuple[str, ...]:
    """The prefixes of the compilers before whose rules nothing may accept a packet."""
    return tuple(compiler.prefix for compiler in compilers if compiler.guards)


def yielding_of(compilers: Iterable[ChainCompiler]) -> tuple[str, ...]:
    """The prefixes of the compilers whose rules stand behind those of other programs."""
    return tuple(compiler.prefix for compiler in compilers if compiler.yields)


def base_chains(family: Family, text: str, prefix: str = PREFIX) -> BaseChains:
    """A feature's text, taken apart. `prefix`: that of its chains."""
    return BaseChains(family, text, parse_rules(family, text.splitlines(), [prefix]))


def is_our_rule(rule: str) -> bool:
    """Whether rulegen put a rule into somebody else's chain: it leads to a chain of rulegen's, or says so in a comment.

    The text of a comment or a log prefix may look like either.
    """
    return bool(_our_name(rule))


def prefix_of_rule(rule: str, prefixes: Sequence[str]) -> str:
    """Which feature put a rule into somebody else's chain, by the prefix of its chains; "" for none of ours."""
    name = _our_name(rule)
    return names.prefix_of(name, prefixes) if name else ""


def _our_name(rule: str) -> str:
    """The chain or the comment by which a rule in somebody else's chain is rulegen's."""
    if PREFIX not in rule:
        return ""
    parsed = parse_rule(rule)
    if names.is_ours(parsed.target):
        return parsed.target
    comment = parsed.options.get("--comment", "")
    return comment if names.is_our_comment(comment) else ""


def parse_rules(family: Family, lines: Iterable[str], prefixes: Sequence[str] = (PREFIX,)) -> Entries:
    """The entries of a file for iptables-restore; only rulegen's own chains, and its rules in others.

    `prefixes`: those of the features' chains.
    """
    entries: dict[EntryKey, list[str]] = {}
    table = ""
    for line in lines:
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(f":{PREFIX}"):
            chain = line[1:].split(" ", 1)[0]
            entries[EntryKey(family, table, chain, names.prefix_of(chain, prefixes))] = []
        elif line.startswith(("-A ", "-I ")):
            command, chain, rule = line.rstrip("\n").split(" ", 2)
            is_built_in = not names.is_ours(chain)
            prefix = prefix_of_rule(rule, prefixes) if is_built_in else names.prefix_of(chain, prefixes)
            if prefix:
                rules = entries.setdefault(EntryKey(family, table, chain, prefix), [])
                rules.insert(0 if command == "-I" else len(rules), rule)
    return {key: tuple(rules) for key, rules in entries.items()}


def target_of(rule: str) -> str:
    """The chain or extension that a rule leads to, "" for none."""
    for option in (" -j ", " -g "):
        _, found, target = f" {rule}".rpartition(option)
        if found:
            return target.split(" ", 1)[0]
    return ""
