"""A feature for tests: notes become entries, a note of several words one for each. Notes are kept in a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from rulegen.config import NodeConfiguration
from rulegen.errors import TargetError
from rulegen.kube.objects import NamespacedMetadata
from rulegen.reconcile.delta import Delta, diff
from rulegen.reconcile.feature import AnyCompiler, AnyDelta, AnyEntries, Need
from rulegen.reconcile.tracked import Tracked
from rulegen.reference import Finding, ObjectReference


class Note(Struct, frozen=True):
    """An object: `text` is what it says; with the word `odd` there is a finding, with `cannot` no entry for it."""

    metadata: NamespacedMetadata
    text: str


def note(name: str, text: str) -> Note:
    return Note(NamespacedMetadata(name=name, namespace="default"), text)


def reference(name: str) -> ObjectReference:
    return ObjectReference("Note", "default", name)


class TakenNotes(NamedTuple):
    """Texts by name; None: gone."""

    items: Mapping[str, str | None]
    context: None = None

    def followed_by(self, later: TakenNotes) -> TakenNotes:
        return TakenNotes({**self.items, **later.items})


class Notes:
    """See `Feature`. `blameless`: names of items that nobody is to blame for. `meaning`: of unreadable notes."""

    kinds: Mapping[type, Need] = {Note: Need.FIRST}

    def __init__(self, name: str = "notes", blameless: Collection[str] = (), meaning: str = "") -> None:
        self.name = name
        self.findings: Tracked[ObjectReference, tuple[Finding, ...]] = Tracked()
        self._texts: Tracked[str, str] = Tracked()
        self._blameless = blameless
        self._meaning = meaning

    def put(self, item: Any) -> None:
        self._texts.set(item.metadata.name, item.text)
        odd = Finding(reference(item.metadata.name), "Odd", item.text)
        self.findings.set(reference(item.metadata.name), (odd,) if "odd" in item.text else None)

    def remove(self, reference: ObjectReference) -> None:
        self._texts.set(reference.name, None)
        self.findings.set(reference, None)

    def put_unreadable(self, reference: ObjectReference, error: str) -> bool:
        del error
        if self._meaning:
            self._texts.set(reference.name, self._meaning)
        return bool(self._meaning)

    def take(self) -> TakenNotes:
        return TakenNotes({name: change.after for name, change in self._texts.take().items()})

    def reference(self, item_id: str) -> ObjectReference | None:
        return None if item_id in self._blameless else reference(item_id)

    def title(self, item_id: str) -> str:
        return f"Note {item_id}"

    def compiler(self, driver: str, node: NodeConfiguration) -> AnyCompiler:
        del driver, node
        return NotesCompiler(self.name)


class NotesCompiler:
    """An entry is (feature, note, word) -> the number of times that the word is there."""

    def __init__(self, feature: str) -> None:
        self._feature = feature
        self._compiled: dict[str, AnyEntries] = {}
        self._kept: frozenset[str] = frozenset()

    def adopt(self, live: AnyEntries, unreadable: Collection[ObjectReference]) -> None:
        del live
        self._kept = frozenset(one.name for one in unreadable)

    def update(self, items: Mapping[str, str | None], context: None) -> tuple[AnyDelta, dict[str, TargetError]]:
        del context
        before: dict[Any, Any] = {}
        after: dict[Any, Any] = {}
        errors: dict[str, TargetError] = {}
        for name, text in items.items():
            words = (text or "").split()
            if "cannot" in words:
                errors[name] = TargetError(f"Note {name} cannot be expressed")
                continue
            before |= self._compiled.pop(name, {})
            if words:
                self._compiled[name] = {(self._feature, name, word): words.count(word) for word in words}
                after |= self._compiled[name]
        return diff(before, after), errors

    def entries(self) -> AnyEntries:
        return self.entries_without(())

    def entries_of(self, item_id: str) -> AnyEntries:
        return self._compiled.get(item_id, {})

    def entries_without(self, item_ids: Collection[str]) -> AnyEntries:
        kept = (entries for name, entries in self._compiled.items() if name not in item_ids)
        return {key: value for entries in kept for key, value in entries.items()}

    def spare(self, delta: AnyDelta) -> AnyDelta:
        if not self._kept:
            return delta
        removed = {
            key: value for key, value in delta.removed.items() if key[0] != self._feature or key[1] not in self._kept
        }
        return Delta(delta.added, delta.changed, removed)

    def owners(self, live: AnyEntries) -> Callable[[Any, Any], str]:
        del live
        return lambda key, _: key[1] if key[0] == self._feature else ""
