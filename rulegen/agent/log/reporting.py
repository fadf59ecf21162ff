"""What syncs do comes in, the log's lines about it go out: each sync at level debug, at info a summary now and then.

The first change after quiet is told at once, so that whoever makes one sees it; what follows is told together.
"""

from __future__ import annotations

import logging
import time

from rulegen.errors import RulegenError
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync
from rulegen.services.feature import NAME as SERVICES
from rulegen.services.feature import service_ports_of

_LOG = logging.getLogger("rulegen.agent")

# Seconds between two summaries.
PERIOD = 10.0
_NAMED = 5


class Reporting(Observer):
    """Tells of syncs. `period`: seconds; within one there is at most one summary."""

    def __init__(self, period: float = PERIOD) -> None:
        self._period = period
        self._is_first = True
        self._summary = _Summary()
        self._not_before = 0.0

    def synced(self, sync: Sync) -> None:
        """Tells of a sync that changed something, or was the first."""
        if self._is_first:
            self._is_first = False
            _LOG.info("sync %s", _in_words(sync))
        elif sync.delta:
            _LOG.debug("sync %s", _in_words(sync))
            self._summary.add(sync)

    def failed(self, error: RulegenError, seconds: float, *, is_full: bool) -> None:
        """The summary counts it; the worker has told."""
        del error, seconds, is_full
        self._summary.failures += 1

    def wait(self, now: float) -> float | None:
        """Until the next summary."""
        return self._not_before - now if self._summary.syncs else None

    def act(self, now: float) -> None:
        """Tells the summary."""
        _LOG.info("%s", self._summary)
        self._summary = _Summary()
        self._not_before = now + self._period


class _Summary:
    """Of several syncs."""

    def __init__(self) -> None:
        self.syncs = self.failures = 0
        self._begun = time.monotonic()
        self._longest = 0.0
        self._added = self._changed = self._removed = 0
        self._names: dict[str, None] = {}

    def add(self, sync: Sync) -> None:
        if not self.syncs:
            self._begun = time.monotonic()
        self.syncs += 1
        self._longest = max(self._longest, sum(sync.seconds.values()))
        added, changed, removed = sync.delta.counts
        self._added += added
        self._changed += changed
        self._removed += removed
        self._names.update(dict.fromkeys(_names(sync)))

    def __str__(self) -> str:
        return (
            f"syncs={self.syncs} failed={self.failures} services={len(self._names)} added={self._added} "
            f"changed={self._changed} removed={self._removed} seconds={time.monotonic() - self._begun:.1f} "
            f"longest_ms={self._longest * 1000:.2f} names={_shortened(list(self._names))}"
        )


def _in_words(sync: Sync) -> str:
    steps = " ".join(f"{step}_ms={seconds * 1000:.2f}" for step, seconds in sync.seconds.items())
    names = _names(sync)
    added, changed, removed = sync.delta.counts
    return (
        f"mode={'full' if sync.is_full else 'partial'} services={len(names)} added={added} "
        f"changed={changed} removed={removed} {steps} names={_shortened(names)}"
    )


def _names(sync: Sync) -> list[str]:
    if SERVICES in sync.features:
        return list(dict.fromkeys(f"{name.namespace}/{name.name}" for name, _ in service_ports_of(sync)))
    keys = [key for part in sync.features.values() for key in part.items if key and all(key)]
    return [key if isinstance(key, str) else "/".join(key) for key in keys]


def _shortened(names: list[str]) -> str:
    return ",".join(names[:_NAMED]) + (f",+{len(names) - _NAMED}" if len(names) > _NAMED else "") or "-"
