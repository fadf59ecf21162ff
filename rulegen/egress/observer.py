"""Counts, for Prometheus, the ranges that are in force."""

from __future__ import annotations

from typing import Any

from rulegen.config import Family
from rulegen.egress.model import NAME, Side
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync


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
