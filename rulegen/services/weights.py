"""Annotation values come in, weights of endpoints go out (D9). Which lists an endpoint is in is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rulegen.errors import shown

SERVICE_ANNOTATION = "rulegen.io/weights"
# In order of precedence.
SLICE_ANNOTATIONS = ("rulegen.io/weight", "service.cilium.io/weight")

MAX_WEIGHT = 65535
DEFAULT_WEIGHT = 1


# A Service's annotation may have so many characters and rules, and its globs with wildcards so many characters
# together: what an endpoint's weight costs must not depend on what somebody writes there.
MAX_LENGTH = 32 * 1024
MAX_RULES = 1000
MAX_WILDCARD_LENGTH = 1000

_WILDCARDS = frozenset("*?[")
# Names whose globs are remembered, and characters.
_MOST_REMEMBERED = 100_000


class WeightRule(NamedTuple):
    """One `GLOB=WEIGHT` of a Service: `*`, `?` and `[...]` as in file names, upper and lower case distinct."""

    glob: str
    weight: int


class ServiceWeights:
    """The rules of a Service, in order. What a name costs is linear in its length, whatever the globs.

    `text`: the annotation that they are from. False when there are none.
    """

    def __init__(self, text: str, rules: Sequence[WeightRule]) -> None:
        self.text = text
        self.rules = tuple(rules)
        self._exact: dict[str, list[int]] = {}
        wildcards: dict[int, str] = {}
        for index, rule in enumerate(self.rules):
            if _WILDCARDS.isdisjoint(rule.glob):
                self._exact.setdefault(rule.glob, []).append(index)
            else:
                wildcards[index] = rule.glob
        self._globs = _Globs(wildcards) if wildcards else None
        self._remembered: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self.rules)

    def weight(self, names: Iterable[str]) -> int | None:
        """What the first rule says that matches one of the names of an endpoint; None when none does."""
        first = min([self._first(name) for name in names], default=len(self.rules))
        return self.rules[first].weight if first < len(self.rules) else None

    def matching(self, name: str) -> Iterator[WeightRule]:
        """All rules that match a name, whether others come before them or not."""
        indexes = [*self._exact.get(name, ()), *(self._globs.matching(name) if self._globs else ())]
        return (self.rules[index] for index in indexes)

    def _first(self, name: str) -> int:
        exact = self._exact.get(name)
        first = exact[0] if exact else len(self.rules)
        if self._globs is None:
            return first
        by_glob = self._remembered.get(name)
        if by_glob is None:
            by_glob = next(self._globs.matching(name), len(self.rules))
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[name] = by_glob
        return min(first, by_glob)


class _Globs:
    """Globs by their place among the rules, matched all at once: one bit for each place in a glob that is reached.

    A character takes the bits on to the next place where the glob has that character, and leaves them at a `*`.
    """

    def __init__(self, globs: Mapping[int, str]) -> None:
        self._tokens: list[_Characters | None] = []
        self._starts = self._stars = self._ends = 0
        self._places: dict[int, int] = {}
        for index, glob in globs.items():
            self._starts |= 1 << len(self._tokens)
            for token in _tokens(glob):
                if token is None:
                    self._stars |= 1 << len(self._tokens)
                else:
                    self._tokens.append(token)
            self._ends |= 1 << len(self._tokens)
            self._places[len(self._tokens)] = index
            self._tokens.append(None)
        self._by_character: dict[str, int] = {}

    def matching(self, name: str) -> Iterator[int]:
        """The places of the globs that match, in order."""
        reached = self._starts
        for character in name:
            reached = (reached & self._accepting(character)) << 1 | (reached & self._stars)
            if not reached:
                return
        ended = reached & self._ends
        while ended:
            lowest = ended & -ended
            yield self._places[lowest.bit_length() - 1]
            ended ^= lowest

    def _accepting(self, character: str) -> int:
        bits = self._by_character.get(character)
        if bits is None:
            accepting = (1 << place for place, token in enumerate(self._tokens) if token and token.accepts(character))
            bits = sum(accepting)
            if len(self._by_character) >= _MOST_REMEMBERED:
                self._by_character.clear()
            self._by_character[character] = bits
        return bits


class _Characters(NamedTuple):
    """Those in one of the ranges, or all others."""

    ranges: tuple[tuple[str, str], ...]
    are_others: bool = False

    def accepts(self, character: str) -> bool:
        return any(first <= character <= last for first, last in self.ranges) is not self.are_others


_ANY = _Characters((), are_others=True)


def _tokens(glob: str) -> Iterator[_Characters | None]:
    """What a glob is made of; None for `*`."""
    place, last_bracket = 0, glob.rfind("]")
    while place < len(glob):
        character = glob[place]
        place += 1
        if character == "*":
            yield None
        elif character == "?":
            yield _ANY
        elif character == "[":
            # A "]" right at the begin of a set belongs to it, and a "[" that nothing closes is itself.
            begin = place + (glob[place : place + 1] == "!")
            end = glob.find("]", begin + 1) if begin < last_bracket else -1
            if end < 0:
                yield _Characters((("[", "["),))
                continue
            yield _Characters(_ranges(glob[begin:end]), are_others=begin > place)
            place = end + 1
        else:
            yield _Characters(((character, character),))


def _ranges(text: str) -> tuple[tuple[str, str], ...]:
    """`a-cx` as ranges; a range from a later to an earlier character is empty."""
    ranges = []
    place = 0
    while place < len(text):
        if text[place + 1 : place + 2] == "-" and place + 2 < len(text):
            ranges.append((text[place], text[place + 2]))
            place += 3
        else:
            ranges.append((text[place], text[place]))
            place += 1
    return tuple(ranges)


NO_WEIGHTS = ServiceWeights("", ())


def parse_service_weights(annotations: Mapping[str, str] | None, before: ServiceWeights = NO_WEIGHTS) -> ServiceWeights:
    """The rules in a Service's annotation, none when it is absent or blank; ValueError says what is wrong with it.

    `before`: those that the Service had, which stay when the annotation is the same.
    """
    text = annotations.get(SERVICE_ANNOTATION, "") if annotations else ""
    if text == before.text:
        return before
    if len(text) > MAX_LENGTH:
        raise ValueError(f"expected at most {MAX_LENGTH} characters, found {len(text)}")
    if not text.strip():
        return NO_WEIGHTS
    if text.count(",") >= MAX_RULES:
        raise ValueError(f"expected at most {MAX_RULES} rules, found {text.count(',') + 1}")
    rules = [_parse_rule(item) for item in text.split(",")]
    length = sum(len(rule.glob) for rule in rules if not _WILDCARDS.isdisjoint(rule.glob))
    if length > MAX_WILDCARD_LENGTH:
        raise ValueError(f"expected globs with wildcards of at most {MAX_WILDCARD_LENGTH} characters, found {length}")
    return ServiceWeights(text, rules)


def parse_slice_weight(annotations: Mapping[str, str] | None) -> tuple[int, list[str]]:
    """The weight of a slice's endpoints, and what is wrong with its annotations; a malformed one is as if absent."""
    problems: list[str] = []
    for annotation in SLICE_ANNOTATIONS if annotations else ():
        text = (annotations or {}).get(annotation)
        if text is None:
            continue
        try:
            return _parse_weight(text), problems
        except ValueError as error:
            problems.append(f"annotation {annotation}: {error}; ignored (D9)")
    return DEFAULT_WEIGHT, problems


def _parse_rule(item: str) -> WeightRule:
    # No name and no address holds a "=", so a second one is a slip: the weight is then no number.
    glob, equals, weight = item.partition("=")
    glob = glob.strip()
    if not equals or not glob:
        raise ValueError(f"expected GLOB=WEIGHT, found {shown(item.strip())}")
    return WeightRule(glob, _parse_weight(weight))


def _parse_weight(text: str) -> int:
    digits = text.strip()
    # int() alone would take "+1", "1_000" and digits of other scripts.
    if digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_WEIGHT)) and int(digits) <= MAX_WEIGHT:
        return int(digits)
    raise ValueError(f"expected a weight from 0 to {MAX_WEIGHT}, found {shown(text)}")
