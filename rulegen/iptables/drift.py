"""When the chains have to be looked at because others may have changed them. Reads no rule."""

from __future__ import annotations

# Of all time, at most this part goes into looking.
_SHARE = 0.01


class PeriodicResync:
    """Nobody says when somebody changes iptables, so it is compared every `period` seconds; see `Watch`.

    Comparing takes longer the more rules there are; it comes so seldom that it takes a hundredth of the time.
    """

    is_prompt = False

    def __init__(self, period: float, now: float) -> None:
        self._period = period
        self._due = now + period

    def files(self) -> list[int]:
        return []

    def wait(self, now: float) -> float | None:
        """Until the next turn."""
        return self._due - now

    def look(self, now: float) -> list[str]:
        """Somebody, when it is time to compare."""
        if now < self._due:
            return []
        self._due = now + self._period
        return ["another program"]

    def compared(self, now: float, seconds: float) -> None:
        """Counts from now."""
        self._due = now + max(self._period, seconds / _SHARE)
