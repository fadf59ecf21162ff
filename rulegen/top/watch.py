"""Keeps the counts: the kernel's events come in, snapshots go out. One listing at the start, then what comes and goes.

The kernel's table is listed again where that is the only way to know: events were lost, there are none, or connections
are left that came before anybody listened, of which it does not tell that they go. That takes a hundredth of the
time at most. Changes no sysctl.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

from rulegen.conntrack.connections import Connection, ConnectionReader, EventListener, EventsMode, events_mode
from rulegen.errors import HostError, StaleError
from rulegen.interfaces import host_families
from rulegen.live.known import Known
from rulegen.top.model import Snapshot
from rulegen.top.snapshots import Choice, snapshot
from rulegen.top.tally import Tally

# A listing is repeated after that, or after a hundred times as long as it took.
_AGAIN_SECONDS = 10.0
_TIMES = 100

NO_EVENTS = (
    "the kernel tells of no connection (net.netfilter.nf_conntrack_events is 0): they are listed each time, and those"
    " that came and went in between are not counted"
)
_LOST = "the kernel had more to tell than there was room for, {} times: then connections were listed anew"


class Watch:
    """A context manager. `names`: asks whoever knows the Services, again where connections to unknown ones are met.

    Listens in the network namespace of the thread that opens it. Raises HostError, ConntrackError.
    """

    def __init__(self, names: Callable[[], Known], *, names_change: bool) -> None:
        self._names = names
        self._names_change = names_change
        self._lost = 0
        self._is_behind = False

    def __enter__(self) -> Watch:
        self._mode = events_mode()
        self.events = EventListener()
        self._families = host_families()
        self._tally = Tally(self._read_names())
        self._recount(count_new=False)
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.events.close()

    @property
    def known(self) -> Known:
        """Which Services there are, as told last."""
        return self._tally.known

    def snapshot(self, choice: Choice, seconds: float) -> Snapshot:
        """What there is after so many seconds more."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._wait(left)
        # Once for each snapshot at most, however much is lost.
        if self._mode is EventsMode.OFF or self._is_behind:
            self._recount(count_new=True)
        now = time.monotonic()
        elapsed, self._started = max(now - self._started, 1e-3), now
        return snapshot(self._tally, choice, elapsed, self._notes())

    def _wait(self, seconds: float) -> None:
        """Follows events for at most so long; lists again what has to be."""
        select.select([self.events], [], [], seconds)
        self._follow()
        now = time.monotonic()
        if now < self._next_listing:
            return
        if self._tally.missed and self._names_change:
            # Where rules cannot be read just now, those that were read before are as good as any.
            with suppress(HostError, StaleError):
                self._tally.known = self._read_names()
            self._recount(count_new=False)
        elif self._tally.has_unseen and self._mode is not EventsMode.ON:
            self._recount(count_new=False)

    def _follow(self) -> None:
        for event in self.events.read():
            if event is not None:
                self._tally.follow(event)
            elif not self._is_behind:
                self._is_behind = True
                self._lost += 1

    def _recount(self, *, count_new: bool) -> None:
        begun = time.monotonic()
        self._tally.missed = self._is_behind = False
        self._tally.recount(self._connections(), count_new=count_new)
        ended = time.monotonic()
        self._next_listing = ended + max(_AGAIN_SECONDS, _TIMES * (ended - begun + self._names_seconds))

    def _connections(self) -> Iterator[Connection]:
        with closing(ConnectionReader()) as reader:
            for family in self._families:
                yield from reader.translated(family)

    def _read_names(self) -> Known:
        begun = time.monotonic()
        known = self._names()
        self._names_seconds = time.monotonic() - begun
        return known

    def _notes(self) -> tuple[str, ...]:
        notes = [NO_EVENTS] if self._mode is EventsMode.OFF else []
        return (*notes, *([_LOST.format(self._lost)] if self._lost else []))
