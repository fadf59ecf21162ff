"""How an object is named where something is said about it: in findings, refusals and Events. Only values."""

from __future__ import annotations

from typing import Any, NamedTuple


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
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"
