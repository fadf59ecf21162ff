"""A cluster's API server comes in; what its objects are, and each change of them, goes out as events, until `stop`.

One thread for each kind lists its objects, then watches what changes. A stream that ends is taken up where it ended;
only where the server has forgotten that moment is everything listed anew, and then what differs is told, deletions
too. Whatever the server does, what was told stays true as far as is known, and asking goes on. Never decides what an
object means; remembers names and versions, not objects.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Self, TypeAlias

from msgspec import Struct

from rulegen.errors import RulegenError
from rulegen.kube.api import Api, ApiError
from rulegen.kube.backoff import Backoff
from rulegen.kube.decode import ObjectError
from rulegen.kube.faults import Fault
from rulegen.kube.kinds import Resource, WatchedKind, WatchedObject
from rulegen.kube.listing import GONE, PAGE_LIMIT, Item, NotServedError, list_pages
from rulegen.kube.watching import Bookmark, Changed, Deleted, Opened, Unreadable, WatchEvent, watch

# A watch that is answered so will not be answered otherwise from the same version.
_ANEW_STATUSES = frozenset({400, 404, GONE})
# After a restore from a backup, versions that clients know of have not happened.
_VERSION_TOO_LARGE = "ResourceVersionTooLarge"

_STOP_SECONDS = 1.0


class Upsert(Struct, frozen=True):
    """An object is as it is here now, whether it is new or not."""

    item: WatchedObject


class Delete(Struct, frozen=True):
    """An object is not there any more, or not selected. `namespace` is "" for cluster-scoped kinds."""

    kind: WatchedKind
    namespace: str
    name: str


class Invalid(Struct, frozen=True):
    """An object cannot be used as it is now: what it last meant holds. Both names are "" where it does not say."""

    kind: WatchedKind
    namespace: str
    name: str
    error: ObjectError


class Synced(Struct, frozen=True):
    """Everything that a list held has been told; for the first time, or anew."""

    kind: WatchedKind


class Interrupted(Struct, frozen=True):
    """A kind is not followed at present, and why; asked again after `seconds`. What was told may grow old."""

    kind: WatchedKind
    error: RulegenError
    seconds: float


class Resumed(Struct, frozen=True):
    """After `Interrupted`, a kind is followed again."""

    kind: WatchedKind


class Failed(Struct, frozen=True):
    """A kind is not followed any more, because of an error in the program."""

    kind: WatchedKind
    error: Exception


class FileUnusable(Struct, frozen=True):
    """Of sources that are files: one cannot be read as a whole, and what it last meant holds; both are safe text."""

    file: str
    problem: str


class FileUsable(Struct, frozen=True):
    """After `FileUnusable`, the file can be read again, or is gone."""

    file: str


FollowEvent: TypeAlias = Upsert | Delete | Invalid | Synced | Interrupted | Resumed | Failed | FileUnusable | FileUsable


class Timing(Struct, frozen=True, kw_only=True):
    """Sizes and times; the latter in seconds.

    `watch_seconds`: how long a watch is asked to last, chosen between these. `silence`: a watch in which nothing
    arrives for so long is renewed; API servers send a bookmark each minute. `steady`: a watch that lasted so long did
    not fail. `unserved`: when to ask again for a kind that the server does not know.
    """

    page_limit: int = PAGE_LIMIT
    watch_seconds: tuple[int, int] = (300, 600)
    silence: float = 90.0
    steady: float = 5.0
    first_delay: float = 0.25
    longest_delay: float = 30.0
    unserved: float = 600.0


class Follower:
    """Follows `resources`, each of another kind.

    `deliver` gets the events; it is called by several threads, those of one kind in their order. It must not wait.
    `api` belongs to the follower from `start` on.
    """

    def __init__(
        self,
        api: Api,
        resources: Iterable[Resource],
        deliver: Callable[[FollowEvent], None],
        timing: Timing | None = None,
    ) -> None:
        self._api = api
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=_KindFollower(api, resource, deliver, timing or Timing(), self._stopping).run,
                name=f"follow {resource.kind.__name__}",
                daemon=True,
            )
            for resource in resources
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begins; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all requests and threads, within a second. No event is delivered afterwards.

        Only a thread that waits for the name of the API server to be resolved cannot be hurried; it ends after that.
        """
        self._stopping.set()
        self._api.close()
        end = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))


