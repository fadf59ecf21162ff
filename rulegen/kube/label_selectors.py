"""Label selectors as `kubectl get --selector` takes them: text comes in, what tells whether labels match goes out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rulegen.errors import InputError, shown

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z0-9._/-]+)|(?P<mark>==|!=|[=!(),]))")
_NEGATED = {"!=", "notin"}
_LONGEST = 4096


class Requirement(NamedTuple):
    """One condition on one label. `values` None: that it is there, whatever it is."""

    key: str
    values: frozenset[str] | None
    is_negated: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        """A label that is not there fulfils each negated condition."""
        value = labels.get(self.key)
        found = value is not None if self.values is None else value in self.values
        return found is not self.is_negated


class LabelSelector(NamedTuple):
    """Requirements that must all be fulfilled."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)


def parse_selector(text: str) -> LabelSelector:
    """`app=web,tier in (a,b),!old`. Raises InputError."""
    if len(text) > _LONGEST:
        raise InputError(f"expected a label selector of at most {_LONGEST} characters, got {len(text)}")
    tokens = _Tokens(text)
    requirements = [_requirement(tokens)]
    while tokens.next:
        tokens.take(",")
        requirements.append(_requirement(tokens))
    return LabelSelector(tuple(requirements))


class _Tokens:
    """The words and marks of a selector, one after the other; `next` is "" at the end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._rest = self._read()
        self.next = next(self._rest, "")

    def take(self, *expected: str) -> str:
        """The next one, which must be one of these; none given: a word."""
        found = self.next
        if found not in expected if expected else not re.match(r"[A-Za-z0-9._/-]", found):
            raise self.error(" or ".join(expected) if expected else "a name")
        self.next = next(self._rest, "")
        return found

    def error(self, expected: str) -> InputError:
        found = f"at {shown(self.next)}" if self.next else "at its end"
        return InputError(f"label selector {shown(self._text)}: expected {expected} {found}")

    def _read(self) -> Iterator[str]:
        place, text = 0, self._text.rstrip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise InputError(f"label selector {shown(self._text)}: unexpected {shown(text[place:].lstrip()[0])}")
            place = match.end()
            yield match["word"] or match["mark"]


def _requirement(tokens: _Tokens) -> Requirement:
    if tokens.next == "!":
        tokens.take("!")
        return Requirement(tokens.take(), None, is_negated=True)
    key = tokens.take()
    if tokens.next in {"", ","}:
        return Requirement(key, None, is_negated=False)
    operator = tokens.take("=", "==", "!=", "in", "notin")
    if operator not in {"in", "notin"}:
        value = "" if tokens.next in {"", ","} else tokens.take()
        return Requirement(key, frozenset({value}), operator in _NEGATED)
    tokens.take("(")
    values = [tokens.take()]
    while tokens.take(",", ")") == ",":
        values.append(tokens.take())
    return Requirement(key, frozenset(values), operator in _NEGATED)
