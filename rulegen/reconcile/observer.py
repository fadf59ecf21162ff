"""What others may want to know of the agent's work, and what they have to do from time to time.

An observer is called by the working thread, between syncs: it must not raise, and not wait for anybody. Whatever it has
to do that can fail, it keeps and tries again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rulegen.errors import RulegenError
from rulegen.reconcile.reconciler import Sync


class Observer:
    """Does nothing; for those who need only a part of it."""

    def woke(self) -> None:
        """The working thread begins to work: from now until `rests`, other calls included."""

    def rests(self) -> None:
        """The working thread has nothing more to do for now."""

    def took(self, events: Sequence[Any]) -> None:
        """Events (of `kube.follow`) have been taken; changes among them are to be applied by the next sync."""

    def synced(self, sync: Sync) -> None:
        """A sync ended well."""

    def repaired(self, who: str, entries: int, lines: Sequence[str]) -> None:
        """The sync that `synced` tells of next has put entries back that others had changed.

        `who`: in words, what others wrote in it; `lines`: each entry in words, none where there are many.
        """

    def failed(self, error: RulegenError, seconds: float, *, is_full: bool) -> None:
        """A sync failed after so many seconds, and is tried again; nothing is lost. `is_full`: it read the kernel."""

    def wait(self, now: float) -> float | None:
        """In how many seconds `act` has something to do; 0 or less: now; None: nothing."""
        del now
        return None

    def act(self, now: float) -> None:
        """Does what is due."""
