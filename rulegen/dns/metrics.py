"""What a name server was sent, and what it holds of ours, as metrics for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

APPLIED, REFUSED, STALE, TRANSFERS = "applied", "refused", "stale", "transfers"


def add_metrics(registry: Any, counts: Counter[str], held: Callable[[], int]) -> None:
    """`counts`: of updates by their result, and of transfers; `held`: how many record sets are in force.

    Both are asked whenever somebody reads the metrics. `registry`: prometheus_client's.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    class Collector:
        """Numbers that are counted elsewhere."""

        def collect(self) -> Any:
            record_sets = GaugeMetricFamily("rulegen_record_sets", "Record sets of ours that are in the zones")
            record_sets.add_metric([], held())
            yield record_sets
            updates = CounterMetricFamily("rulegen_dns_updates", "Updates that were answered", labels=["result"])
            for result in (APPLIED, REFUSED, STALE):
                updates.add_metric([result], counts[result])
            yield updates
            transfers = CounterMetricFamily("rulegen_dns_transfers", "Zones that were transferred")
            transfers.add_metric([], counts[TRANSFERS])
            yield transfers

    registry.register(Collector())
