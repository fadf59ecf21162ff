"""A kind comes in; its objects go out, page by page, as an API server lists them, each decoded or with its faults.

One page is in memory at a time. Nothing is remembered, nothing is tried twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from rulegen.errors import UNDECODABLE, printable
from rulegen.kube.api import Api, ApiError
from rulegen.kube.decode import ObjectError, decode_object, plain_value
from rulegen.kube.kinds import Resource, WatchedKind, WatchedObject, kind_of
from rulegen.kube.objects import DEFAULT_NAMESPACE

# As kubectl asks for them: a page of large slices is a few megabytes.
PAGE_LIMIT = 500
# How long any part of an answer may take. The first one of a page of a large list does take its time.
LIST_SECONDS = 60.0

GONE = 410
_NOT_FOUND = 404


class Item(NamedTuple):
    """An object as the API server sent it: its name, the version of it, and what it is, or why that cannot be used.

    `namespace` is "" for cluster-scoped objects; all three are "" where they cannot be read.
    """

    namespace: str
    name: str
    version: str
    value: WatchedObject | ObjectError


class Page(NamedTuple):
    """A part of a list: its path on the server, the version of the whole list, which all parts share, and objects."""

    path: str
    version: str
    items: Iterator[Item]


class NotServedError(ApiError):
    """The API server does not know the kind."""


class _ListMetadata(Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(Struct):
    metadata: _ListMetadata
    # Every list has it, empty or null; what has not is something else, and does not say that all objects are gone.
    items: list[Raw] | None


_LIST = msgspec.json.Decoder(_List)


def list_pages(api: Api, resource: Resource, limit: int = PAGE_LIMIT) -> Iterator[Page]:
    """The list in pages of `limit` objects, all of them of one moment. A page's items are to be read before the next.

    Raises:
        NotServedError: the API server knows none of the resource's versions.
        ApiError: it cannot be asked, or what it sent is no list. `status` GONE: the rest of the list has expired, and
            another one has to be begun.
    """
    path, found = _first_part(api, resource, limit)
    while True:
        items = (read_item(resource.kind, raw) for raw in found.items or ())
        yield Page(path, found.metadata.resource_version, items)
        if not found.metadata.continue_:
            return
        found = _part(api, resource, path, {"limit": str(limit), "continue": found.metadata.continue_})


def _first_part(api: Api, resource: Resource, limit: int) -> tuple[str, _List]:
    for path in resource.paths:
        try:
            return path, _part(api, resource, path, {"limit": str(limit)})
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
    raise NotServedError(f"{api.server}: does not serve {resource.kind.__name__} objects", _NOT_FOUND)


def _part(api: Api, resource: Resource, path: str, query: Mapping[str, str]) -> _List:
    with api.get(path, {**resource.selectors, **query}, LIST_SECONDS) as answer:
        body = answer.body()
    try:
        return _LIST.decode(body)
    except UNDECODABLE as error:
        raise ApiError(f"{api.server}{path}: the answer is no list: {printable(str(error))}") from error


class _Metadata(Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Identity(Struct):
    metadata: _Metadata


_IDENTITY = msgspec.json.Decoder(_Identity)


def read_item(kind: WatchedKind, text: Raw) -> Item:
    """An object with its name and version, decoded if it can be. Raises nothing."""
    namespace, name, version = read_identity(text)
    try:
        found: WatchedObject = decode_object(kind, text)
    except ObjectError as error:
        return Item(_as_decoded(kind, namespace, name), name, version, error)
    # The namespace as decoded, which those know who are told of the object: the text may state none.
    return Item(getattr(found.metadata, "namespace", ""), name, version, found)


def _as_decoded(kind: WatchedKind, namespace: str, name: str) -> str:
    """The namespace that an object would have if it could be decoded."""
    if not name:
        return namespace
    return (namespace or DEFAULT_NAMESPACE) if kind_of(kind).is_namespaced else ""


def read_identity(text: Raw) -> tuple[str, str, str]:
    """The namespace, name and version of an object; "" for what it does not say."""
    try:
        metadata = _IDENTITY.decode(text).metadata
    except UNDECODABLE:
        return _plain_identity(text)
    return metadata.namespace, metadata.name, metadata.resource_version


def _plain_identity(text: Raw) -> tuple[str, str, str]:
    """What can be read of the identity of an object that is not built as one."""
    try:
        value: Any = plain_value(text)
    except UNDECODABLE:
        return "", "", ""
    metadata = value.get("metadata") if isinstance(value, dict) else None
    fields = metadata if isinstance(metadata, dict) else {}
    namespace, name, version = (
        found if isinstance(found := fields.get(field), str) else ""
        for field in ("namespace", "name", "resourceVersion")
    )
    return namespace, name, version
