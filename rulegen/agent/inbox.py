"""Events come in from any thread; those that still count go out, to the one that works.

Of an object only the last state is kept, so that a flood costs no more memory than the cluster has objects.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Hashable, Iterable
from typing import TypeAlias

from rulegen.kube.follow import Delete, FollowEvent, Invalid, Synced, Upsert
from rulegen.kube.listing import WatchedKind, WatchedObject

ObjectKey: TypeAlias = tuple[WatchedKind, str, str]


class Inbox:
    """What has arrived and is not taken yet. Readable, for `select`, while there may be something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[Hashable, FollowEvent] = {}
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def close(self) -> None:
        """To be called when nobody delivers any more."""
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """For `select`."""
        return self._reader.fileno()

    @property
    def wake_up_fd(self) -> int:
        """A byte written here, by a signal for example, makes the inbox readable."""
        return self._writer.fileno()

    def deliver(self, event: FollowEvent) -> None:
        """Takes an event; never waits."""
        self.deliver_together([event])

    def deliver_together(self, events: Iterable[FollowEvent]) -> None:
        """Takes events of which none is handed on without the others; never waits."""
        with self._lock:
            was_empty = not self._events
            for event in events:
                if isinstance(event, Upsert | Delete):
                    # It is not invalid any more; but what it meant before it was so still holds.
                    self._events.pop((Invalid, *object_key(event)), None)
                self._events[_key(event)] = event
        if was_empty:
            self.wake_up()

    def take(self) -> list[FollowEvent]:
        """All events since the last call, the first of each object's in its place."""
        with self._lock:
            self._drain()
            events = list(self._events.values())
            self._events.clear()
        return events

    def wake_up(self) -> None:
        """Makes it readable, from any thread."""
        try:
            self._writer.send(b"\0")
        except BlockingIOError:
            return  # it is full of reasons to wake up

    def _drain(self) -> None:
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            return


def object_key(event: Upsert | Delete | Invalid) -> ObjectKey:
    """The object that an event is about."""
    if isinstance(event, Upsert):
        return key_of(event.item)
    return event.kind, event.namespace, event.name


def key_of(item: WatchedObject) -> ObjectKey:
    """The kind, the namespace ("" without) and the name of an object."""
    return type(item), getattr(item.metadata, "namespace", ""), item.metadata.name


def _key(event: FollowEvent) -> Hashable:
    match event:
        case Upsert() | Delete():
            return object_key(event)
        case Invalid():
            return (Invalid, *object_key(event))
        case Synced(kind):
            return Synced, kind
    return id(event)  # the few others all count
