"""How long to wait before something that has failed is tried again. Knows no clock and waits for nothing itself."""

from __future__ import annotations

import random

# Nobody is left alone for longer than this because he asked for it.
_LONGEST_REQUEST = 300.0


class Backoff:
    """Delays in seconds that double from `first` to `longest`, each between half of that and all of it.

    The jitter keeps the nodes of a cluster from asking a server that comes back all at once.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self, at_least: float = 0.0) -> float:
        """The next delay. `at_least`: what the other side asked for; it may exceed `longest`, up to five minutes."""
        bound, self._next = self._next, min(2 * self._next, self._longest)
        jitter = random.uniform(0.5, 1.0) * bound  # noqa: S311 - no secret
        asked = min(at_least, _LONGEST_REQUEST)
        return asked + jitter if asked > jitter else jitter

    def reset(self) -> None:
        """All is well again."""
        self._next = self._first
