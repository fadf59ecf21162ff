"""The bytes of a watch come in, as they arrive; what has happened goes out, event by event.

A line that is no event goes out as such and ends nothing. Nothing is remembered of earlier events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import Raw, Struct

from rulegen.errors import UNDECODABLE, printable, shown
from rulegen.kube.api import Api, ApiError, status_error
from rulegen.kube.kinds import Resource, WatchedKind
from rulegen.kube.listing import Item, read_identity, read_item

# Objects in etcd are at most 1.5 MB.
_LONGEST_LINE = 16 << 20


class Changed(NamedTuple):
    """An object is as `item` now, whether it is new or not."""

    item: Item


class Deleted(NamedTuple):
    """An object was deleted, or is not selected any more; `item` is its last state."""

    item: Item


class Bookmark(NamedTuple):
    """Nothing else has changed up to this version."""

    version: str


class Unreadable(NamedTuple):
    """A line that is no event; what it should have told is lost."""

    reason: str


class Opened(NamedTuple):
    """The server has answered; events follow as they happen."""


WatchEvent: TypeAlias = Opened | Changed | Deleted | Bookmark | Unreadable


class _Event(Struct):
    type: str
    object: Raw


_EVENT = msgspec.json.Decoder(_Event)


def watch(
    api: Api, resource: Resource, path: str, version: str, *, seconds: int, silence: float
) -> Iterator[WatchEvent]:
    """What happens after `version`, until the server ends the stream, which it is asked to do after `seconds`.

    `silence`: how many seconds nothing may arrive, bookmarks included, before the stream is given up.

    Raises:
        ApiError: the server cannot be asked, the stream breaks off or is silent, or the server tells an error in it.
    """
    query = {
        **resource.selectors,
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(seconds),
    }
    with api.get(path, query, silence) as answer:
        yield Opened()
        for line in lines(answer.chunks()):
            yield read_event(api.server, resource.kind, line)


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines in `chunks`, however these are cut, without empty ones; not the last when it has no newline.

    Raises:
        ApiError: a line has no end.
    """
    rest = bytearray()
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest += first
        if len(rest) > _LONGEST_LINE:
            raise ApiError("a watch sent a line without end")
        if not others:
            continue
        if rest:
            yield bytes(rest)
        yield from (line for line in others[:-1] if line)
        rest = bytearray(others[-1])


def read_event(server: str, kind: WatchedKind, line: bytes) -> WatchEvent:
    """What a line tells.

    Raises:
        ApiError: it is an event of type ERROR.
    """
    try:
        event = _EVENT.decode(line)
    except UNDECODABLE as error:
        return Unreadable(f"a line that is no event: {printable(str(error))}")
    match event.type:
        case "ADDED" | "MODIFIED":
            return Changed(read_item(kind, event.object))
        case "DELETED":
            return Deleted(read_item(kind, event.object))
        case "BOOKMARK":
            return Bookmark(read_identity(event.object)[2])
        case "ERROR":
            raise status_error(server, bytes(event.object))
    return Unreadable(f"an event of the unknown type {shown(event.type)}")
