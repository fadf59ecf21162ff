"""When the kernel has to be looked at because others may have changed our rules, and who they are. Reads no rule."""

from __future__ import annotations

from typing import Protocol

from rulegen.nftables.monitor import Monitor

# Of all time, at most this part goes into looking.
_SHARE = 0.01


class Watch(Protocol):
    """Says who may have changed our rules.

    `is_prompt`: as soon as somebody has, so that what was read before is known to be so still.
    """

    is_prompt: bool

    def files(self) -> list[int]:
        """What to `select` on: readable as soon as there may be something."""
        ...

    def wait(self, now: float) -> float | None:
        """In how many seconds there is something even if no file becomes readable; None: not by time."""
        ...

    def look(self, now: float) -> list[str]:
        """Who may have changed something since the last call, as words; does not wait."""
        ...

    def compared(self, now: float, seconds: float) -> None:
        """The kernel was compared as a whole, which took so many seconds."""
        ...


class NoDriftDetection:
    """Where drift is nobody's business, as in a dry run; see `Watch`."""

    is_prompt = False

    def files(self) -> list[int]:
        return []

    def wait(self, now: float) -> float | None:
        del now
        return None

    def look(self, now: float) -> list[str]:
        del now
        return []

    def compared(self, now: float, seconds: float) -> None:
        """Nothing to remember."""


class Notifications:
    """The kernel says when somebody commits to nftables, and who; see `Watch`."""

    is_prompt = True

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def files(self) -> list[int]:
        return [self._monitor.fileno()]

    def wait(self, now: float) -> float | None:
        """Nothing to wait for when something was missed; else what happens makes the file readable."""
        del now
        return 0.0 if self._monitor.has_missed else None

    def look(self, now: float) -> list[str]:
        """The processes that committed to our table."""
        del now
        return [intrusion.by for intrusion in self._monitor.read()]

    def compared(self, now: float, seconds: float) -> None:
        """Nothing to remember."""


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
