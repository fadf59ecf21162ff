"""After a sync: counts, for Prometheus, the ranges that are in force, and ends flows that began without them."""

from __future__ import annotations

import logging
import time
from typing import Any

from rulegen.config import Family
from rulegen.egress.connections import PodFlows
from rulegen.egress.model import NAME, Side
from rulegen.errors import RulegenError
from rulegen.kube.backoff import Retries
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync

_LOG = logging.getLogger("rulegen.agent")
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 30.0


class RangeMetrics(Observer):
    """`rulegen_egress_ranges`, by family and side. `registry`: prometheus_client's."""

    def __init__(self, registry: Any) -> None:
        from prometheus_client import Gauge

        self._gauge = Gauge(
            "rulegen_egress_ranges",
            "Ranges of egress masquerading: of this node's pods, of the cluster, and exempt ones",
            ["ip_family", "side"],
            registry=registry,
        )
        for family in Family:
            for side in Side:
                self._gauge.labels(family.value, side.value)

    def synced(self, sync: Sync) -> None:
        """Counts what came and went."""
        done = sync.features.get(NAME)
        for item, change in done.items.items() if done is not None else ():
            step = (change.after is not None) - (change.before is not None)
            self._gauge.labels(item.family.value, item.side.value).inc(step)


class FlowObserver(Observer):
    """What fails is tried again, and said once."""

    def __init__(self, flows: PodFlows) -> None:
        self._flows = flows
        self._is_pending = False
        self._retries = Retries(_FIRST_RETRY, _LONGEST_RETRY)

    def synced(self, sync: Sync) -> None:
        """Where ranges are others, or rules were missing for a while, flows may have begun without."""
        done = sync.features.get(NAME)
        self._is_pending = self._is_pending or bool(sync.repaired or (done is not None and done.items))

    def wait(self, now: float) -> float | None:
        return self._retries.not_before - now if self._is_pending else None

    def act(self, now: float) -> None:
        del now
        try:
            ended = self._flows.end()
        except RulegenError as error:
            if self._retries.failed(error, time.monotonic()):
                _LOG.warning("flows of pods that left with their own addresses stay for now, tried again: %s", error)
            return
        self._is_pending = False
        self._retries.succeeded()
        if ended:
            _LOG.info("flows of pods that left with their own addresses, and that nobody answered: %d ended", ended)
