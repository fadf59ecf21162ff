"""Chains as a file that an administrator can read and iptables-restore can load, and such files back as chains. Pure.

Canonical: the same chains give the same bytes. One file holds the rules of one family or of both, each part headed by
the command that loads it; what rules look into comes in a part before theirs. A table stands there once, with the
chains of all features.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rulegen.config import Family
from rulegen.errors import InputError
from rulegen.iptables import ipsets
from rulegen.iptables.chains import IPSET, TABLES, BaseChains, ChainCompiler, Entries, EntryKey, Rules, parse_rules
from rulegen.iptables.names import PREFIX, is_our_comment
from rulegen.rendered import END, RenderedLines

RESTORE = {Family.IPV4: "iptables-restore", Family.IPV6: "ip6tables-restore"}
_HEADER = {f"# {command} --noflush": family for family, command in RESTORE.items()}
IPSET_HEADER = "# ipset -exist restore"
_COMMENT = re.compile(r'--comment "([^"]*)"')


def render(compilers: Iterable[ChainCompiler]) -> Iterator[str]:
    """All rules as lines with their ends: what iptables-restore adds to tables that hold nothing of rulegen's.

    `compilers`: in the order in which their rules stand in a built-in chain.
    """
    # Each puts its own in front of what is there.
    parts = [_Part(compiler) for compiler in reversed(list(compilers))]
    for family in Family:
        tables = [part.tables(family) for part in parts]
        if not any(tables):
            continue
        lines = [line for part in parts for line in part.ipsets(family)]
        if lines:
            yield f"{IPSET_HEADER}\n"
            yield from lines
            yield "\n"
        yield f"# {RESTORE[family]} --noflush\n"
        separator = ""
        for table in TABLES:
            bodies = [body for found in tables for body in found.get(table, ())]
            if bodies:
                yield f"{separator}*{table}\n"
                yield from bodies
                yield "COMMIT\n"
                separator = "\n"
    yield END


class _Part:
    """A feature's part of the file."""

    def __init__(self, compiler: ChainCompiler) -> None:
        self._compiler = compiler
        self._chains: dict[tuple[Family, str], Entries] = {}
        for key, rules in compiler.entries().items():
            self._chains.setdefault((key.family, key.table), {})[key] = rules

    def ipsets(self, family: Family) -> Iterator[str]:
        """The lines that make and fill the sets."""
        return ipsets.render(self._chains.get((family, IPSET), {}))

    def tables(self, family: Family) -> dict[str, list[str]]:
        """The lines of each table, those of the fixed part before the others."""
        fixed = self._compiler.base_chains.get(family)
        tables: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in fixed.text.splitlines(keepends=True) if fixed else ():
            if line.startswith("*"):
                lines = tables[line[1:].strip()] = []
            elif line == "COMMIT\n":
                lines = []
            else:
                lines.append(line)
        for (of, table), chains in self._chains.items():
            if fixed and of is family and table != IPSET:
                generated = {key: rules for key, rules in chains.items() if _is_generated(key, fixed)}
                tables.setdefault(table, []).extend(self._generated(generated))
        return tables

    def _generated(self, chains: Entries) -> Iterator[str]:
        """Declarations first, since a rule leads only to a chain that is there."""
        sections = self._compiler.sections({key: rules for key, rules in chains.items() if rules})
        if sections:
            yield "\n"
        yield from (f":{chain} - [0:0]\n" for chain in sorted(key.chain for keys in sections.values() for key in keys))
        for heading, keys in sections.items():
            yield f"\n# {heading}\n"
            yield from (f"-A {key.chain} {rule}\n" for key in keys for rule in chains[key])


def _is_generated(key: EntryKey, base_chains: BaseChains) -> bool:
    """Whether a chain's rules are not in the text of the fixed part; some chains are only declared there."""
    return not base_chains.entries.get(key)


def comment_of(rules: Iterable[str]) -> str:
    """Whom rules are for, as their comments say; "" when there are several or none."""
    found = comments_of(rules)
    return found[0] if len(found) == 1 else ""


def comments_of(rules: Iterable[str]) -> list[str]:
    """All whom rules are for, each once, in order; comments that only say what a rule is are not among them."""
    found = dict.fromkeys(match[1] for rule in rules if (match := _COMMENT.search(rule)))
    return [comment for comment in found if not is_our_comment(comment)]


def parse(lines: Iterable[str], source: str, prefixes: Sequence[str] = (PREFIX,)) -> Entries:
    """The chains of a file that `render` wrote, all of it. `prefixes`: those of features' chains. Raises InputError."""
    parts: dict[Family, list[str]] = {}
    sets: list[str] = []
    current: list[str] | None = None
    rendered = RenderedLines(lines, source)
    for line in rendered:
        if line.startswith("# Generated by "):
            raise InputError(
                f"{source}: expected what `rulegen render --target iptables` writes, got what iptables-save lists"
            )
        family = _HEADER.get(line.rstrip("\n"))
        if family is not None:
            current = parts.setdefault(family, [])
        elif line.rstrip("\n") == IPSET_HEADER:
            current = sets
        elif current is not None:
            current.append(line)
    if not parts:
        raise InputError(f"{source}: expected what `rulegen render --target iptables` writes, found nothing of it")
    rendered.check()
    entries = ipsets.parse_saved(line.rstrip("\n") for line in sets)
    for family, part in parts.items():
        entries |= parse_rules(family, part, prefixes)
    return entries


# ---- the same rule in other words ----

_DEFAULTS = {
    "--mask": {"255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
    "--reject-with": {"icmp-port-unreachable", "icmp6-port-unreachable"},
}
_IMPLIED = {"--rsource"}
_PROTOCOL_MATCHES = {"tcp", "udp", "sctp"}


def adopt_wording(live: Mapping[EntryKey, Rules], desired: Mapping[EntryKey, Rules]) -> Mapping[EntryKey, Rules]:
    """`live`, with the desired wording for chains that mean the same: not all iptables list options alike."""
    reworded = {
        key: rules
        for key, rules in desired.items()
        if (found := live.get(key)) is not None and found != rules and _mean_the_same(found, rules)
    }
    return {**live, **reworded} if reworded else live


def _mean_the_same(one: Rules, other: Rules) -> bool:
    return len(one) == len(other) and all(a == b or _meaning(a) == _meaning(b) for a, b in zip(one, other, strict=True))


def _meaning(rule: str) -> list[str]:
    """The words of a rule, without defaults and with numbers in one form."""
    try:
        words = iter(shlex.split(rule))
    except ValueError:
        return [rule]
    found: list[str] = []
    for word in words:
        if word in _IMPLIED:
            continue
        if word in _DEFAULTS or word == "-m":
            value = next(words, "")
            if value not in _DEFAULTS.get(word, _PROTOCOL_MATCHES):
                found += [word, value]
        elif word == "--probability":
            found += [word, _threshold(next(words, ""))]
        else:
            found.append(word)
    return found


def _threshold(probability: str) -> str:
    try:
        return str(round(float(probability) * (1 << 31)))
    except ValueError:
        return probability
