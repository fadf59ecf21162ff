"""How long to wait before something that has failed is tried again. Knows no clock and waits for nothing itself."""

from __future__ import annotations

import random

# Nobody is left alone for longer than this because he asked for it.
_LONGEST_REQUEST = 300.0
# A failure that says something else each time is not said each time.
_MOST_SAID = 20


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


class Said:
    """Which words of failures are worth saying: each once until all is well again, and of very many not all."""

    def __init__(self) -> None:
        self._words: set[str] = set()

    def is_new(self, words: str) -> bool:
        """Whether these were not said yet; they are from now on."""
        if words in self._words or len(self._words) >= _MOST_SAID:
            return False
        self._words.add(words)
        return True

    def over(self) -> bool:
        """All is well again; whether something was said since it was before."""
        said = bool(self._words)
        self._words.clear()
        return said


class Retries:
    """When work that can fail is done again, and whether its error is worth saying: each once, until the work succeeds.

    `not_before`: the clock's time from which on it may be done. Delays as those of a Backoff.
    """

    def __init__(self, first: float, longest: float) -> None:
        self.not_before = 0.0
        self._backoff = Backoff(first, longest)
        self._said = Said()

    def failed(self, error: Exception, now: float) -> bool:
        """Puts the work off; whether these words were not said yet."""
        self.not_before = now + self._backoff.next()
        return self._said.is_new(str(error))

    def succeeded(self, not_before: float = 0.0) -> None:
        """All is well again."""
        self._backoff.reset()
        self.not_before = not_before
        self._said.over()
