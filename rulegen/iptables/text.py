"""Chains as a file that an administrator can read and iptables-restore can load, and such files back as chains. Pure.

Canonical: the same chains give the same bytes. One file holds the rules of one family or of both, each part headed by
the command that loads it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from rulegen.config import Family
from rulegen.errors import InputError
from rulegen.iptables.names import is_of_service
from rulegen.iptables.program import Entries, EntryKey, Program, Rules, parse_rules

RESTORE = {Family.IPV4: "iptables-restore", Family.IPV6: "ip6tables-restore"}
_HEADER = {f"# {command} --noflush": family for family, command in RESTORE.items()}
_COMMENT = re.compile(r'--comment "([^"]*)"')


def render(programs: Mapping[Family, Program], entries: Mapping[EntryKey, Rules]) -> Iterator[str]:
    """All rules as lines with their ends: what iptables-restore adds to tables that hold nothing of rulegen's."""
    tables: dict[tuple[Family, str], Entries] = {}
    for key, rules in entries.items():
        tables.setdefault((key.family, key.table), {})[key] = rules
    for family, program in programs.items():
        yield f"# {RESTORE[family]} --noflush\n"
        table = ""
        for line in program.text.splitlines(keepends=True):
            if line.startswith("*"):
                table = line[1:].strip()
            elif line == "COMMIT\n":
                chains = tables.get((family, table), {})
                yield from _render_chains({key: rules for key, rules in chains.items() if _is_generated(key, program)})
            yield line


def _is_generated(key: EntryKey, program: Program) -> bool:
    """Whether a chain's rules are not in the text of the fixed part; the roots of trees are only declared there."""
    return not program.entries.get(key)


def _render_chains(chains: Entries) -> Iterator[str]:
    """The trees, then the Services one by one; declarations first, since a rule leads only to a chain that is there."""
    groups: dict[str, list[EntryKey]] = {}
    for key, rules in chains.items():
        if rules:
            groups.setdefault(comment_of(rules[:1]) if is_of_service(key.chain) else "", []).append(key)
    ordered = [(service, sorted(groups[service], key=lambda key: key.chain)) for service in sorted(groups)]
    if ordered:
        yield "\n"
    yield from (f":{chain} - [0:0]\n" for chain in sorted(key.chain for _, keys in ordered for key in keys))
    for service, keys in ordered:
        yield f"\n# {service or 'By address and by port.'}\n"
        yield from (f"-A {key.chain} {rule}\n" for key in keys for rule in chains[key])


def comment_of(rules: Iterable[str]) -> str:
    """The Service that rules are for, as their comments say; "" when there are several or none."""
    found = {match[1] for rule in rules if (match := _COMMENT.search(rule))}
    return found.pop() if len(found) == 1 else ""


def parse(lines: Iterable[str], source: str) -> Entries:
    """The chains of a file that `render` wrote. Raises InputError."""
    parts: dict[Family, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        family = _HEADER.get(line.rstrip("\n"))
        if family is not None:
            current = parts.setdefault(family, [])
        elif current is not None:
            current.append(line)
    if not parts:
        raise InputError(f"{source}: expected what `rulegen render --target iptables` writes, found nothing of it")
    entries: Entries = {}
    for family, part in parts.items():
        entries |= parse_rules(family, part)
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
