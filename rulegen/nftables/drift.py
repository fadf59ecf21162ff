"""When the kernel has to be looked at because others may have changed our tables, and who they are. Reads no rule."""

from __future__ import annotations

from rulegen.nftables.monitor import Monitor


class Notifications:
    """The kernel says when somebody commits to nftables, and who; see `reconcile.driver.Watch`."""

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
