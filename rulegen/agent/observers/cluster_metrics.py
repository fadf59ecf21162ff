"""What an agent for a cluster does comes in, call by call; a registry of metrics for Prometheus goes out.

Names are those of the node's agent where they mean the same, so that its alerts hold here too. No label ever holds the
name of an object. docs/metrics.md has a line for each metric. What a driver counts it adds itself (`WithObservers`).
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from rulegen import __version__
from rulegen.agent.worker.work_queue import ObjectKey, object_key
from rulegen.errors import RulegenError
from rulegen.kube.follow import (
    Delete,
    Failed,
    FileUnusable,
    FileUsable,
    FollowEvent,
    Interrupted,
    Invalid,
    Resumed,
    Synced,
    Upsert,
)
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Reconciler, Sync

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge

_BUCKETS = [0.001 * 2**power for power in range(18)]
# Besides the kinds of objects.
_FILE = "File"


class ClusterMetrics(Observer):
    """`kinds`: those that are followed. `waiting`: how many changes wait for their turn.

    `has_problem`: whether the configuration cannot be used. Both are asked whenever somebody reads the metrics.
    """

    def __init__(
        self,
        driver: str,
        kinds: Collection[type],
        waiting: Callable[[], int],
        has_problem: Callable[[], bool],
    ) -> None:
        import prometheus_client as prometheus

        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: CollectorRegistry = prometheus.CollectorRegistry()
        for collector in (prometheus.ProcessCollector, prometheus.PlatformCollector, prometheus.GCCollector):
            collector(registry=self.registry)
        info = prometheus.Info("rulegen_build", "The version of rulegen and its target", registry=self.registry)
        info.info({"version": __version__, "target": driver})
        self._leader = self._gauge("rulegen_leader", "Whether this replica is the one that works")
        self._last = self._gauge("rulegen_sync_last_timestamp_seconds", "When a sync succeeded last")
        self._pending = self._gauge("rulegen_changes_pending", "Changes that arrived and are not in force yet")
        why = "Objects that are not in force as they are now"
        self._refused = self._gauge("rulegen_refused_objects", why, "feature", "kind")
        self._seen_refused: set[tuple[str, str]] = set()
        self._gauge("rulegen_waiting_changes", "Changes that wait for their turn").set_function(waiting)
        self._seconds = prometheus.Histogram(
            "rulegen_sync_duration_seconds", "How long a sync took", registry=self.registry, buckets=_BUCKETS
        )
        self._failures = self._counter("rulegen_sync_failures_total", "Syncs that failed, and were tried again")
        self._drift = self._counter("rulegen_drift_total", "Times that another program changed what is ours")
        self._repaired = self._counter("rulegen_repaired_entries_total", "Entries that were put back after that")
        self._entries = self._counter("rulegen_entries_changed_total", "Entries that syncs changed", "change")
        for change in ("added", "changed", "removed"):
            self._entries.labels(change)
        self._findings = self._gauge("rulegen_findings", "Findings about objects", "reason")
        self._following = self._by_kind("rulegen_following", "Whether objects of a kind are followed", kinds)
        self._invalid = self._by_kind("rulegen_invalid_objects", "Objects and files that cannot be used", kinds)
        self._answers = self._counter("rulegen_health_answers_total", "Answers about health", "page", "code")
        for page in ("healthz", "livez"):
            self._answers.labels(page, "200")
            self._answers.labels(page, "503")
        self._unusable: set[ObjectKey | str] = set()
        self._invalid[_FILE].set_function(
            lambda: has_problem() + sum(isinstance(one, str) for one in tuple(self._unusable))
        )
        self._reconciler: Reconciler | None = None

    def leads(self, reconciler: Reconciler) -> None:
        """From now on this replica is the one that works."""
        self._leader.set(1)
        self._reconciler = reconciler

    def took(self, events: Sequence[FollowEvent]) -> None:
        """They wait for a sync."""
        for event in events:
            match event:
                case Upsert() | Delete():
                    self._pending.inc()
                    self._note(object_key(event), is_usable=True)
                case Invalid():
                    self._note(object_key(event), is_usable=False)
                case Synced() | Resumed():
                    self._following[event.kind].set(1)
                case Interrupted() | Failed():
                    self._following[event.kind].set(0)
                case FileUnusable(file, _):
                    self._unusable.add(file)
                case FileUsable(file):
                    self._unusable.discard(file)

    def synced(self, sync: Sync) -> None:
        """What was taken is in force."""
        self._last.set(time.time())
        self._pending.set(0)
        self._seconds.observe(sum(sync.seconds.values()))
        for change, number in sync.delta.counts._asdict().items():
            self._entries.labels(change).inc(number)
        for before, after in sync.findings.values():
            for finding in before or ():
                self._findings.labels(str(finding.reason)).dec()
            for finding in after or ():
                self._findings.labels(str(finding.reason)).inc()
        if self._reconciler is not None:
            self._count_refused(self._reconciler)

    def _count_refused(self, reconciler: Reconciler) -> None:
        refused = {(key[0], reconciler.reference(key)) for key in reconciler.refusals()}
        found = Counts((feature, "" if about is None else about.kind) for feature, about in refused)
        self._seen_refused |= found.keys()
        for labels in self._seen_refused:
            self._refused.labels(*labels).set(found[labels])

    def repaired(self, who: str, entries: int, lines: Sequence[str]) -> None:
        """Drift."""
        del who, lines
        self._drift.inc()
        self._repaired.inc(entries)

    def failed(self, error: RulegenError, seconds: float, *, is_full: bool) -> None:
        """It is tried again."""
        del error, is_full
        self._seconds.observe(seconds)
        self._failures.inc()

    def health_answer(self, page: str, code: int) -> None:
        """An answer of `healthz` or `livez`, with this HTTP status; from any thread."""
        self._answers.labels(page, str(code)).inc()

    def _note(self, key: ObjectKey, *, is_usable: bool) -> None:
        # One without a name could never be told from others again.
        if is_usable and key in self._unusable:
            self._unusable.discard(key)
            self._invalid[key[0]].dec()
        elif not is_usable and key[2] and key not in self._unusable:
            self._unusable.add(key)
            self._invalid[key[0]].inc()

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        from prometheus_client import Gauge

        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        from prometheus_client import Counter

        return Counter(name, text, labels, registry=self.registry)

    def _by_kind(self, name: str, text: str, kinds: Collection[type]) -> dict[type | str, Gauge]:
        made = self._gauge(name, text, "kind")
        return {**{kind: made.labels(kind.__name__) for kind in kinds}, _FILE: made.labels(_FILE)}
