"""The tables of one variant and family as they are in the kernel, in full or not at all.

In: a variant and a family. Out: each table's lines as iptables-save writes them, and the rules of those chains that it
leaves out because they hold what only nft knows. A listing that is cut off, or lacks a table that the kernel has, is an
error, never an empty table. Changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from rulegen.config import Family
from rulegen.errors import HostError, StaleError, shown
from rulegen.interfaces import host_families
from rulegen.iptables import binaries, nf_tables
from rulegen.iptables.binaries import Variant
from rulegen.iptables.names import PREFIX, is_our_comment, is_ours
from rulegen.iptables.nf_tables import HiddenRule

# Those that the programs of either variant know.
_TABLES = ("raw", "mangle", "nat", "filter", "security")
# Chains by which the kubelet tells others which variant it uses.
_HINT = re.compile(r":KUBE-(?:IPTABLES-HINT|KUBELET-CANARY) ")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_COUNTERS = re.compile(r"\[\d+:\d+\] (?=-A )")
_VERDICTS = {"ACCEPT", "DROP", "QUEUE", "RETURN"}
# Stands for matches that iptables has no words for.
_UNKNOWN = "-m nft "
# Of a table that is listed chain by chain, while others change its chains.
_ATTEMPTS = 20


class Table(NamedTuple):
    """`lines`: `:CHAIN ...` and `-A CHAIN ...`, in order. `hidden`: all rules of chains that iptables does not list."""

    name: str
    lines: list[str]
    hidden: tuple[HiddenRule, ...] = ()


def list_tables(variant: Variant, family: Family, is_read: Callable[[str], bool] = is_ours) -> list[Table]:
    """The tables that there are, in the network namespace of the calling thread.

    `is_read`: the chains whose rules are asked for one by one where iptables does not list their table; those of the
    others are hidden then. Raises HostError, StaleError.
    """
    # Asked first: a table that comes meanwhile need not be listed.
    present = nf_tables.tables(family) if variant is Variant.NFT else binaries.legacy_tables(family)
    if not present:
        # To iptables-nft, a kernel without nf_tables would be a fault.
        return []
    saved = binaries.save(variant, family)
    listed = _parse(f"iptables-{variant.value}-save ({family.value})", saved)
    missing = [name for name in _TABLES if name in present and name not in listed]
    if variant is Variant.LEGACY:
        if missing:
            raise HostError(f"iptables-legacy-save ({family.value}) did not list the table {missing[0]}")
        return [Table(name, lines) for name, lines in listed.items()]
    partial = set(re.findall(r"^# Table `(\w+)' contains incompatible base-chains", saved, re.MULTILINE))
    found = [
        _with_hidden_chains(family, name, lines) if name in partial else Table(name, lines)
        for name, lines in listed.items()
    ]
    return [*found, *(_chain_by_chain(family, name, is_read) for name in missing)]


def in_words(table: Table) -> Iterator[str]:
    """The hidden rules that matter to rulegen, as iptables-save would write them; of others' only what they decide."""
    for rule in table.hidden:
        if is_jump(rule):
            yield f"-A {rule.chain} {in_place(rule)}"
        elif rule.target in _VERDICTS:
            yield f"-A {rule.chain} {'' if rule.is_unconditional else _UNKNOWN}-j {rule.target}"


def in_place(rule: HiddenRule) -> str:
    """A hidden rule as an entry holds it."""
    return rule.words or f"{_UNKNOWN}-j {rule.target}"


def is_jump(rule: HiddenRule) -> bool:
    """Whether a hidden rule of somebody else's chain is one that rulegen put there."""
    return not is_ours(rule.chain) and (is_ours(rule.target) or is_our_comment(rule.comment))


def detect() -> Variant:
    """The variant in use, as the ecosystem tells: the kubelet's hint, else the one with more rules, else nft.

    Raises HostError without any, or when one that is installed cannot be asked.
    """
    found = {variant: _others_lines(variant) for variant in Variant if binaries.installed(variant)}
    if not found:
        raise HostError("iptables is not installed: neither iptables-nft-save nor iptables-legacy-save is there")
    for variant, lines in found.items():
        if any(map(_HINT.match, lines)):
            return variant
    counts = {variant: sum(not line.startswith(":") for line in lines) for variant, lines in found.items()}
    return max(counts, key=lambda variant: (counts[variant], variant is Variant.NFT))


def _others_lines(variant: Variant) -> list[str]:
    """All chains and rules but rulegen's own, which say where rulegen was, not what the host uses."""
    found = []
    for family in host_families():
        for table in list_tables(variant, family, lambda _: False):
            found += [line for line in table.lines if PREFIX not in line]
            found += [f"-A {rule.chain}" for rule in table.hidden if not (is_ours(rule.chain) or is_jump(rule))]
    return found


def _parse(source: str, saved: str) -> dict[str, list[str]]:
    """The lines of each table, declarations first."""
    listed: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in _lines(saved):
        if not line or line.startswith("#"):
            continue
        if lines is None and line.startswith("*"):
            lines = listed[line[1:]] = []
        elif lines is not None and line == "COMMIT":
            lines = None
        elif lines is not None and line.startswith((":", "-A ")):
            lines.append(line)
        elif lines is not None and (counters := _COUNTERS.match(line)):
            lines.append(line[counters.end() :])
        else:
            raise HostError(
                f"{source}: expected a rule, COMMIT or a table as iptables-save writes it, found {shown(line)}"
            )
    if lines is not None:
        raise HostError(f"{source}: the listing of the table {list(listed)[-1]} is cut off: it ends without COMMIT")
    return listed


def _lines(saved: str) -> Iterator[str]:
    """Lines as iptables writes them: a comment may hold anything, line ends too."""
    open_line = ""
    for part in saved.split("\n"):
        line = f"{open_line}\n{part}" if open_line else part
        if (_ESCAPED.sub("", line) if "\\" in line else line).count('"') % 2:
            open_line = line
        else:
            open_line = ""
            yield line
    if open_line:
        yield open_line


def _with_hidden_chains(family: Family, name: str, lines: list[str]) -> Table:
    """A table that was listed but for some chains."""
    known = {line[1:].partition(" ")[0] for line in lines if line.startswith(":")}
    filled = {line[3:].partition(" ")[0] for line in lines if line.startswith("-A ")}
    # A chain where a built-in one should be is shown as if it were that, without its rules.
    return Table(name, lines, tuple(rule for rule in nf_tables.rules(family, name) if rule.chain not in known & filled))


def _chain_by_chain(family: Family, name: str, is_read: Callable[[str], bool]) -> Table:
    """A table that iptables did not list. Raises StaleError where chains go again and again before they are read."""
    for _ in range(_ATTEMPTS):
        with suppress(binaries.MissingChainError):
            return _of_chains(family, name, is_read)
    raise StaleError(f"the table {name} ({family.value}) changed during each of {_ATTEMPTS} attempts to read it")


def _of_chains(family: Family, name: str, is_read: Callable[[str], bool]) -> Table:
    chains = nf_tables.chains(family, name)
    lines = [f":{chain} - [0:0]" for chain in chains]
    for chain in filter(is_read, chains):
        rules = binaries.list_chain(family, name, chain)
        # iptables 1.8.9 says the same of a chain that is not there; 1.8.11 does not.
        if rules is None and chain not in nf_tables.chains(family, name):
            raise binaries.MissingChainError(f"{name} ({family.value}): there is no chain {chain}")
        lines += [f"-A {chain} {_UNKNOWN.strip()}"] if rules is None else rules
    return Table(name, lines, tuple(rule for rule in nf_tables.rules(family, name) if not is_read(rule.chain)))
