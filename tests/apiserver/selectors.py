"""A request's selectors come in (`!a`, `a`, `a=b`, `a==b`, `a!=b`, by comma), a test of objects goes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Matches: TypeAlias = Callable[[Mapping[str, Any]], bool]


def selector(query: Mapping[str, str]) -> Matches:
    """Whether an object is one of those that a list or watch with this query is about."""
    labels = [_requirement(text) for text in query.get("labelSelector", "").split(",") if text]
    fields = [_requirement(text) for text in query.get("fieldSelector", "").split(",") if text]
    return lambda item: (
        all(holds((item["metadata"].get("labels") or {}).get(name)) for name, holds in labels)
        and all(holds(_field(item, name)) for name, holds in fields)
    )


def _requirement(text: str) -> tuple[str, Callable[[str | None], bool]]:
    if text.startswith("!"):
        return text[1:], lambda found: found is None
    name, unequal, value = text.partition("!=")
    if unequal:
        return name, lambda found: found != value
    name, equal, value = text.partition("=")
    if equal:
        return name, lambda found: found == value.removeprefix("=")
    return text, lambda found: found is not None


# A field that is true or false is one of both for the server, also where it is left out.
_FLAGS = frozenset({"spec.hostNetwork"})


def _field(item: Mapping[str, Any], path: str) -> str:
    value: Any = item
    for name in path.split("."):
        value = (value or {}).get(name)
    if path in _FLAGS:
        return "true" if value else "false"
    return value or ""
