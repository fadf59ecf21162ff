"""Manifests come in; the objects that a Service proxy reads go out, and what is wrong with the others.

Rules 1 and 2 are applied here: what a watch would not deliver is not handed on. What an object means is `routing`'s
work; whether to go on without the bad ones is the caller's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import msgspec
from msgspec import Raw, Struct

from rulegen.errors import printable, shown
from rulegen.kube.decode import Fault, Kind, ObjectError, convert_object, decode_object, plain_value
from rulegen.kube.documents import Document, Unreadable, read_documents
from rulegen.kube.legacy import slices_for_services_without
from rulegen.kube.objects import Endpoints, EndpointSlice, Node, Service, ServiceCIDR, is_selected

_KINDS: dict[tuple[str, str], Kind] = {
    ("v1", "Service"): Service,
    ("v1", "Node"): Node,
    ("v1", "Endpoints"): Endpoints,
    ("discovery.k8s.io/v1", "EndpointSlice"): EndpointSlice,
    ("networking.k8s.io/v1", "ServiceCIDR"): ServiceCIDR,
    ("networking.k8s.io/v1beta1", "ServiceCIDR"): ServiceCIDR,
}
_KNOWN_NAMES = frozenset(kind for _, kind in _KINDS)


# What a list is surely of: `List` of anything, `ServiceList` of Services.
_LIST_ITEMS = _KNOWN_NAMES | {""}


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
    """What manifests hold, in the order of the input.

    `unselected`: Services that a watch would not deliver (rule 1); only to say why they are not there.
    `skipped` counts the objects of each kind that is not read: `kind`, or `kind (apiVersion)`, as safe text.
    `places`: where each object is, by kind, namespace and name; not that of slices made from Endpoints.
    """

    services: list[Service]
    endpoint_slices: list[EndpointSlice]
    nodes: list[Node]
    service_cidrs: list[ServiceCIDR]
    skipped: dict[str, int]
    problems: list[Problem]
    unselected: list[Service] = []
    places: dict[tuple[Kind, str, str], Place] = {}


def load(paths: Sequence[str], stdin: BinaryIO | None) -> Manifests:
    """The objects of all `paths`: files, folders, or `-` for `stdin`. Each file is read once.

    Raises:
        InputError: a path is missing or unreadable, or holds no object. What is wrong inside is in `problems`.
    """
    loader = _Loader()
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


class _Loader:
    """Collects what the documents hold. One is used for one `load`."""

    def __init__(self) -> None:
        self._objects: dict[Kind, list[Any]] = {kind: [] for kind in _KINDS.values()}
        self._places: dict[tuple[Kind, str, str], Place] = {}
        self._skipped: Counter[str] = Counter()
        self._problems: list[Problem] = []

    def add(self, document: Document | Unreadable) -> None:
        if isinstance(document, Unreadable):
            self._problems.append(Problem(Place(document.source), document.reason))
            return
        place = Place(document.source, document.number)
        try:
            header = _header(document.value)
            items = _items(header)
        except ObjectError as error:
            self._refuse(place, error)
            return
        if items is None:
            self._add_object(place, header, document.value)
        for index, item in enumerate(items or ()):
            self._add_item(place._replace(item=index), header, item)

    def finish(self) -> Manifests:
        slices: list[EndpointSlice] = self._objects[EndpointSlice]
        legacy = slices_for_services_without(self._objects[Endpoints], slices)
        return Manifests(
            services=[service for service in self._objects[Service] if is_selected(service)],
            endpoint_slices=[item for item in slices + legacy if is_selected(item)],
            nodes=self._objects[Node],
            service_cidrs=self._objects[ServiceCIDR],
            skipped=dict(sorted(self._skipped.items())),
            problems=self._problems,
            unselected=[service for service in self._objects[Service] if not is_selected(service)],
            places=self._places,
        )

    def _add_item(self, place: Place, of_list: _Header, item: object) -> None:
        try:
            header = _header(item)
            if _items(header) is not None:
                raise _error("", "a List inside a List is not read")
        except ObjectError as error:
            self._refuse(place, error)
            return
        if header.kind is None and of_list.kind != "List":
            # The API's own lists (`ServiceList`) say once what their items are.
            header.kind, header.api_version = of_list.kind.removesuffix("List"), of_list.api_version
        self._add_object(place, header, item)

    def _add_object(self, place: Place, header: _Header, value: object) -> None:
        try:
            kind = self._kind(header)
            if kind is None:
                return
            item: Any = decode_object(kind, value) if isinstance(value, Raw) else convert_object(kind, value)
        except ObjectError as error:
            self._refuse(place, error)
        else:
            self._keep(place, kind, item)

    def _kind(self, header: _Header) -> Kind | None:
        for field, found in (("apiVersion", header.api_version), ("kind", header.kind)):
            if not isinstance(found, str):
                raise _error(field, "missing" if found is None else f"expected str, got {shown(found)}")
        kind = _KINDS.get((header.api_version, header.kind))
        if kind is None:
            name = printable(header.kind)
            self._skipped[f"{name} ({printable(header.api_version)})" if name in _KNOWN_NAMES else name] += 1
        return kind

    def _keep(self, place: Place, kind: Kind, item: Any) -> None:
        namespace, name = getattr(item.metadata, "namespace", ""), item.metadata.name
        first = self._places.setdefault((kind, namespace, name), place)
        if first is place:
            self._objects[kind].append(item)
            return
        full_name = f"{namespace}/{name}" if namespace else name
        message = f"{place} repeats {first} of {first.source}"
        self._problems.append(Problem(place, message, kind.__name__, full_name))

    def _refuse(self, place: Place, error: ObjectError) -> None:
        self._problems += [Problem(place, fault.message, error.kind, error.name, fault.path) for fault in error.faults]


def _header(value: object) -> _Header:
    if isinstance(value, dict):
        return _Header(value.get("apiVersion"), value.get("kind"), value.get("items"))
    if not isinstance(value, Raw):
        raise _error("", f"expected an object, got {shown(value)}")
    try:
        return _ENCODED_HEADER.decode(value)
    except msgspec.ValidationError:
        return _header(plain_value(value))


def _items(header: _Header) -> list[Any] | None:
    """The objects of a List, or None when it is something else."""
    if not (isinstance(header.kind, str) and header.kind.endswith("List")):
        return None
    if isinstance(header.items, list):
        return header.items
    if header.kind.removesuffix("List") not in _LIST_ITEMS:
        return None
    if header.items is None:
        return []
    raise _error("items", f"expected an array, got {shown(header.items)}")


def _error(field: str, message: str) -> ObjectError:
    return ObjectError("", "", (Fault(field, message),))
