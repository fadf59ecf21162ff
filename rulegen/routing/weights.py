"""Annotation values come in, weights of endpoints go out (D9). Which lists an endpoint is in is decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

SERVICE_ANNOTATION = "rulegen.io/weights"
# In order of precedence.
SLICE_ANNOTATIONS = ("rulegen.io/weight", "service.cilium.io/weight")

MAX_WEIGHT = 65535
DEFAULT_WEIGHT = 1


class WeightRule(NamedTuple):
    """One `GLOB=WEIGHT` of a Service: `*`, `?` and `[...]` as in file names, upper and lower case distinct."""

    glob: str
    weight: int

    def matches(self, subjects: tuple[str, ...]) -> bool:
        """Whether the glob matches one of the names of an endpoint."""
        return any(fnmatchcase(subject, self.glob) for subject in subjects)


def service_weight(rules: tuple[WeightRule, ...], subjects: tuple[str, ...]) -> int | None:
    """The weight that the first matching rule gives, None when none matches."""
    return next((rule.weight for rule in rules if rule.matches(subjects)), None)


def parse_service_weights(annotations: Mapping[str, str] | None) -> tuple[WeightRule, ...]:
    """The rules in a Service's annotation, none when it is absent or blank; ValueError says what is wrong with it."""
    text = annotations.get(SERVICE_ANNOTATION, "") if annotations else ""
    return tuple(_parse_rule(item) for item in text.split(",")) if text.strip() else ()


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
        raise ValueError(f"expected GLOB=WEIGHT, found {item.strip()!r}")
    return WeightRule(glob, _parse_weight(weight))


def _parse_weight(text: str) -> int:
    digits = text.strip()
    # int() alone would take "+1", "1_000" and digits of other scripts.
    if digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_WEIGHT)) and int(digits) <= MAX_WEIGHT:
        return int(digits)
    raise ValueError(f"expected a weight from 0 to {MAX_WEIGHT}, found {text!r}")
