"""How an object is named where something is said about it: in findings, refusals and Events. Only values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

# Of one object and reason, so many findings; the last says how many more there were.
_MOST_FINDINGS = 10


class ObjectReference(NamedTuple):
    """An object by its kind (`Service`), namespace ("" for cluster-scoped ones), name and uid ("": not known)."""

    kind: str
    namespace: str
    name: str
    uid: str = ""

    @classmethod
    def of(cls, item: Any) -> ObjectReference:
        """That of a decoded object."""
        metadata = item.metadata
        return cls(type(item).__name__, getattr(metadata, "namespace", ""), metadata.name, getattr(metadata, "uid", ""))

    @classmethod
    def unidentified(cls, item: Any) -> ObjectReference:
        """The same without its uid."""
        metadata = item.metadata
        return cls(type(item).__name__, getattr(metadata, "namespace", ""), metadata.name)

    @property
    def without_uid(self) -> ObjectReference:
        """The same as an event of a deletion can say it."""
        return self._replace(uid="")

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, "/".join(filter(None, (self.namespace, self.name))))))


class Finding(NamedTuple):
    """Something legal but probably wrong, for logs, `lint` and Events.

    `reference`: the object, without its uid, so that the same is found of one that is made anew; where it is about the
    input, or a place in it, `kind` is that, in words. `reason`: a stable word; `message`: a sentence. `is_for_owner`:
    the object's owner can do something about it, and is told by an Event.
    """

    reference: ObjectReference
    reason: str
    message: str
    is_for_owner: bool = False

    @property
    def subject(self) -> str:
        """`Service default/web`."""
        return str(self.reference)


def bounded(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same findings, but of one object and reason only the first few: one object may hold thousands of mistakes."""
    findings = tuple(findings)
    if len(findings) <= _MOST_FINDINGS:
        return findings
    counts: Counter[Finding] = Counter()
    kept = []
    for finding in findings:
        alike = finding._replace(message="")
        counts[alike] += 1
        if counts[alike] <= _MOST_FINDINGS:
            kept.append(finding)
    kept += (
        alike._replace(message=f"and {count - _MOST_FINDINGS} more like these")
        for alike, count in counts.items()
        if count > _MOST_FINDINGS
    )
    return tuple(kept)
