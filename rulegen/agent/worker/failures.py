"""Why syncs fail comes in; lines for the log go out, each reason once until a sync ends well. Writes nothing.

A name server that is away, or a kernel that refuses, is one fact, though it is tried again and again.
"""

from __future__ import annotations

from rulegen.kube.backoff import Said


class Failures:
    """What failed since the last sync that ended well, and what was said about it."""

    def __init__(self) -> None:
        self._said = Said()
        self._attempts = 0

    def take(self, error: str, delay: float) -> str:
        """What is new in it as a line, or "". `delay`: seconds until the next attempt."""
        self._attempts += 1
        if not self._said.is_new(error):
            return ""
        return f"sync failed, next attempt in {delay:.1f} s, then again until it works (said once): {error}"

    def over(self) -> str:
        """A sync has ended well: a line when some before it did not, else ""."""
        attempts, self._attempts = self._attempts, 0
        self._said.over()
        words = "an attempt" if attempts == 1 else f"{attempts} attempts"
        return f"synced again, after {words} that failed" if attempts else ""