class _KindFollower:
    """One thread's work."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        deliver: Callable[[FollowEvent], None],
        timing: Timing,
        stopping: threading.Event,
    ) -> None:
        self._api = api
        self._resource = resource
        self._kind = resource.kind
        self._deliver = deliver
        self._timing = timing
        self._stopping = stopping
        self._backoff = Backoff(timing.first_delay, timing.longest_delay)
        # Of each object that was told, or was invalid, its version.
        self._known: dict[tuple[str, str], str] = {}
        self._path = ""
        # The version up to which was told, and whether that was everything, so that a watch can go on from there.
        self._version = ""
        self._listed = False
        self._lost_event = False
        self._interrupted = False
        # Whether the last list was made because the server had forgotten where a watch was to go on.
        self._anew = False
        # When the watch was opened that runs now, or ended last; None before it is.
        self._opened: float | None = None

    def run(self) -> None:
        """Follows until `stopping` is set."""
        try:
            while not self._stopping.is_set():
                self._stopping.wait(self._follow_once())
        except Exception as error:
            self._tell(Failed(self._kind, error))
            raise

    def _follow_once(self) -> float:
        """Lists if there is need, watches until the stream ends; how many seconds to wait before the next time."""
        self._opened = None
        try:
            if not self._listed:
                self._list()
            self._watch()
        except NotServedError as error:
            return self._unserved(error)
        except RulegenError as error:
            if self._listed and _needs_list(error):
                self._listed = False
                return self._list_anew(error)
            return self._interrupt(error)
        finally:
            self._listed = self._listed and not self._lost_event
        return 0.0 if self._was_steady() else self._backoff.next()

    def _list(self) -> None:
        seen = set()
        for page in list_pages(self._api, self._resource, self._timing.page_limit):
            if _is_older(page.version, self._version):
                # The cluster was put back to an earlier state: versions that are known may mean something else.
                self._known = dict.fromkeys(self._known, "")
            # Known at once: what is told of a list that breaks off is as new as that.
            self._path, self._version = page.path, page.version
            for item in page.items:
                seen.add((item.namespace, item.name))
                self._take(item)
        self._synced(seen)
        self._listed, self._lost_event = True, False

    def _synced(self, seen: set[tuple[str, str]]) -> None:
        for key in sorted(self._known.keys() - seen):
            del self._known[key]
            self._tell(Delete(self._kind, *key))
        self._tell(Synced(self._kind))

    def _watch(self) -> None:
        seconds = random.randint(*self._timing.watch_seconds)  # noqa: S311 - no secret
        silence = self._timing.silence
        for event in watch(self._api, self._resource, self._path, self._version, seconds=seconds, silence=silence):
            self._handle(event)

    def _handle(self, event: WatchEvent) -> None:
        match event:
            case Opened():
                self._opened = time.monotonic()
                self._resume()
            case Changed(item):
                self._take(item)
                self._version = item.version or self._version
            case Deleted(item):
                self._drop(item)
                self._version = item.version or self._version
            case Bookmark(version):
                self._version = version or self._version
            case Unreadable(reason):
                self._lost_event = True
                error = ObjectError(self._kind.__name__, "", (Fault("", reason),))
                self._tell(Invalid(self._kind, "", "", error))

    def _take(self, item: Item) -> None:
        key = (item.namespace, item.name)
        if item.version and self._known.get(key) == item.version:
            return
        if item.name:
            self._known[key] = item.version
        else:
            self._lost_event = True
        if isinstance(item.value, ObjectError):
            self._tell(Invalid(self._kind, *key, item.value))
        else:
            self._tell(Upsert(item.value))

    def _drop(self, item: Item) -> None:
        if not item.name:
            self._lost_event = True
        elif self._known.pop((item.namespace, item.name), None) is not None:
            self._tell(Delete(self._kind, item.namespace, item.name))

    def _unserved(self, error: NotServedError) -> float:
        """A kind that this version of Kubernetes does not have yet is as if there were no object of it."""
        if not self._resource.optional or self._path:
            return self._interrupt(error)
        self._synced(set())
        self._resume()
        return self._timing.unserved

    def _resume(self) -> None:
        if self._interrupted:
            self._interrupted = False
            self._tell(Resumed(self._kind))

    def _list_anew(self, error: RulegenError) -> float:
        """At once: the server is there, however long it was not. Not again and again: that may be all that it says."""
        if self._was_steady() or not self._anew:
            self._anew = True
            self._backoff.reset()
            return 0.0
        return self._interrupt(error)

    def _interrupt(self, error: RulegenError) -> float:
        self._was_steady()
        seconds = self._backoff.next(error.retry_after if isinstance(error, ApiError) else 0.0)
        self._interrupted = True
        self._tell(Interrupted(self._kind, error, seconds))
        return seconds

    def _was_steady(self) -> bool:
        steady = self._opened is not None and time.monotonic() - self._opened >= self._timing.steady
        if steady:
            self._anew = False
            self._backoff.reset()
        return steady

    def _tell(self, event: FollowEvent) -> None:
        # Errors that stopping itself causes are nobody's business.
        if not self._stopping.is_set():
            self._deliver(event)


def _needs_list(error: RulegenError) -> bool:
    return isinstance(error, ApiError) and (error.status in _ANEW_STATUSES or _VERSION_TOO_LARGE in error.causes)


def _is_older(version: str, than: str) -> bool:
    return version.isdigit() and than.isdigit() and int(version) < int(than)
