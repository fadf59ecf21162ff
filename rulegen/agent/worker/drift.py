"""Where drift is nobody's business, as in a dry run; see `reconcile.driver.Watch`."""

from __future__ import annotations


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
