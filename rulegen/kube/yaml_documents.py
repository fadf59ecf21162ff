"""The text of a YAML file comes in; the plain values of its documents go out, one after the other.

Built from libyaml's events, not with `yaml.safe_load_all`: that builds a tree of nodes first, takes four times as long,
and knows no limit of depth or of what aliases add up to. Scalars are resolved as kubectl reads them, save that what
looks like a date or a number in base 60 stays text: a date is text in JSON, and an IPv6 address may look like the
other. A key that is set twice is an error. Import this module where it is used: PyYAML takes time to load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import yaml

from rulegen.errors import InputError, shown

_MAX_DEPTH = 100
# How many values all aliases of a file may add up to: a small text can stand for billions.
_MAX_ALIASED_VALUES = 100_000

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str"))
_COLLECTION_TAGS = frozenset({None, "!", _TAG + "map", _TAG + "seq"})
_MERGE = object()


class YamlError(InputError):
    """Text that is not YAML, or more than is accepted of it. `line` and `column` count from 1; 0: not known."""

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(reason)
        self.line = line
        self.column = column


def parse_documents(text: bytes) -> Iterator[object]:
    """The documents in their order; None for one that holds nothing.

    `text` is UTF-8. Raises YamlError where the text cannot be read any further.
    """
    try:
        yield from _Reader(text).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "cannot be read"
        raise YamlError(reason, mark.line + 1 if mark else 0, mark.column + 1 if mark else 0) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line_start = before.rfind(b"\n") + 1
        raise YamlError(error.reason, before.count(b"\n") + 1, len(before) - line_start + 1) from error


class _Scalars(yaml.constructor.SafeConstructor, yaml.resolver.Resolver):
    """The value of a scalar; plain ones are remembered, as few differ and equal texts then share one value."""

    def __init__(self) -> None:
        yaml.constructor.SafeConstructor.__init__(self)
        yaml.resolver.Resolver.__init__(self)
        self._plain: dict[str, Any] = {}

    def value(self, event: Any) -> Any:
        if event.tag is None and event.implicit[0]:
            if event.value not in self._plain:
                self._plain[event.value] = self._plain_value(event)
            return self._plain[event.value]
        tag = _TAG + "str" if event.tag in (None, "!") else event.tag
        if tag not in _SCALAR_TAGS:
            raise _error(f"the tag {shown(tag)} is not supported", event)
        return self._construct(tag, event)

    def _plain_value(self, event: Any) -> Any:
        tag: str = self.resolve(yaml.ScalarNode, event.value, (True, False))  # type: ignore[no-untyped-call]
        if tag == _TAG + "merge":
            return _MERGE
        if tag not in _SCALAR_TAGS or ":" in event.value:
            return event.value
        return self._construct(tag, event)

    def _construct(self, tag: str, event: Any) -> Any:
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        try:
            return self.yaml_constructors[tag](self, node)
        except (ValueError, KeyError) as error:
            raise _error(f"{shown(event.value)} is no {tag.removeprefix(_TAG)}", event) from error


class _Reader:
    def __init__(self, text: bytes) -> None:
        loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        # The kinds of event have little in common for a type checker.
        self._next_event: Callable[[], Any] = loader(text).get_event
        self._scalars = _Scalars()
        # Of each anchor, its value and how many values that is.
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0
        self._aliased = 0

    def documents(self) -> Iterator[object]:
        while True:
            event = self._next_event()
            if isinstance(event, yaml.StreamEndEvent):
                return
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                yield self._value(self._next_event(), 0)

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > _MAX_DEPTH:
            raise _error("nested too deeply", event)
        before = self._values
        self._values += 1
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalars.value(event)
        elif event.tag not in _COLLECTION_TAGS:
            raise _error(f"the tag {shown(event.tag)} is not supported", event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(depth)
        else:
            value = self._mapping(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._values - before)
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise _error(f"the alias {shown(event.anchor)} stands for nothing, or for itself", event)
        value, size = self._anchors[event.anchor]
        self._values += size
        self._aliased += size
        if self._aliased > _MAX_ALIASED_VALUES:
            raise _error(f"aliases stand for more than {_MAX_ALIASED_VALUES} values", event)
        return value

    def _sequence(self, depth: int) -> list[Any]:
        values = []
        while not isinstance(event := self._next_event(), yaml.SequenceEndEvent):
            values.append(self._value(event, depth + 1))
        return values

    def _mapping(self, depth: int) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        while not isinstance(event := self._next_event(), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            value_event = self._next_event()
            value = self._value(value_event, depth + 1)
            if key is _MERGE:
                merged = {**_to_merge(value, value_event), **merged}
            elif isinstance(key, dict | list):
                raise _error("a key must be a single value", event)
            elif key in values:
                raise _error(f"the key {shown(key)} is set twice", event)
            else:
                values[key] = value
        return {**merged, **values} if merged else values


def _to_merge(value: Any, event: Any) -> dict[Any, Any]:
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, dict) for part in parts):
        raise _error("<< merges mappings only", event)
    # The first of several wins.
    return {key: item for part in reversed(parts) for key, item in part.items()}


def _error(reason: str, event: Any) -> YamlError:
    return YamlError(reason, event.start_mark.line + 1, event.start_mark.column + 1)
