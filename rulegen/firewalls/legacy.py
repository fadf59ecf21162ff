"""Tables of legacy iptables come in, chains that may drop what Services need go out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rulegen.firewalls.model import Hooked, Match, Obstacle, Rule, Verdict, obstacle
from rulegen.iptables.listing import Table

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


def obstacles(program: str, tables: Iterable[Table]) -> list[Obstacle]:
    """In all tables. `program`: its name, for people."""
    found = []
    for table in tables:
        rules = _rules(table)
        for line in table.lines:
            name, policy = line.split(" ")[:2]
            if not name.startswith(":") or policy == "-":
                continue
            name = name[1:]
            place = f"{program} chain {name} of table {table.name}"
            chain = Hooked(place, name, name.lower(), policy == "DROP", (table.name, name) not in _BEFORE)
            found.append(obstacle(chain, lambda name, rules=rules: rules.get(name, ())))  # type: ignore[misc]
    return [one for one in found if one is not None]


def _rules(table: Table) -> dict[str, list[Rule]]:
    """Those of each chain."""
    rules: dict[str, list[Rule]] = {}
    for line in table.lines:
        if line.startswith("-A "):
            _, name, rule = line.split(" ", 2)
            rules.setdefault(name, []).append(_read(rule))
    return rules


def _read(text: str) -> Rule:
    found = _RULE.fullmatch(_COMMENT.sub("", text))
    if found is None or (found["states"] and "DNAT" not in found["states"].split(",")):
        return Rule(Match.UNKNOWN, Verdict.NONE)
    match = Match.TRANSLATED if found["states"] else Match.ALL
    if found["kind"] == "g":
        return Rule(match, Verdict.GOTO, found["target"])
    verdict = _VERDICTS.get(found["target"], Verdict.JUMP)
    return Rule(match, verdict, found["target"] if verdict is Verdict.JUMP else "")
