"""Manifests come in; the objects that a Service proxy reads go out, and what is wrong with the others.

SVC-1 and SVC-2 are applied here: what a watch would not deliver is not handed on. What an object means is `services`'
work; whether to go on without the bad ones is the caller's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw, Struct

from rulegen.errors import printable, shown
from rulegen.kube.decode import ObjectError, convert_object, decode_object, object_name, plain_value
from rulegen.kube.document_text import Document, Unreadable
from rulegen.kube.documents import read_documents
from rulegen.kube.faults import Fault
from rulegen.kube.kinds import Kind, WatchedKind, kind_of, served_kinds, written_kinds
from rulegen.kube.legacy import slices_for_services_without
from rulegen.kube.mistakes import Mistake, Notice, misspelt_kind, mistakes_of
from rulegen.kube.objects import Endpoints, EndpointSlice, Node, Service, ServiceCIDR

if TYPE_CHECKING:
    from rulegen.kube.yaml_documents import Note


class Place(NamedTuple):
    """Where an object is: `source` is the file as safe text, with line and column where only they tell the place.

    `document` counts from 1 in the file and is 0 for the file itself; `item` counts from 0 in a List.
    """

    source: str
    document: int = 0
    item: int | None = None

    def __str__(self) -> str:
        """The place in the source: `document 2`, or `document 1, items[3]`; "" for all of it."""
        if not self.document:
            return ""
        return f"document {self.document}" + ("" if self.item is None else f", items[{self.item}]")


class Problem(NamedTuple):
    """Something in the input that cannot be used; all of it is safe to print.

    `kind` and `name` (`namespace/name`) are "" where they are not known, `field` is "" for a whole object.
    """

    place: Place
    message: str
    kind: str = ""
    name: str = ""
    field: str = ""

    def __str__(self) -> str:
        """One line: `cluster.yaml: Service default/web: spec.ports[0].port: expected int, got "http"`."""
        return ": ".join(part for part in (self.place.source, self._subject(), self.field, self.message) if part)

    def _subject(self) -> str:
        if self.kind and self.name:
            return f"{self.kind} {self.name}"
        return f"{self.kind} in {self.place}" if self.kind else str(self.place)


class Manifests(Struct):
    """What manifests hold, by kind, each in the order of the input.

    `unselected`: Services that a watch would not deliver (SVC-1); only to say why they are not there. `headless`: the
    slices that it would not (SVC-2); only to say who has their addresses.
    `skipped` counts the objects of each kind that is not read: `kind`, or `kind (apiVersion)`, as safe text.
    `places`: where each object is, by kind, namespace and name; not that of slices made from Endpoints.
    `unreadable`: how many documents cannot be read at all, so that each may hold any object. `notices`: what is
    probably a mistake in how it is written.
    """

    by_kind: dict[type, list[Any]]
    skipped: dict[str, int]
    problems: list[Problem]
    unselected: list[Service] = []
    places: dict[tuple[WatchedKind, str, str], Place] = {}
    unreadable: int = 0
    notices: list[Notice] = []
    headless: list[EndpointSlice] = []

    @property
    def services(self) -> list[Service]:
        return self.by_kind.get(Service, [])

    @property
    def endpoint_slices(self) -> list[EndpointSlice]:
        return self.by_kind.get(EndpointSlice, [])

    @property
    def nodes(self) -> list[Node]:
        return self.by_kind.get(Node, [])

    @property
    def service_cidrs(self) -> list[ServiceCIDR]:
        return self.by_kind.get(ServiceCIDR, [])

    def objects(self) -> Iterator[Any]:
        """All objects that mean something, in the order of the registry: what a Service means depends on the node."""
        for kind in served_kinds(self.by_kind):
            yield from self.by_kind[kind.struct]

    def release(self) -> Iterator[Any]:
        """The same; each is forgotten when it was handed on: together they are as large as all that is made of them."""
        for kind in served_kinds(self.by_kind):
            items = self.by_kind.pop(kind.struct)
            items.reverse()
            while items:
                yield items.pop()

    def mistakes(self) -> list[Notice]:
        """All that is probably a mistake: `notices`, and what a look at the objects shows."""
        if Service not in self.by_kind or EndpointSlice not in self.by_kind:
            return self.notices
        return self.notices + mistakes_of(self.services, self.unselected, self.endpoint_slices)


# What looks at an object as it was written: its kind, its name as in `default/web`, its plain values.
Inspect: TypeAlias = Callable[[str, str, object], Iterable[Notice]]


def load(
    paths: Sequence[str],
    stdin: BinaryIO | None,
    inspect: Inspect | None = None,
    kinds: Collection[type] | None = None,
) -> Manifests:
    """The objects of all `paths`: files, folders, or `-` for `stdin`. Each file is read once.

    What `inspect` finds is among the notices. `kinds`: which are read, others are skipped; None: all in the registry.

    Raises:
        InputError: a path is missing or unreadable, or holds no object. What is wrong inside is in `problems`.
    """
    loader = _Loader(inspect, tuple(written_kinds(kinds)))
    for document in read_documents(paths, stdin):
        loader.add(document)
    return loader.finish()


class _Header(Struct, rename="camel", gc=False):
    """What says how to read an object; anything may be there."""

    api_version: Any = None
    kind: Any = None
    items: Any = None


class _EncodedHeader(_Header, rename="camel", gc=False):
    items: list[Raw] | None = None


_ENCODED_HEADER = msgspec.json.Decoder(_EncodedHeader)


class _Written(NamedTuple):
    """An object as it stands in a document, and what is noted there about it."""

    place: Place
    value: object
    faults: tuple[Note, ...]
    repeated: tuple[Note, ...]


class _Loader:
    """Collects what the documents hold. One is used for one `load`."""

    def __init__(self, inspect: Inspect | None, kinds: tuple[Kind, ...]) -> None:
        self._inspect = inspect
        self._kinds = kinds
        self._by_header = {(version, kind.name): kind for kind in kinds for version in kind.api_versions}
        self._names = frozenset(kind.name for kind in kinds)
        self._objects: dict[type, list[Any]] = {kind.struct: [] for kind in kinds}
        self._places: dict[tuple[WatchedKind, str, str], Place] = {}
        self._skipped: Counter[str] = Counter()
        self._problems: list[Problem] = []
        self._unreadable = 0
        self._notices: list[Notice] = []

    def add(self, document: Document | Unreadable) -> None:
        if isinstance(document, Unreadable):
            self._add_unreadable(document)
            return
        place = Place(document.source, document.number)
        try:
            header = _header(document.value)
            if document.lost_kinds and any(map(self._may_be_read, (*document.lost_kinds, header.kind))):
                raise _error("kind", "is set twice: a line --- is missing between two objects")
            items = self._items(header)
        except ObjectError as error:
            self._refuse(place, error)
            return
        if items is None:
            self._add_object(_Written(place, document.value, document.faults, document.repeated), header)
        faults, repeated = _by_item(document.faults), _by_item(document.repeated)
        for index, item in enumerate(items or ()):
            item_place = Place(document.source, document.number, index)
            written = _Written(item_place, item, tuple(faults.get(index, ())), tuple(repeated.get(index, ())))
            self._add_item(written, header)

    def _add_unreadable(self, document: Unreadable) -> None:
        """One of a kind that nobody reads is no reason to stop, unless the file may have been cut off in it."""
        if document.header and not document.is_last:
            api_version, kind = document.header
            if not self._may_be_read(kind) and not misspelt_kind(api_version, kind, self._kinds):
                self._skipped[printable(kind)] += 1
                message = f"{document.reason}; skipped, as it says that it is a {printable(kind)}"
                self._notices.append(Notice(document.source, Mistake.UNREADABLE_DOCUMENT, message))
                return
        self._unreadable += 1
        self._problems.append(Problem(Place(document.source), document.reason))

    def finish(self) -> Manifests:
        objects = self._objects
        legacy = objects.pop(Endpoints, [])
        if EndpointSlice in objects:
            objects[EndpointSlice] += slices_for_services_without(legacy, objects[EndpointSlice])
        selected = {struct: kind_of(struct).select(items) for struct, items in objects.items()}
        return Manifests(
            {struct: chosen for struct, (chosen, _) in selected.items()},
            skipped=dict(sorted(self._skipped.items())),
            problems=self._problems,
            unselected=selected[Service][1] if Service in selected else [],
            places=self._places,
            unreadable=self._unreadable,
            notices=self._notices,
            headless=selected[EndpointSlice][1] if EndpointSlice in selected else [],
        )

    def _add_item(self, written: _Written, of_list: _Header) -> None:
        try:
            header = _header(written.value)
            if self._items(header) is not None:
                raise _error("", "a List inside a List is not read")
        except ObjectError as error:
            self._refuse(written.place, error)
            return
        if header.kind is None and of_list.kind != "List":
            # The API's own lists (`ServiceList`) say once what their items are.
            header.kind, header.api_version = of_list.kind.removesuffix("List"), of_list.api_version
        self._add_object(written, header)

    def _add_object(self, written: _Written, header: _Header) -> None:
        place, value = written.place, written.value
        try:
            kind = self._kind(place, header)
            if kind is None:
                return
            struct = kind.struct
            if written.faults:
                faults = tuple(Fault("", f"line {note.line}: {note.reason}") for note in written.faults)
                raise ObjectError(kind.name, object_name(struct, value), faults)
            item: Any = decode_object(struct, value) if isinstance(value, Raw) else convert_object(struct, value)
        except ObjectError as error:
            self._refuse(place, error)
        else:
            self._keep(place, kind, kind.as_stored(item))
            if written.repeated or self._inspect is not None:
                self._notice(written, kind, _full_name(item))

    def _notice(self, written: _Written, kind: Kind, name: str) -> None:
        subject = f"{kind.name} {name}"
        for note in written.repeated:
            message = f"{written.place.source}:{note.line}: {note.reason}, and the last one counts (as for kubectl)"
            self._notices.append(Notice(subject, Mistake.REPEATED_KEY, message))
        if self._inspect is not None:
            value = plain_value(written.value) if isinstance(written.value, Raw) else written.value
            self._notices += self._inspect(kind.name, name, value)

    def _kind(self, place: Place, header: _Header) -> Kind | None:
        if type(header.kind) is type(header.api_version) is str:
            known = self._by_header.get((header.api_version, header.kind))
            if known is not None:
                return known
        for field, found in (("apiVersion", header.api_version), ("kind", header.kind)):
            if not isinstance(found, str):
                raise _error(field, "missing" if found is None else f"expected str, got {shown(found)}")
        name = printable(header.kind)
        self._skipped[f"{name} ({printable(header.api_version)})" if name in self._names else name] += 1
        mistake = misspelt_kind(header.api_version, header.kind, self._kinds)
        if mistake:
            self._notices.append(Notice(f"{place.source}, {place}", *mistake))
        return None

    def _keep(self, place: Place, kind: Kind, item: Any) -> None:
        metadata = item.metadata
        first = self._places.setdefault((kind.struct, getattr(metadata, "namespace", ""), metadata.name), place)
        if first is place:
            self._objects[kind.struct].append(item)
        else:
            message = f"{place} repeats {first} of {first.source}"
            self._problems.append(Problem(place, message, kind.name, _full_name(item)))

    def _items(self, header: _Header) -> list[Any] | None:
        """The objects of a List, or None when it is something else."""
        if not (isinstance(header.kind, str) and header.kind.endswith("List")):
            return None
        if isinstance(header.items, list):
            return header.items
        if not self._may_be_read(header.kind):
            return None
        if header.items is None:
            return []
        raise _error("items", f"expected an array, got {shown(header.items)}")

    def _may_be_read(self, kind: object) -> bool:
        """Whether a document with this kind may hold what is read: an object, or a `List`, or a `ServiceList`."""
        if not isinstance(kind, str):
            return False
        items = kind.removesuffix("List")
        return kind in self._names or items in self._names or not items

    def _refuse(self, place: Place, error: ObjectError) -> None:
        self._problems += [Problem(place, fault.message, error.kind, error.name, fault.path) for fault in error.faults]


def _by_item(notes: Iterable[Note]) -> dict[int | None, list[Note]]:
    """Mostly there are none, however many items a List has."""
    found: dict[int | None, list[Note]] = {}
    for note in notes:
        found.setdefault(note.item, []).append(note)
    return found


def _full_name(item: Any) -> str:
    """As in `default/web`."""
    namespace = getattr(item.metadata, "namespace", "")
    return f"{namespace}/{item.metadata.name}" if namespace else item.metadata.name


def _header(value: object) -> _Header:
    if isinstance(value, dict):
        return _Header(value.get("apiVersion"), value.get("kind"), value.get("items"))
    if not isinstance(value, Raw):
        raise _error("", f"expected an object, got {shown(value)}")
    try:
        return _ENCODED_HEADER.decode(value)
    except msgspec.ValidationError:
        return _header(plain_value(value))


def _error(field: str, message: str) -> ObjectError:
    return ObjectError("", "", (Fault(field, message),))
