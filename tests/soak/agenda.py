"""Acts come in, each with how often it is to happen; they are called at random moments, one at a time."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable
from typing import TypeAlias

Act: TypeAlias = Callable[[], object]


class Agenda:
    """What is to be done, and when. `chance` decides about the moments."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        # When, a number that makes the order certain, the act, and the seconds between two (0: it comes once).
        self._acts: list[tuple[float, int, Act, float]] = []
        self._count = itertools.count()

    def often(self, seconds: float, act: Act) -> None:
        """The act happens again and again, `seconds` apart on average."""
        self._add(self._chance.expovariate(1 / seconds), act, seconds)

    def once(self, seconds: float, act: Act) -> None:
        """The act happens after so many seconds."""
        self._add(seconds, act, 0.0)

    def run(self, until: float) -> None:
        """Does what is to be done, in the calling thread, until this moment of `time.monotonic`."""
        while self._acts and self._acts[0][0] < until:
            when, _, act, seconds = heapq.heappop(self._acts)
            time.sleep(max(0.0, when - time.monotonic()))
            act()
            if seconds:
                self.often(seconds, act)
        time.sleep(max(0.0, until - time.monotonic()))

    def finish(self) -> None:
        """Does at once what was to come once."""
        due = [entry for entry in sorted(self._acts) if not entry[3]]
        self._acts = [entry for entry in self._acts if entry[3]]
        heapq.heapify(self._acts)
        for _, _, act, _ in due:
            act()

    def _add(self, seconds: float, act: Act, every: float) -> None:
        heapq.heappush(self._acts, (time.monotonic() + seconds, next(self._count), act, every))
