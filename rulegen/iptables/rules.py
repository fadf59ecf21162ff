"""The text of a rule comes in, its options go out; for those who follow or explain rules. Pure.

Knows the options that rulegen writes; of other people's rules only what is written alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from rulegen.networks import Network, contains, parse_network

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')


@dataclass(frozen=True)
class Rule:
    """A rule taken apart. `options`: by their names, with the text of their values; `-m` is left out.

    `negated`: the names of those that a `!` stands before.
    """

    options: Mapping[str, str]
    negated: frozenset[str]

    @property
    def target(self) -> str:
        """The chain or extension that the rule leads to, "" for none."""
        return self.options.get("-j", "") or self.options.get("-g", "")

    def allows(self, option: str, matches: Callable[[str], bool]) -> bool:
        """Whether packets with something that `matches` can match, as far as an option's value is concerned."""
        value = self.options.get(option)
        return value is None or matches(value) is not (option in self.negated)


@lru_cache(maxsize=4096)
def parse_rule(text: str) -> Rule:
    """A rule as an entry holds it."""
    options: dict[str, str] = {}
    negated = set()
    name, negates = "", False
    for word in _WORD.findall(text):
        if word == "!":
            negates = True
        elif word.startswith("-"):
            name, options[word] = word, ""
            if negates:
                negated.add(word)
            negates = False
        else:
            value = word.strip('"')
            options[name] = f"{options[name]} {value}" if options.get(name) else value
    options.pop("-m", None)
    return Rule(options, frozenset(negated))


def has_address(value: str, address: str) -> bool:
    """Whether the value of `-s` or `-d` has a canonical address."""
    network = _network(value)
    return network is not None and contains([network], address)


def has_port(value: str, port: int) -> bool:
    """Whether the value of `--dport`, a port or a range, has a port."""
    first, _, last = value.partition(":")
    return (first + last).isdecimal() and int(first or 0) <= port <= int(last or first)


@lru_cache(maxsize=4096)
def _network(value: str) -> Network | None:
    return parse_network(value if "/" in value else f"{value}/{'128' if ':' in value else '32'}")
