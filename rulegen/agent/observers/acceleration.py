"""Keeps the flowtable over the node's interfaces, those that come later too, while `accelerate` is on."""

from __future__ import annotations

import logging

from rulegen.errors import RulegenError
from rulegen.nftables.acceleration import Acceleration, UnsupportedError
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync

_LOG = logging.getLogger("rulegen.agent")

# A pod lives longer than that, and comparing takes a fraction of a millisecond.
_PERIOD_SECONDS = 2.0
_PERIOD_AFTER_FAILURE_SECONDS = 30.0


class AccelerationObserver(Observer):
    """Begins after the first sync. `is_wanted` False: the table of an earlier agent goes, once."""

    def __init__(self, acceleration: Acceleration, *, is_wanted: bool) -> None:
        self._act = acceleration.ensure if is_wanted else acceleration.remove
        self._is_repeated = is_wanted
        self._due: float | None = None
        self._has_begun = False

    def synced(self, sync: Sync) -> None:
        """Rules are in force, so connections may be accelerated."""
        del sync
        if not self._has_begun:
            self._has_begun = True
            self._due = 0.0

    def wait(self, now: float) -> float | None:
        """Until the interfaces are compared again."""
        return None if self._due is None else self._due - now

    def act(self, now: float) -> None:
        """Adds the interfaces that have come, and repairs what others did to the table."""
        if self._due is None or now < self._due:
            return
        self._due = now + _PERIOD_SECONDS if self._is_repeated else None
        try:
            for done in self._act():
                _LOG.info("acceleration: %s", done)
        except UnsupportedError as error:
            _LOG.warning("accelerate is on, but %s: connections are forwarded packet by packet", error)
            self._due = None
        except RulegenError as error:
            _LOG.warning("acceleration: %s", error)
            self._due = now + _PERIOD_AFTER_FAILURE_SECONDS
