"""What iptables-legacy-save prints comes in, chains that may drop what Services need go out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rulegen.firewalls.model import Hooked, Match, Obstacle, Rule, Verdict, obstacle

_COMMENT = re.compile(r'-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ')
_RULE = re.compile(
    r"(?:-m conntrack --ctstate (?P<states>[A-Z,]+) )?"
    r"-(?P<kind>[jg]) (?P<target>\S+)(?: .*)?"
)
_VERDICTS = {
    "ACCEPT": Verdict.ACCEPT,
    "DROP": Verdict.DROP,
    "REJECT": Verdict.REJECT,
    "RETURN": Verdict.RETURN,
    **dict.fromkeys(("LOG", "NFLOG", "MARK", "CONNMARK", "TRACE"), Verdict.NONE),
}
# Where the packets to Services have been translated before: (table, chain).
_BEFORE = {("raw", "PREROUTING"), ("mangle", "PREROUTING"), ("raw", "OUTPUT"), ("mangle", "OUTPUT")}


def obstacles(program: str, saved: str) -> list[Obstacle]:
    """In all tables. `program`: its name, for people."""
    found = []
    for table, policies, rules in _tables(saved.splitlines()):
        for name, drops in policies.items():
            place = f"{program} chain {name} of table {table}"
            chain = Hooked(place, name, name.lower(), drops, (table, name) not in _BEFORE)
            found.append(obstacle(chain, lambda name, rules=rules: rules.get(name, ())))  # type: ignore[misc]
    return [one for one in found if one is not None]


def _tables(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, bool], dict[str, list[Rule]]]]:
    """Each table's built-in chains, with whether they drop by policy, and all rules by chain."""
    table, policies, rules = "", dict[str, bool](), dict[str, list[Rule]]()
    for line in lines:
        if line.startswith("*"):
            table, policies, rules = line[1:], {}, {}
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split(" ")
            rules[name] = []
            if policy != "-":
                policies[name] = policy == "DROP"
        elif line.startswith("-A "):
            _, name, rule = line.split(" ", 2)
            rules[name].append(_read(rule))
        elif line == "COMMIT":
            yield table, policies, rules


def _read(text: str) -> Rule:
    found = _RULE.fullmatch(_COMMENT.sub("", text))
    if found is None or (found["states"] and "DNAT" not in found["states"].split(",")):
        return Rule(Match.UNKNOWN, Verdict.NONE)
    match = Match.TRANSLATED if found["states"] else Match.ALL
    if found["kind"] == "g":
        return Rule(match, Verdict.GOTO, found["target"])
    verdict = _VERDICTS.get(found["target"], Verdict.JUMP)
    return Rule(match, verdict, found["target"] if verdict is Verdict.JUMP else "")
