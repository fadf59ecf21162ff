"""The objects of the API server for tests, with the number of each change and the changes themselves.

As in etcd, one counter numbers the changes of all kinds. A list is of one number; later pages of it are of the same
number, however much has changed since.
"""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from rulegen.kube.kinds import REGISTRY, kind_of, served_kinds
from rulegen.kube.objects import KubeStruct
from tests.apiserver.selectors import Matches

Plain: TypeAlias = Mapping[str, Any]
Key: TypeAlias = tuple[str, str]


class Kind(NamedTuple):
    name: str
    api_version: str
    plural: str

    @property
    def path(self) -> str:
        folder = "api" if "/" not in self.api_version else "apis"
        return f"/{folder}/{self.api_version}/{self.plural}"


class _EveryKind(Mapping[type[KubeStruct], Kind]):
    """Those of the registry as it is now, by their Structs."""

    def __getitem__(self, struct: type[KubeStruct]) -> Kind:
        kind = kind_of(struct)
        return Kind(kind.name, kind.api_versions[0], kind.plural)

    def __iter__(self) -> Iterator[type[KubeStruct]]:
        return (kind.struct for kind in served_kinds(REGISTRY) if kind.instead_of is None)

    def __len__(self) -> int:
        return len(list(iter(self)))


EVERY_KIND = _EveryKind()
# Clients make these; rulegen never reads them.
EVENT = Kind("Event", "events.k8s.io/v1", "events")


class Stored(NamedTuple):
    """An object, and its JSON."""

    plain: Plain
    text: bytes


class Change(NamedTuple):
    """One change of an object: `before` None when it was made, `after` None when it was deleted."""

    version: int
    before: Stored | None
    after: Stored | None
    # What a DELETED event shows: the last state, with the number of the deletion.
    last: Stored

    def line(self, matches: Matches) -> bytes | None:
        """The watch event for one who selects by `matches`: leaving the selection is a deletion."""
        was = self.before is not None and matches(self.before.plain)
        if self.after is not None and matches(self.after.plain):
            return event_line("MODIFIED" if was else "ADDED", self.after.text)
        return event_line("DELETED", self.last.text) if was else None


