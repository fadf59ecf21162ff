"""Events come in from any thread; those that still count go out, to the one that works.

Of an object only the last state is kept, so that a flood costs no more memory than the cluster has objects.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from math import inf
from typing import TypeAlias

from rulegen.kube.follow import Delete, FileUnusable, FileUsable, FollowEvent, Invalid, Synced, Upsert
from rulegen.kube.kinds import WatchedKind, WatchedObject, kind_of
from rulegen.kube.objects import SERVICE_NAME, EndpointSlice
from rulegen.services.model import ServiceKey

ObjectKey: TypeAlias = tuple[WatchedKind, str, str]

# An object that was handed on so many seconds ago, or fewer, is one that changes all the time.
_RESTLESS_SECONDS = 10.0
# What a large Service costs for each of its entries (seconds), and the part of the time that all large ones may take.
_SECONDS_PER_ENTRY = 30e-6
_SHARE_OF_LARGE = 0.1
# What handling so many endpoints costs is about what handling a change costs.
_ENDPOINTS_PER_CHANGE = 50
# To wake up, a byte each; one as a rule.
_MOST_REASONS = 4096


class WorkQueue:
    """What has arrived and is not taken yet. Readable, for `select`, while there may be something new.

    Changes of what is in a namespace (Services, slices) wait for their turn. Namespaces take turns, so that one in
    which much changes holds up no other; and in each, objects that have been quiet come before those that change all
    the time, so that these hold up no neighbour either. What compiling a Service costs grows with its endpoints: large
    ones wait in a queue of their own, one is handed on at a time, and all together get a tenth of the time. `clock`:
    seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # What is handed on at once, and all of it together.
        self._prompt: dict[Hashable, FollowEvent] = {}
        self._quiet, self._restless = _Queue(), _Queue()
        # What is said of objects whose change waits: handed on before it, that would count as the later one.
        self._invalid: dict[ObjectKey, Invalid] = {}
        self._large: dict[ServiceKey, dict[ObjectKey, Upsert | Delete]] = {}
        self._sizes: Mapping[ServiceKey, int] = {}
        self._next_large = -inf
        # When objects were handed on, those of the last seconds, the oldest first.
        self._handed_on: OrderedDict[ObjectKey, float] = OrderedDict()
        self._must_wake_up = True
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
        """A byte written here, by a signal for example, makes the work queue readable."""
        return self._writer.fileno()

    def weigh(self, sizes: Mapping[ServiceKey, int]) -> None:
        """From now on, which Services are large, and about how many entries they have; read from any thread."""
        self._sizes = sizes

    def deliver(self, event: FollowEvent) -> None:
        """Takes an event; never waits."""
        with self._lock:
            if isinstance(event, Upsert | Delete):
                key = object_key(event)
                self._forget_invalid(key)
                if _is_namespaced(key[0]):
                    self._put(key, event)
                else:
                    self._prompt[key] = event
            elif isinstance(event, Invalid) and self._waiting_with(key := object_key(event)) is not None:
                self._invalid[key] = event
            else:
                self._prompt[_key(event)] = event
            self._wake_up_once()

    def deliver_together(self, events: Iterable[FollowEvent]) -> None:
        """Takes events of which none is handed on without the others; never waits."""
        with self._lock:
            for event in events:
                if isinstance(event, Upsert | Delete):
                    self._forget_invalid(object_key(event))
                self._prompt[_key(event)] = event
            self._wake_up_once()

    def take(self, most: int | None = None) -> list[FollowEvent]:
        """What has arrived since the last call, of each object only the last state.

        `most`: so many changes of what waits for its turn at the most, a large slice counting as several.
        What is no such change comes last, and always.
        """
        with self._lock:
            self._drain()
            events = self._take_large(everything=most is None)
            if most is None:
                # All at once says nothing about who changes all the time.
                events += self._take_all()
            else:
                events += self._take_some(most - sum(map(_cost, events)), most / 2)
                self._note_handed_on(events)
            if self._invalid:
                events += self._take_invalid(events)
            events += self._prompt.values()
            self._prompt.clear()
        return events

    def take_prompt(self) -> list[FollowEvent]:
        """Only what need not wait for a turn."""
        with self._lock:
            self._drain()
            events = list(self._prompt.values())
            self._prompt.clear()
        return events

    def waiting(self) -> int:
        """How many changes wait for their turn; may be asked by any thread."""
        with self._lock:
            return len(self._quiet) + len(self._restless) + sum(map(len, self._large.values()))

    def wait(self) -> float | None:
        """In how many seconds `take` has changes that wait for their turn; 0: now; None: there are none."""
        if self._quiet or self._restless:
            return 0.0
        return max(0.0, self._next_large - self._clock()) if self._large else None

    def wake_up(self) -> None:
        """Makes it readable, from any thread."""
        try:
            self._writer.send(b"\0")
        except BlockingIOError:
            return  # it is full of reasons to wake up

    def _wake_up_once(self) -> None:
        """Hold the lock: in the middle of `_drain` the byte could be read, and whoever comes next would rely on it."""
        if self._must_wake_up:
            self._must_wake_up = False
            self.wake_up()

    def _drain(self) -> None:
        self._must_wake_up = True
        try:
            # Less than was asked for is all that there is.
            while len(self._reader.recv(_MOST_REASONS)) == _MOST_REASONS:
                pass
        except BlockingIOError:
            return

    def _forget_invalid(self, key: ObjectKey) -> None:
        """It is not invalid any more; but what it meant before it was so still holds."""
        self._prompt.pop((Invalid, *key), None)
        if self._invalid:
            self._invalid.pop(key, None)

    def _waiting_with(self, key: ObjectKey) -> _Waiting | None:
        """Where a change of the object waits for its turn.

        With those of a large Service it stays though that is large no more, or the object is another one's now.
        """
        queues: tuple[_Waiting, ...] = (self._quiet, self._restless, *self._large.values())
        for waiting in queues:
            if key in waiting:
                return waiting
        return None

    def _put(self, key: ObjectKey, event: Upsert | Delete) -> None:
        """Where the object waits already, or is to wait."""
        if (waiting := self._waiting_with(key)) is not None:
            waiting[key] = event
            return
        if self._sizes and (service := _service(event)) in self._sizes:
            self._large.setdefault(service, {})[key] = event
            return
        handed_on = self._handed_on.get(key)
        is_restless = handed_on is not None and self._clock() - handed_on < _RESTLESS_SECONDS
        (self._restless if is_restless else self._quiet)[key] = event

    def _take_all(self) -> list[FollowEvent]:
        return [*self._quiet.take_all(), *self._restless.take_all()]

    def _take_some(self, budget: float, kept: float) -> list[FollowEvent]:
        """All but what is `kept` for those that are quiet, then what is left for either: none waits for ever."""
        events: list[FollowEvent] = []
        for queue, rest in ((self._quiet, kept), (self._restless, 0.0), (self._quiet, 0.0)):
            if queue:
                taken, cost = queue.take(budget - rest)
                events += taken
                budget -= cost
        return events

    def _take_large(self, *, everything: bool) -> list[FollowEvent]:
        """All changes of one large Service, when it is time; or of all."""
        events: list[FollowEvent] = []
        while self._large and (everything or self._clock() >= self._next_large):
            service = next(iter(self._large))
            events += self._large.pop(service).values()
            seconds = self._sizes.get(service, 0) * _SECONDS_PER_ENTRY
            self._next_large = self._clock() + seconds / _SHARE_OF_LARGE
        return events

    def _take_invalid(self, events: Iterable[FollowEvent]) -> list[FollowEvent]:
        """What is said of the objects of these changes."""
        keys = [object_key(event) for event in events if isinstance(event, Upsert | Delete)]
        return [self._invalid.pop(key) for key in keys if key in self._invalid]

    def _note_handed_on(self, events: Iterable[FollowEvent]) -> None:
        now = self._clock()
        for event in events:
            if isinstance(event, Upsert | Delete):
                key = object_key(event)
                self._handed_on[key] = now
                self._handed_on.move_to_end(key)
        while self._handed_on and now - next(iter(self._handed_on.values())) >= _RESTLESS_SECONDS:
            self._handed_on.popitem(last=False)


