"""One watch of the API server for tests: changes and orders come in, the lines of the stream go out, as they come."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from tests.apiserver.faults import Cut, End, ErrorEvent, Line, Silence, StreamFault
from tests.apiserver.selectors import selector
from tests.apiserver.store import Change, Kind, Store, event_line


class Bookmark(NamedTuple):
    """The number of the last change of any kind is to be told."""


class HangUp(Exception):  # noqa: N818 - not an error
    """The connection is to be closed without another word, after the text that is still to be sent."""

    def __init__(self, text: bytes = b"") -> None:
        super().__init__()
        self.text = text


Order: TypeAlias = StreamFault | Bookmark


class Stream:
    """A watch that runs. Hold `store.changed` while making one."""

    def __init__(self, kind: Kind, query: Mapping[str, str], store: Store) -> None:
        self.kind = kind
        self.bookmarks = query.get("allowWatchBookmarks") == "true"
        # With the version after which each is carried out.
        self._orders: deque[tuple[int, Order]] = deque()
        self._store = store
        self._matches = selector(query)
        self._end = time.monotonic() + float(query.get("timeoutSeconds", "1800"))
        self._version = int(query.get("resourceVersion") or store.version)
        self._cut = False
        if store.is_forgotten(self._version):
            self.order(ErrorEvent(410, "Expired"))
        elif self._version > store.version:
            self.order(ErrorEvent(504, "Timeout", ("ResourceVersionTooLarge",)))

    def order(self, order: Order) -> None:
        """To be carried out after what has changed until now, and before what changes later."""
        with self._store.changed:
            self._orders.append((self._store.version, order))
            self._store.changed.notify_all()

    def lines(self, ending: Callable[[], bool]) -> Iterator[bytes]:
        """The lines of what changes, and of the orders, until the time is up.

        Raises:
            HangUp: the server ends, or a fault closes the connection.
        """
        while time.monotonic() < self._end:
            steps = self._next(ending)
            if ending():
                raise HangUp
            for step in steps:
                yield from self._step_lines(step, ending)
                if isinstance(step, End | ErrorEvent):
                    return

    def _next(self, ending: Callable[[], bool]) -> Sequence[Change | Order]:
        """Waits for something to say, until the time is up."""
        with self._store.changed:
            while not (
                (changes := self._store.changes_after(self.kind, self._version))
                or self._orders
                or ending()
                or (left := self._end - time.monotonic()) <= 0
            ):
                self._store.changed.wait(left)
            steps: list[tuple[int, Change | Order]] = [(change.version, change) for change in changes]
            steps += self._orders
            self._orders.clear()
            self._version = self._store.version
            return [step for _, step in sorted(steps, key=lambda step: step[0])]

    def _step_lines(self, step: Change | Order, ending: Callable[[], bool]) -> Iterator[bytes]:
        match step:
            case Change():
                yield from self._change_lines(step)
            case Cut():
                self._cut = True
            case Line(text):
                yield text + b"\n"
            case ErrorEvent():
                yield event_line("ERROR", status_object(step.status, step.reason, step.causes))
            case Bookmark():
                yield event_line("BOOKMARK", self._bookmark())
            case Silence():
                with self._store.changed:
                    self._store.changed.wait_for(ending)
                raise HangUp

    def _change_lines(self, change: Change) -> Iterator[bytes]:
        line = change.line(self._matches)
        if line is not None and self._cut:
            raise HangUp(line[: len(line) // 2])
        if line is not None:
            yield line

    def _bookmark(self) -> bytes:
        metadata = {"resourceVersion": str(self._version), "creationTimestamp": None}
        return json.dumps({"kind": self.kind.name, "apiVersion": self.kind.api_version, "metadata": metadata}).encode()


def status_object(status: int, reason: str, causes: Iterable[str] = (), about: str = "") -> bytes:
    """A Status, as the API server answers with it."""
    document: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    document |= {"message": f"this is answer {status}", "reason": reason, "code": status}
    if causes or about:
        document["details"] = {"kind": about, "causes": [{"reason": cause} for cause in causes]}
    return json.dumps(document).encode()
