"""What a chain does with traffic of Services, from its rules as far as they can be told safely. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

# As deep as the kernel goes (NFT_JUMP_STACK_SIZE).
_DEEPEST = 16

# What is lost where a chain at this hook drops.
_CONCERNED = {
    "forward": "Services with endpoints in pods",
    "input": "health-check ports of Services, and Services with endpoints in this node's own network",
    "output": "connections of this node to Services",
}
_ALL = "all Services"


class Match(Enum):
    """Which packets of Services a rule is for."""

    ALL = "all"
    # Those of connections whose destination was translated: all to Services, where there are endpoints.
    TRANSLATED = "translated"
    UNKNOWN = "unknown"


class Verdict(Enum):
    """What a rule does with them."""

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"
    NONE = "none"


class Rule(NamedTuple):
    """`chain`: where a jump or goto leads."""

    match: Match
    verdict: Verdict
    chain: str = ""


class Hooked(NamedTuple):
    """A chain with a hook. `place`: table and chain, as words; `hook`: its name; `drops`: its policy is drop.

    `is_translated`: packets to Services come there with their endpoint's address.
    """

    place: str
    name: str
    hook: str
    drops: bool
    is_translated: bool


class Obstacle(NamedTuple):
    """A chain that may drop what Services need."""

    place: str
    hook: str
    why: str

    def __str__(self) -> str:
        """In one line."""
        return f"{self.place} ({self.why}) may drop {_CONCERNED.get(self.hook, _ALL)}"


RulesOf = Callable[[str], Sequence[Rule]]


def obstacle(chain: Hooked, rules_of: RulesOf) -> Obstacle | None:
    """What stands in the way there. `rules_of`: the rules of a chain of the same table."""
    verdict = _decide(chain.name, rules_of, chain.is_translated, _DEEPEST)
    if verdict in {Verdict.DROP, Verdict.REJECT}:
        word = "drops" if verdict is Verdict.DROP else "rejects"
        return Obstacle(chain.place, chain.hook, f"a rule {word} whatever comes to it")
    if verdict is Verdict.NONE and chain.drops:
        return Obstacle(chain.place, chain.hook, "policy drop")
    return None


def _decide(name: str, rules_of: RulesOf, is_translated: bool, depth: int) -> Verdict:
    """ACCEPT, DROP or REJECT where the chain does that to all traffic of Services; else NONE."""
    for rule in rules_of(name) if depth else ():
        if rule.match is Match.UNKNOWN or (rule.match is Match.TRANSLATED and not is_translated):
            continue
        match rule.verdict:
            case Verdict.ACCEPT | Verdict.DROP | Verdict.REJECT:
                return rule.verdict
            case Verdict.RETURN:
                return Verdict.NONE
            case Verdict.JUMP | Verdict.GOTO:
                verdict = _decide(rule.chain, rules_of, is_translated, depth - 1)
                if verdict is not Verdict.NONE or rule.verdict is Verdict.GOTO:
                    return verdict
    return Verdict.NONE
