"""When the next sync may run. Times come in and go out, in seconds of a monotonic clock; waits for nothing itself."""

from __future__ import annotations

from rulegen.kube.backoff import Backoff

_FIRST_RETRY = 0.1
_CHECKS = 10


class Schedule:
    """Syncs at least `min_sync_period` apart (SVC-90), so that the first after quiet runs at once.

    A sync that failed is tried again, sooner at first than later, at the latest after `sync_period`.
    """

    def __init__(self, min_sync_period: float, sync_period: float) -> None:
        self._min_sync_period = min_sync_period
        self._backoff = Backoff(_FIRST_RETRY, max(_FIRST_RETRY, sync_period))
        self._earliest = 0.0
        self._wanted = False
        self._has_failed = False

    def request(self) -> None:
        """There is something to do."""
        self._wanted = True

    def request_at_once(self) -> None:
        """There is something to do that need not wait for the period; only after a failure it does."""
        self._wanted = True
        if not self._has_failed:
            self._earliest = 0.0

    def succeeded(self, now: float) -> None:
        """A sync ended well."""
        self._wanted = self._has_failed = False
        self._backoff.reset()
        self._earliest = now + self._min_sync_period

    def failed(self, now: float) -> float:
        """A sync failed; how many seconds until the next."""
        self._wanted = self._has_failed = True
        delay = max(self._min_sync_period, self._backoff.next())
        self._earliest = now + delay
        return delay

    @property
    def has_failed(self) -> bool:
        """Whether the last sync did."""
        return self._has_failed

    def wait_if_wanted(self, now: float) -> float:
        """How long the next sync would have to wait if somebody asked for one; 0 or less: not at all."""
        return self._earliest - now

    def wait(self, now: float) -> float | None:
        """How long to wait for the next sync; 0 or less when it is due, None when there is nothing to do."""
        return self._earliest - now if self._wanted else None


class Allowance:
    """A few at once, then one in each `period`: looks at the kernel (so there is no war), Events (no flood)."""

    def __init__(self, period: float, now: float) -> None:
        self._period = period
        self._used_until = now - _CHECKS * period

    def wait(self, now: float) -> float:
        """How long to wait until the next is allowed; 0 or less when it is."""
        return max(self._used_until, now - _CHECKS * self._period) + self._period - now

    def use(self, now: float) -> None:
        """One of them."""
        self._used_until = max(self._used_until, now - _CHECKS * self._period) + self._period
