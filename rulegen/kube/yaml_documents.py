"""The text of one piece of a YAML file comes in; its documents go out, one after the other, as plain values.

Built from libyaml's events, not with `yaml.safe_load_all`: that builds a tree of nodes first, takes four times as long,
and knows no limit of depth or of what aliases add up to. Scalars, keys and tags are read as kubectl reads them
(sigs.k8s.io/yaml): YAML 1.1's words for true and false, numbers as Go writes them, a date or a number in base 60 is
text, a tag that is not known says nothing, and of a key that is set twice the last one counts. What is wrong with a
document that can be parsed is told beside its value: for a kind that nobody reads it does not matter. Import this
module where it is used: PyYAML takes time to load.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import yaml

from rulegen.errors import InputError, shown

_MAX_DEPTH = 100
_MAX_NOTES = 10
# How many values all aliases of a document may add up to, beside so many for each byte of its text: a small text can
# stand for billions.
_MAX_ALIASED_VALUES = 1_000
_MAX_ALIASED_VALUES_PER_BYTE = 10

_TAG = "tag:yaml.org,2002:"

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
# What may be more than text.
FIRST_LETTERS = frozenset("+-0123456789.~yYnNtTfFoO")
# Without underscores: of base 10, or of the base that the prefix says, where 0 alone says 8.
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}")
_MAX_DIGITS = 4_000

_SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*)\\u([dD][89aAbB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})",
)


class YamlError(InputError):
    """Text that is not YAML. `line` and `column` count from 1; 0: not known."""

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(reason)
        self.line = line
        self.column = column


class Note(NamedTuple):
    """Something about a document, and where; `line` and `column` count from 1 in the text.

    `item`: in which item of a List it is, from 0; None: in none.
    """

    line: int
    column: int
    reason: str
    item: int | None = None


class YamlDocument(NamedTuple):
    """A document: `value` is None for one that holds nothing.

    `faults`: what is in it that JSON cannot say, and that is therefore not in `value`. `repeated`: keys that are set
    twice. `lost_kinds`: what `kind` was before it was set again, as where `---` is missing between two objects.
    """

    value: object
    faults: tuple[Note, ...] = ()
    repeated: tuple[Note, ...] = ()
    lost_kinds: tuple[object, ...] = ()


def parse_documents(text: bytes, plain: dict[str, Any] | None = None) -> Iterator[YamlDocument]:
    """The documents in their order. `text` is UTF-8. Raises YamlError where it cannot be read any further.

    `plain` remembers scalars between the pieces of a file: few differ, and equal texts then share one value.
    """
    if b"\\u" in text:
        text = _SURROGATES.sub(_joined, text)
    try:
        yield from _Reader(text, {} if plain is None else plain).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "cannot be read"
        raise YamlError(reason, mark.line + 1 if mark else 0, mark.column + 1 if mark else 0) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line_start = before.rfind(b"\n") + 1
        raise YamlError(error.reason, before.count(b"\n") + 1, len(before) - line_start + 1) from error


def _joined(pair: re.Match[bytes]) -> bytes:
    """JSON writes a character outside the first plane as two halves, which libyaml does not read."""
    high, low = int(pair[2], 16), int(pair[3], 16)
    return pair[1] + b"\\U%08X" % (0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF))


class ScalarError(ValueError):
    """A scalar that is not what its tag says."""


def plain_value(text: str) -> Any:
    """A scalar without quotes and tag, as sigs.k8s.io/yaml resolves it. Raises ScalarError."""
    if text[:1] not in FIRST_LETTERS and text:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    return _number(text.replace("_", "") if text[0] != "." else text, text)


def _number(digits: str, text: str) -> Any:
    matched = _INTEGER.match(digits)
    if matched:
        if len(digits) > _MAX_DIGITS:
            raise ScalarError(f"{shown(text)} is no int")
        sign, *parts = matched.groups()
        base, found = next((base, part) for base, part in zip((16, 2, 8, 10), parts, strict=True) if part is not None)
        return -int(found, base) if sign == "-" else int(found, base)
    if _FLOAT.match(digits):
        value = float(digits)
        return value if math.isfinite(value) else text
    return text


def _tagged_value(tag: str, text: str) -> Any:
    """A scalar with a tag. Raises ScalarError."""
    name = tag.removeprefix(_TAG)
    if name == "binary":
        try:
            return binascii.a2b_base64("".join(text.split()), strict_mode=True).decode(errors="replace")
        except ValueError as error:
            raise ScalarError(f"{shown(text)} is no base64") from error
    if name not in ("null", "bool", "int", "float", "timestamp"):
        return text
    value = plain_value(text)
    fits = {
        "null": value is None,
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "timestamp": bool(_DATE.match(text)),
    }
    if not fits[name]:
        raise ScalarError(f"{shown(text)} is no {name}")
    return float(value) if name == "float" else value


class _Reader:
    def __init__(self, text: bytes, plain: dict[str, Any]) -> None:
        loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        # The kinds of event have little in common for a type checker.
        self._next_event: Callable[[], Any] = loader(text).get_event
        self._aliases_left = _MAX_ALIASED_VALUES + _MAX_ALIASED_VALUES_PER_BYTE * len(text)
        self._plain = plain
        # Of each anchor, its value and how many values that is.
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0
        self._faults: list[Note] = []
        self._repeated: list[Note] = []
        self._lost_kinds: list[object] = []
        # Where the reader is, among the items of a list of the document's own.
        self._item: int | None = None

    def documents(self) -> Iterator[YamlDocument]:
        while True:
            event = self._next_event()
            if isinstance(event, yaml.StreamEndEvent):
                return
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                self._faults, self._repeated, self._lost_kinds = [], [], []
                value = self._value(self._next_event(), 0)
                yield YamlDocument(value, tuple(self._faults), tuple(self._repeated), tuple(self._lost_kinds))

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._values
        self._values += 1
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif depth > _MAX_DEPTH:
            self._fault("nested too deeply", event)
            self._skip()
            value = None
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(depth)
        else:
            value = self._mapping(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._values - before)
        return value

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if event.tag is None:
            if not event.implicit[0]:
                return text
            if text in self._plain:
                return self._plain[text]
        try:
            if event.tag is not None:
                return _tagged_value(event.tag, text)
            value = self._plain[text] = plain_value(text)
        except ScalarError as error:
            self._fault(str(error), event)
            return text
        return value

    def _skip(self) -> None:
        """To the end of the collection that has begun, however deep that goes."""
        depth = 1
        while depth:
            event = self._next_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            self._fault(f"the alias {shown(event.anchor)} stands for nothing, or for itself", event)
            return None
        value, size = self._anchors[event.anchor]
        if size > self._aliases_left:
            self._fault("aliases stand for too many values", event)
            return None
        self._values += size
        self._aliases_left -= size
        return value

    def _sequence(self, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := self._next_event(), yaml.SequenceEndEvent):
            if depth == 1:
                self._item = len(values)
            values.append(self._value(event, depth + 1))
        if depth == 1:
            self._item = None
        return values

    def _mapping(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := self._next_event(), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            value_event = self._next_event()
            value = self._value(value_event, depth + 1)
            if key == "<<" and _is_merge(event):
                self._merge(merged, value, value_event)
                continue
            if not isinstance(key, str):
                if key is None or isinstance(key, dict | list):
                    self._fault("a key must be a single value", event)
                    continue
                key = _as_key(key)
            if key in values:
                if depth == 0 and key == "kind":
                    self._lost_kinds.append(values[key])
                if len(self._repeated) < _MAX_NOTES:
                    self._repeated.append(self._note(f"the key {shown(key)} is set twice", event))
            values[key] = value
        return {**merged, **values} if merged else values

    def _merge(self, merged: dict[str, Any], value: Any, event: Any) -> None:
        """The first of several wins."""
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, dict):
                self._fault("<< merges mappings only", event)
                return
            for key, item in part.items():
                merged.setdefault(key, item)

    def _fault(self, reason: str, event: Any) -> None:
        if len(self._faults) < _MAX_NOTES:
            self._faults.append(self._note(reason, event))

    def _note(self, reason: str, event: Any) -> Note:
        return Note(event.start_mark.line + 1, event.start_mark.column + 1, reason, self._item)


def _is_merge(event: Any) -> bool:
    return bool(event.implicit[0]) if event.tag is None else bool(event.tag == _TAG + "merge")


def _as_key(key: Any) -> str:
    """A key that is no text as kubectl writes it into JSON."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return repr(key).removesuffix(".0")
