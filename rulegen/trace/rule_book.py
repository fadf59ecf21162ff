"""Rules that packets have met: a place and a handle come in, what kernel and programs say of the rule goes out.

Only chains that a packet has come through are asked for, each once while the ruleset stays as it is. Words are
those of `nft -a list chain`, and of `iptables-nft -S` for its tables; where a program is missing, fails or hangs, the
rule is told without them. Changes nothing.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from rulegen import children
from rulegen.config import Family
from rulegen.errors import HostError, RulegenError, StaleError
from rulegen.iptables import binaries
from rulegen.netlink.messages import FAMILY_HEADER, attributes, comment_in, number_of, text_attribute, text_of
from rulegen.netlink.nf_tables import (
    CHAIN_NAME,
    CHAIN_TABLE,
    CHAIN_TYPE,
    EXPRESSION_DATA,
    EXPRESSION_NAME,
    GETCHAIN,
    GETRULE,
    MATCH_INFO,
    MATCH_NAME,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_HANDLE,
    RULE_TABLE,
    RULE_USERDATA,
)
from rulegen.nftables.messages import Connection, KernelError
from rulegen.nftables.undisturbed import undisturbed
from rulegen.trace.messages import Place

FAMILY_WORDS: Mapping[int, str] = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_IPTABLES = {2: Family.IPV4, 10: Family.IPV6}
_IPTABLES_TABLES = frozenset({"raw", "mangle", "nat", "filter", "security"})
# nft puts its words together again and reads them as a command: no others are given to it.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9/_.-]*")
_HANDLE = re.compile(r"\s*(?P<rule>.*?) # handle (?P<handle>\d+)")
_COUNTER = re.compile(r"\bcounter packets \d+ bytes \d+ ?")
_NFT_SECONDS = 10.0
# What is known of rules may be that old.
_LOOK_SECONDS = 1.0
Key = TypeVar("Key")
Found = TypeVar("Found")

# Of so many chains, no more is remembered.
_MOST_CHAINS = 2000


class Rule(NamedTuple):
    """`position`: in its chain, from 1; 0 for a rule that is gone. `rejects`: it does not drop silently."""

    position: int = 0
    comment: str = ""
    rejects: bool = False


class RuleBook:
    """Reads through a connection of its own thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rules: dict[Place, dict[int, Rule]] = {}
        self._words: dict[Place, dict[int, str]] = {}
        self._kinds: dict[Place, str] = {}
        self._generation = 0
        self._looked_at = 0.0

    def refresh(self) -> None:
        """Forgets what may have changed: where a rule stands in its chain. Does not look all the time."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        with suppress(KernelError, HostError):
            before, self._generation = self._generation, self._connection.generation()
            if before != self._generation:
                self._rules, self._words, self._kinds = {}, {}, {}

    def rule(self, place: Place, handle: int) -> Rule:
        """Of one that cannot be read, nothing is known but its handle."""
        known = self._rules.get(place)
        if known is None or handle not in known:
            if len(self._rules) >= _MOST_CHAINS:
                self._rules.clear()
            # What is gone by now is not asked for again.
            self._rules[place] = {handle: Rule(), **(known or {}), **self._rules_of(place)}
        return self._rules[place][handle]

    def words(self, place: Place, handle: int) -> str:
        """The rule as its program writes it; "" where that cannot be had."""
        known = self._words.get(place)
        if known is None or handle not in known:
            if len(self._words) >= _MOST_CHAINS:
                self._words.clear()
            listed = dict(self._iptables_words(place) if is_iptables(place) else _nft_words(place))
            self._words[place] = {handle: "", **(known or {}), **listed}
        return self._words[place][handle]

    def neighbours(self, place: Place, handle: int) -> list[str]:
        """The words of all rules of its chain, in order."""
        self.words(place, handle)
        self.rule(place, handle)
        words, rules = self._words[place], self._rules[place]
        return [words.get(number, "") for number in sorted(rules, key=rules.__getitem__) if rules[number].position]

    def comments(self, place: Place, handle: int) -> list[str]:
        """Those of all rules of its chain, in order."""
        self.rule(place, handle)
        return [rule.comment for rule in sorted(self._rules[place].values()) if rule.comment]

    def translates(self, place: Place) -> bool:
        """Whether a chain with a hook is of type nat."""
        if place not in self._kinds:
            self._kinds = {place: "", **_if_it_can_be_read(self._read_kinds)}
        return self._kinds[place] == "nat"

    def _rules_of(self, place: Place) -> dict[int, Rule]:
        return _if_it_can_be_read(partial(self._read, place))

    def _read(self, place: Place) -> dict[int, Rule]:
        payload = text_attribute(RULE_TABLE, place.table) + text_attribute(RULE_CHAIN, place.chain)
        found: dict[int, Rule] = {}
        for answer in self._connection.dump(GETRULE, place.family, payload):
            parts = dict(attributes(answer[FAMILY_HEADER:]))
            if text_of(parts[RULE_CHAIN]) == place.chain:
                expressions = dict(_expressions(parts.get(RULE_EXPRESSIONS, b"")))
                comment = comment_in(parts.get(RULE_USERDATA, b"")) or expressions.get("comment", "")
                rejects = bool({"reject", "REJECT"} & expressions.keys())
                found[number_of(parts, RULE_HANDLE)] = Rule(len(found) + 1, comment, rejects)
        return found

    def _read_kinds(self) -> dict[Place, str]:
        return {
            Place(answer[0], text_of(parts[CHAIN_TABLE]), text_of(parts[CHAIN_NAME])): text_of(parts[CHAIN_TYPE])
            for answer in self._connection.dump(GETCHAIN, 0)
            if CHAIN_TYPE in (parts := dict(attributes(answer[FAMILY_HEADER:])))
        }

    def _iptables_words(self, place: Place) -> Iterator[tuple[int, str]]:
        """By handle, where the program lists as many rules as the kernel."""
        if place.chain.startswith(("-", "!")):
            return
        try:
            listed = binaries.list_chain(_IPTABLES[place.family], place.table, place.chain) or []
        except RulegenError:
            listed = []
        rules = self._rules_of(place)
        if len(listed) == len(rules):
            start = len(f"-A {place.chain} ")
            yield from ((handle, line[start:]) for handle, line in zip(rules, listed, strict=True))


def _if_it_can_be_read(read: Callable[[], dict[Key, Found]]) -> dict[Key, Found]:
    """A packet is told all the same where the ruleset changes all the time."""
    with suppress(HostError, StaleError):
        return undisturbed(read)
    return {}


def is_iptables(place: Place) -> bool:
    """Whether a chain looks like one of iptables-nft."""
    return place.family in _IPTABLES and place.table in _IPTABLES_TABLES and place.chain.split("-")[0].isupper()


def family_of_table(place: Place) -> Family:
    """Of one for IPv4 or IPv6 alone."""
    return _IPTABLES[place.family]


def _expressions(payload: bytes) -> Iterator[tuple[str, str]]:
    """The names of expressions, and of iptables' extensions; with the text of a comment."""
    for _, expression in attributes(payload):
        parts = dict(attributes(expression))
        name = text_of(parts[EXPRESSION_NAME])
        if name in {"match", "target"}:
            data = dict(attributes(parts.get(EXPRESSION_DATA, b"")))
            extension = text_of(data.get(MATCH_NAME, b""))
            yield extension, text_of(data.get(MATCH_INFO, b"")) if extension == "comment" else ""
        else:
            yield name, ""


def _nft_words(place: Place) -> Iterator[tuple[int, str]]:
    """By handle."""
    names = (FAMILY_WORDS.get(place.family, ""), place.table, place.chain)
    if not all(_NAME.fullmatch(name) for name in names):
        return
    try:
        done = children.run(["nft", "-a", "list", "chain", *names], timeout=_NFT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in done.stdout.decode("utf-8", "surrogateescape").split("\n"):
        if found := _HANDLE.fullmatch(line):
            yield int(found["handle"]), _COUNTER.sub("", found["rule"])