def event_line(type_: str, item: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (type_.encode(), item)


class Page(NamedTuple):
    version: int
    items: Sequence[Stored]
    # "" on the last page.
    next: str
    remaining: int


class ExpiredError(Exception):
    """The version that was asked for is not remembered any more."""


class Store:
    """All kinds' objects. Everything is guarded by `changed`, which is notified on each change."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 1000
        self._by_name = {kind.name: kind for kind in EVERY_KIND.values()}
        self._objects: dict[str, dict[Key, Stored]] = {kind.name: {} for kind in EVERY_KIND.values()}
        self._changes: dict[str, list[Change]] = {kind.name: [] for kind in EVERY_KIND.values()}
        self._forgotten = self.version
        self._snapshots: dict[tuple[str, int], list[Stored]] = {}
        self._uids = itertools.count(1)

    def put(self, item: KubeStruct | Plain) -> int:
        """Makes an object or replaces the one of its name; the number of this change."""
        plain = _plain(item)
        kind, metadata = self._by_name[plain["kind"]], plain["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        with self.changed:
            before = self._objects[kind.name].get(key)
            uid = before.plain["metadata"]["uid"] if before else f"uid-{next(self._uids)}"
            self.version += 1
            after = _stored({**plain, "metadata": {"uid": uid, **metadata, "resourceVersion": str(self.version)}})
            self._objects[kind.name][key] = after
            self._record(kind, Change(self.version, before, after, after))
            return self.version

    def object(self, kind: type[KubeStruct], name: str, namespace: str = "") -> Plain:
        """One that is there."""
        with self.changed:
            return self._objects[EVERY_KIND[kind].name][namespace, name].plain

    def merge_status(self, kind: Kind, namespace: str, name: str, document: Plain) -> bytes | None:
        """The object with the status merged, and nothing else of the document; None: there is no such object."""
        with self.changed:
            before = self._objects[kind.name].get((namespace, name))
            if before is None:
                return None
            after = {**before.plain, "status": _merged(before.plain.get("status"), document.get("status"))}
            # A change of nothing is none.
            if after != before.plain:
                self.put(after)
            return self._objects[kind.name][namespace, name].text

    def delete(self, kind: type[KubeStruct], name: str, namespace: str = "") -> int:
        """Deletes an object that is there; the number of this change."""
        with self.changed:
            before = self._objects[EVERY_KIND[kind].name].pop((namespace, name))
            self.version += 1
            metadata = {**before.plain["metadata"], "resourceVersion": str(self.version)}
            last = _stored({**before.plain, "metadata": metadata})
            self._record(EVERY_KIND[kind], Change(self.version, before, None, last))
            return self.version

    def compact(self) -> None:
        """Forgets all changes until now: what continues from before has expired; watches that run do not notice."""
        with self.changed:
            self._forgotten = self.version
            self._snapshots.clear()

    def restore(self, version: int) -> None:
        """Puts the counter back, as when a backup of etcd is restored. The objects are as they are."""
        with self.changed:
            self.version = self._forgotten = version
            self._snapshots.clear()
            self._changes = {name: [] for name in self._changes}

    def page(self, kind: Kind, matches: Matches, limit: int, token: str) -> Page:
        """One page of a list; `limit` 0 is everything. Raises ExpiredError for a page of a list that is forgotten."""
        with self.changed:
            version, start = _parse_token(token) if token else (self.version, 0)
            if version < self._forgotten:
                raise ExpiredError
            if not token:
                objects = self._objects[kind.name]
                items = [objects[key] for key in sorted(objects) if matches(objects[key].plain)]
            else:
                items = self._snapshots[kind.name, version]
            end = start + limit if limit else len(items)
            remaining = max(0, len(items) - end)
            if remaining:
                self._snapshots[kind.name, version] = items
            return Page(version, items[start:end], _token(version, end) if remaining else "", remaining)

    def is_forgotten(self, version: int) -> bool:
        """Whether a watch cannot start from `version` any more."""
        return version < self._forgotten

    def changes_after(self, kind: Kind, version: int) -> Sequence[Change]:
        """What has changed since `version`, for a watch. Hold `changed`."""
        changes = self._changes[kind.name]
        start = len(changes)
        while start and changes[start - 1].version > version:
            start -= 1
        return changes[start:]

    def _record(self, kind: Kind, change: Change) -> None:
        self._changes[kind.name].append(change)
        self.changed.notify_all()


def _plain(item: KubeStruct | Plain) -> Plain:
    if not isinstance(item, KubeStruct):
        return item
    kind = EVERY_KIND[type(item)]
    plain = msgspec.to_builtins(item)
    # What is the default in a Struct is absent from what it is encoded to, and a server has no default namespace.
    if "namespace" in type(item.metadata).__struct_fields__:  # type: ignore[attr-defined]
        plain["metadata"].setdefault("namespace", item.metadata.namespace)  # type: ignore[attr-defined]
    return {"apiVersion": kind.api_version, "kind": kind.name, **plain}


def _merged(before: Any, document: Any) -> Any:
    """RFC 7386."""
    if not isinstance(document, dict):
        return document
    found = dict(before) if isinstance(before, dict) else {}
    for name, value in document.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _merged(found.get(name), value)
    return found


def _stored(plain: Plain) -> Stored:
    return Stored(plain, json.dumps(plain).encode())


def _token(version: int, start: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"rv": version, "start": start}).encode()).decode()


def _parse_token(token: str) -> tuple[int, int]:
    fields = json.loads(base64.urlsafe_b64decode(token))
    return fields["rv"], fields["start"]