@cache
def _is_namespaced(kind: WatchedKind) -> bool:
    return kind_of(kind).is_namespaced


def _service(event: Upsert | Delete) -> ServiceKey:
    """The Service that a change concerns, as far as it says."""
    _, namespace, name = object_key(event)
    if isinstance(event, Upsert) and isinstance(event.item, EndpointSlice):
        name = (event.item.metadata.labels or {}).get(SERVICE_NAME, "")
    elif not isinstance(event, Upsert) and event.kind is EndpointSlice:
        name = ""
    return namespace, name


class _Queue:
    """Changes of objects by namespace, the first of each object's in its place.

    A dict from whose front many were taken finds its first only behind the places of all of these; an OrderedDict does
    not look for it.
    """

    def __init__(self) -> None:
        # The namespace whose turn it is comes first.
        self._namespaces: OrderedDict[str, OrderedDict[ObjectKey, Upsert | Delete]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._namespaces.values()))

    def __bool__(self) -> bool:
        return bool(self._namespaces)

    def __contains__(self, key: ObjectKey) -> bool:
        return key in self._namespaces.get(key[1], ())

    def __setitem__(self, key: ObjectKey, event: Upsert | Delete) -> None:
        changes = self._namespaces.get(key[1])
        if changes is None:
            changes = self._namespaces[key[1]] = OrderedDict()
        changes[key] = event

    def take_all(self) -> list[FollowEvent]:
        """At a start there are as many as the cluster has objects."""
        taken: list[FollowEvent] = [event for changes in self._namespaces.values() for event in changes.values()]
        self._namespaces.clear()
        return taken

    def take(self, budget: float) -> tuple[list[FollowEvent], float]:
        """One from each namespace in turn, until they have cost as much as that; also what they did cost."""
        taken: list[FollowEvent] = []
        spent = 0.0
        while spent < budget and self._namespaces:
            namespace, changes = next(iter(self._namespaces.items()))
            _, event = changes.popitem(last=False)
            if changes:
                self._namespaces.move_to_end(namespace)
            else:
                del self._namespaces[namespace]
            taken.append(event)
            spent += _cost(event)
        return taken, spent


_Waiting: TypeAlias = _Queue | dict[ObjectKey, Upsert | Delete]


def _cost(event: FollowEvent) -> float:
    """What handling it costs, as a number of ordinary changes."""
    if isinstance(event, Upsert) and isinstance(event.item, EndpointSlice):
        return 1 + len(event.item.endpoints or ()) / _ENDPOINTS_PER_CHANGE
    return 1


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
        case FileUnusable(file) | FileUsable(file):
            return FileUnusable, file
    return id(event)  # the few others all count
