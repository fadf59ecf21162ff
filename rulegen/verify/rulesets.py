"""Where rules come from: the kernel, or a file. Out: rulesets as the evaluator reads them, by family.

Of nf_tables only whole tables are read, of iptables only the chains of one program and the jumps that lead there;
whatever else there is counts as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from typing import NamedTuple

from rulegen.config import Family as HostFamily
from rulegen.errors import AbsentError, HostError, InputError, printable
from rulegen.iptables import ipset_program
from rulegen.iptables.binaries import Variant, installed
from rulegen.iptables.listing import Table, detect, in_words, list_tables
from rulegen.netfilter import iptables, nft
from rulegen.netfilter.ipsets import IpSet
from rulegen.netfilter.ipsets import parse_saved as parse_ipsets
from rulegen.netfilter.kernel import list_tables as list_nft_tables
from rulegen.netfilter.model import Family, Ruleset
from rulegen.paths import as_text, read_named
from rulegen.rendered import RenderedLines
from rulegen.verify.sandbox import load_and_list

FAMILIES = {HostFamily.IPV4: Family.IPV4, HostFamily.IPV6: Family.IPV6}


class Program(Enum):
    """Whose rules: the name of its tables in nf_tables, and the beginning of its chains in iptables."""

    RULEGEN = ("rulegen", "RULEGEN-")
    KUBE_PROXY = ("kube-proxy", "KUBE-")

    @property
    def table(self) -> str:
        """In nf_tables."""
        return self.value[0]

    @property
    def prefix(self) -> str:
        """In iptables."""
        return self.value[1]


class Source(NamedTuple):
    """Rules by family, and where they are from, in words. `is_iptables`: which language they are in.

    `uncovered`: what of them nothing is said about, a line for each.
    """

    name: str
    is_iptables: bool
    rulesets: Mapping[Family, Ruleset]
    uncovered: tuple[str, ...] = ()


def live_nftables(program: Program, features: Iterable[str] = ()) -> Source:
    """The tables of a program in the kernel, and of its features, on or off. Raises HostError."""
    listings = list_nft_tables({program.table, *(f"{program.table}-{name}" for name in features)})
    found = {
        family: nft.read_ruleset(family, listings)
        for family in Family
        if any(one.family == family.value for one in listings)
    }
    return Source(f"the kernel's table {program.table}", is_iptables=False, rulesets=found)


def live_iptables(program: Program, variant: Variant | None) -> Source:
    """The chains of a program in the kernel. Raises HostError. `variant` None: the one that the host uses."""
    chosen = variant or detect()
    found = {}
    ipsets: dict[str, IpSet] | None = None
    for host_family, family in FAMILIES.items():
        tables = list_tables(chosen, host_family, lambda chain: chain.startswith(program.prefix))
        lines = {table.name: list(_own_lines(program, table)) for table in tables}
        if any(line.startswith(f":{program.prefix}") for part in lines.values() for line in part):
            if ipsets is None and any("--match-set" in line for part in lines.values() for line in part):
                ipsets = _live_ipsets()
            found[family] = iptables.read_ruleset(family, lines, ipsets)
    return Source(f"the kernel's chains {program.prefix}* (iptables-{chosen.value})", is_iptables=True, rulesets=found)


def _live_ipsets() -> dict[str, IpSet]:
    """Raises HostError."""
    try:
        return parse_ipsets(ipset_program.saved())
    except AbsentError:
        # Rules that look into one are then what nobody knows.
        return {}


def live_kube_proxy() -> Source:
    """The rules of kube-proxy, of whichever mode. Raises HostError when there are none, or of several modes."""
    found = []
    with suppress(AbsentError):
        found.append(live_nftables(Program.KUBE_PROXY))
    found += [live_iptables(Program.KUBE_PROXY, variant) for variant in Variant if installed(variant)]
    serving = [source for source in found if _serves(source)]
    if not serving:
        raise HostError("there are no rules of kube-proxy here that serve Services, in nf_tables or iptables")
    if len(serving) > 1:
        names = " and in ".join(source.name for source in serving)
        raise HostError(f"there are rules of kube-proxy in {names}: remove those that nobody uses")
    return serving[0]


def _serves(source: Source) -> bool:
    """Whether a packet meets rules: the kubelet has chains of its own that begin as kube-proxy's do."""
    wanted = ("services", "KUBE-SERVICES")
    return any(
        name in wanted for ruleset in source.rulesets.values() for table in ruleset.tables for name in table.chains
    )


def _own_lines(program: Program, table: Table) -> Iterator[str]:
    """Chains of the program, built-in ones, and rules that stand in or lead to its chains."""
    prefix = program.prefix
    for line in (*table.lines, *in_words(table)):
        name = line[1:].partition(" ")[0] if line.startswith(":") else line.split(" ", 2)[1]
        is_built_in = name.isupper() and "-" not in name
        if name.startswith(prefix) or (is_built_in and (line.startswith(":") or prefix in line)):
            # A built-in chain's policy is the host's.
            yield f":{name} ACCEPT" if line.startswith(":") and is_built_in else line


_NFT_TABLE = re.compile(r"^(?:add )?table (?:(ip6?|inet|arp|bridge|netdev) )?([\w./-]+)", re.MULTILINE)
_IP_FAMILIES = frozenset({"", "ip", "ip6"})
_RESTORE = re.compile(r"^# (ip6?tables)-restore\b.*$", re.MULTILINE)


def read_file(path: str) -> Source:
    """A rendered file, or what `nft list table` or `iptables-save` has written. Raises InputError, HostError."""
    text = as_text(read_named(path), "surrogateescape")
    if Program.RULEGEN.prefix in text or re.search(r"^table ip6? rulegen \{", text, re.MULTILINE):
        lines = RenderedLines(text.splitlines(keepends=True), printable(path))
        text = "".join(lines)
        lines.check()
    return read_text(text, printable(path))


def read_text(text: str, name: str) -> Source:
    """The same of a text. `name`: for messages."""
    tables = set(_NFT_TABLE.findall(text))
    if any(family in {*_IP_FAMILIES, "inet"} for family, _ in tables):
        listings = load_and_list(text, {table for _, table in tables})
        found = {
            family: nft.read_ruleset(family, listings)
            for family in Family
            if any(one.family == family.value for one in listings)
        }
        others = sorted(f"{family} {table}" for family, table in tables if family not in _IP_FAMILIES)
        uncovered = tuple(f"{name}: nothing is proved about table {other}" for other in others)
        return Source(name, is_iptables=False, rulesets=found, uncovered=uncovered)
    if re.search(r"^\*(?:nat|filter|mangle|raw)$", text, re.MULTILINE):
        return Source(name, is_iptables=True, rulesets=dict(_read_restores(text)))
    raise InputError(f"{name}: expected tables of nft, or of iptables-restore")


def _read_restores(text: str) -> Iterable[tuple[Family, Ruleset]]:
    """A part for each family, as `rulegen render` writes it; a file of iptables-save has one family."""
    marks = list(_RESTORE.finditer(text))
    ipsets = parse_ipsets(text.splitlines())
    if not marks:
        is_ipv6 = bool(
            re.search(r"^# Generated by ip6tables|^-A .*(?:/128|icmp6-port-unreachable)", text, re.MULTILINE)
        )
        family = Family.IPV6 if is_ipv6 else Family.IPV4
        yield family, iptables.read_ruleset(family, iptables.parse_restore(text), ipsets)
        return
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=True):
        family = Family.IPV4 if mark[1] == "iptables" else Family.IPV6
        yield family, iptables.read_ruleset(family, iptables.parse_restore(text[mark.end() : end]), ipsets)
