"""What the agent does comes in, call by call; a registry of metrics for Prometheus goes out.

Names that begin with `kubeproxy_` are kube-proxy's and mean the same (SVC-100 to SVC-103); `rulegen_` are our own. No
label ever holds the name of an object, so that their number does not grow with the cluster; neither does what a call
costs. Any thread may call. docs/metrics.md has a line for each metric.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from rulegen import __version__
from rulegen.agent.observers.latency import TriggerTimes
from rulegen.agent.worker.work_queue import ObjectKey, object_key
from rulegen.config import Family, Target
from rulegen.features import ALWAYS
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
from rulegen.kube.objects import EndpointSlice, Service
from rulegen.reconcile.delta import Change, Delta
from rulegen.reconcile.driver import RuleCount
from rulegen.reference import Finding
from rulegen.services.model import SERVICE, FrontendKind, Reason, ServicePort, Verdict

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SYNC_BUCKETS = [0.001 * 2**power for power in range(15)]
_PROGRAMMING_BUCKETS = [0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30)]
_FAMILY = "ip_family"
_INTERNAL, _EXTERNAL = "internal", "external"
_CODES = (200, 503)
# Besides the kinds of objects.
_FILE = "File"


class Metrics:
    """The metrics of one agent; those of a target that is not in use are not there.

    `families`: those configured. `kinds`: those that are followed.
    A sync works on all families at once, so what it took is observed for each of them. Changes from before `started`
    (seconds since the epoch, now by default) do not count in the latency of network programming.
    """

    def __init__(
        self, target: Target, families: Sequence[Family], kinds: Collection[type], started: float | None = None
    ) -> None:
        import prometheus_client

        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: CollectorRegistry = prometheus_client.CollectorRegistry()
        for collector in (
            prometheus_client.ProcessCollector,
            prometheus_client.PlatformCollector,
            prometheus_client.GCCollector,
        ):
            collector(registry=self.registry)
        make = _Maker(self.registry, families, kinds)
        make.info("rulegen_build", "The version of rulegen and its target", version=__version__, target=target.value)
        self._lock = threading.Lock()
        self._source = _Source(make, time.time() if started is None else started)
        self._syncs = _Syncs(make, target)
        self._service_ports = _ServicePorts(make)
        self._findings = _Findings(make)
        self._rules = _Rules(make) if target is Target.IPTABLES else None
        self._conntrack_seconds = make.histograms(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds", "How long a clean-up of conntrack took"
        )
        self._conntrack_deleted = make.counters(
            "kubeproxy_conntrack_reconciler_deleted_entries_total", "Conntrack entries that were deleted"
        )
        self._health_answers = {
            page: make.by_code(f"kubeproxy_proxy_{page}_total", f"Answers of /{page}, by HTTP status")
            for page in ("healthz", "livez")
        }
        self._drift = make.counter("rulegen_drift_total", "Times that the rules were changed by another program")
        self._repaired = make.counter("rulegen_repaired_entries_total", "Entries that were put back after that")
        self._waiting = make.gauge("rulegen_waiting_changes", "Changes of Services and slices that wait for their turn")
        self._refused = _Refused(make)

    # -- what arrives --

    def count_waiting(self, count: Callable[[], int]) -> None:
        """`count` is asked whenever somebody reads the metrics: how many changes wait for their turn."""
        self._waiting.set_function(count)

    def count_files(self, has_problem: Callable[[], bool]) -> None:
        """`has_problem` is asked whenever somebody reads the metrics: whether the configuration cannot be used."""
        self._source.count_files(has_problem)

    def taken(self, events: Iterable[FollowEvent]) -> None:
        """Events were taken from the work queue, and a sync will follow where they are changes."""
        with self._lock:
            if self._source.take(events):
                self._syncs.queued()

    # -- syncs --

    def sync_done(self, delta: Delta[Any, Any], seconds: float, *, is_full: bool) -> None:
        """All that was taken is in force. `delta`: what was applied for that; `seconds`: what all of it took."""
        self._syncs.took(seconds, is_full=is_full)
        with self._lock:
            latencies = self._source.applied(time.time())
        self._syncs.done(delta, latencies)

    def sync_failed(self, seconds: float, *, is_full: bool) -> None:
        """Nothing was applied, or not all; what was taken still waits. `is_full`: what was applied was a whole."""
        self._syncs.took(seconds, is_full=is_full)
        self._syncs.failed(is_full=is_full)

    def cleanup_failed(self) -> None:
        """What changes left behind could not be removed. On nftables only."""
        self._syncs.cleanup_failed()

    def not_in_force(self, objects: Mapping[tuple[str, str], int]) -> None:
        """So many objects, by feature and kind, are not in force as they are now.

        The target cannot express them, or the kernel refuses them.
        """
        self._refused.counted(objects)

    def service_ports_changed(self, pairs: Iterable[tuple[ServicePort | None, ServicePort | None]]) -> None:
        """ServicePorts before and after: None before it was there, and when it is gone."""
        self._service_ports.changed(pairs)

    def findings_changed(self, changes: Iterable[Change[tuple[Finding, ...] | None]]) -> None:
        """What is found of objects, of each before and after."""
        for before, after in changes:
            self._findings.count(before or (), -1)
            self._findings.count(after or (), 1)

    def found_at_the_start(self, findings: Sequence[Finding]) -> None:
        """What is wrong with the host, and stays so."""
        self._findings.count(findings, 1)

    def drift(self) -> None:
        """Another program changed the rules."""
        self._drift.inc()

    def repaired(self, entries: int) -> None:
        """So many entries were put back after that."""
        self._repaired.inc(entries)

    def rules_counted(self, counts: Mapping[tuple[Family, str], RuleCount]) -> None:
        """The rules of each family and table after a sync. On iptables only."""
        if self._rules:
            self._rules.counted(counts)

    # -- beside the rules --

    def conntrack_cleaned(self, family: Family, seconds: float, deleted: int) -> None:
        """A clean-up of a family's conntrack entries ended, well or not."""
        self._conntrack_seconds[family].observe(seconds)
        self._conntrack_deleted[family].inc(deleted)

    def health_answer(self, page: str, code: int) -> None:
        """An answer of `healthz` or `livez`, with this HTTP status."""
        self._health_answers[page][code].inc()


_ByFamily: TypeAlias = dict[Family, Any]


class _Maker:
    """Makes metrics. What is by family, by HTTP status, by kind is there from the start, with 0."""

    def __init__(self, registry: CollectorRegistry, families: Sequence[Family], kinds: Collection[type]) -> None:
        self._registry = registry
        self.families = families
        self._kinds = kinds

    def info(self, name: str, text: str, **labels: str) -> None:
        from prometheus_client import Info

        Info(name, text, registry=self._registry).info(labels)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        from prometheus_client import Counter

        return Counter(name, text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        from prometheus_client import Gauge

        return Gauge(name, text, labels, registry=self._registry)

    def histograms(self, name: str, text: str, buckets: Sequence[float] = _SYNC_BUCKETS) -> dict[Family, Histogram]:
        from prometheus_client import Histogram

        made = Histogram(name, text, [_FAMILY], registry=self._registry, buckets=buckets)
        return {family: made.labels(family.value) for family in self.families}

    def counters(self, name: str, text: str) -> dict[Family, Counter]:
        made = self.counter(name, text, _FAMILY)
        return {family: made.labels(family.value) for family in self.families}

    def gauges(self, name: str, text: str) -> dict[Family, Gauge]:
        made = self.gauge(name, text, _FAMILY)
        return {family: made.labels(family.value) for family in self.families}

    def by_code(self, name: str, text: str) -> dict[int, Counter]:
        made = self.counter(name, text, "code")
        return {code: made.labels(str(code)) for code in _CODES}

    def by_kind(self, name: str, text: str, *others: str) -> dict[type | str, Gauge]:
        made = self.gauge(name, text, "kind")
        return {
            **{kind: made.labels(kind.__name__) for kind in self._kinds},
            **{word: made.labels(word) for word in others},
        }


class _Source:
    """What arrives, and what of it is not in force yet (SVC-102, SVC-103)."""

    def __init__(self, make: _Maker, started: float) -> None:
        self._trigger_times = TriggerTimes(started)
        self._invalid: set[ObjectKey] = set()
        self._unusable_files: set[str] = set()
        texts = {Service: "service", EndpointSlice: "endpoint"}
        self._totals: dict[type, Counter] = {
            kind: make.counter(
                f"kubeproxy_sync_proxy_rules_{word}_changes_total", f"Changes of {kind.__name__}s that arrived"
            )
            for kind, word in texts.items()
        }
        # Asked for by those who read the metrics: nothing more than must be lies on the way of a change.
        self._pending: dict[type, int] = dict.fromkeys(texts, 0)
        for kind, word in texts.items():
            pending = make.gauge(
                f"kubeproxy_sync_proxy_rules_{word}_changes_pending",
                f"Changes of {kind.__name__}s that arrived and are not in force yet",
            )
            pending.set_function(partial(self._pending.__getitem__, kind))
        self._following = make.by_kind("rulegen_following", "Whether objects of a kind are followed at present")
        self._invalid_objects = make.by_kind(
            "rulegen_invalid_objects",
            "Objects and files that cannot be used as they are now, and keep what they last meant",
            _FILE,
        )

    def take(self, events: Iterable[FollowEvent]) -> bool:
        """Whether there are changes among them."""
        changes: defaultdict[type, int] = defaultdict(int)
        for event in events:
            match event:
                case Upsert() | Delete():
                    key = object_key(event)
                    changes[key[0]] += 1
                    self._note_usable(key, is_usable=True)
                    self._note_time(event)
                case Invalid():
                    self._note_usable(object_key(event), is_usable=False)
                case Synced() | Resumed():
                    self._following[event.kind].set(1)
                case Interrupted() | Failed():
                    self._following[event.kind].set(0)
                case FileUnusable() | FileUsable():
                    self._note_file(event)
        for kind in changes.keys() & self._totals.keys():
            self._totals[kind].inc(changes[kind])
            self._pending[kind] += changes[kind]
        return bool(changes)

    def count_files(self, has_problem: Callable[[], bool]) -> None:
        """`has_problem`: whether one more file, that of the configuration, cannot be used."""
        self._invalid_objects[_FILE].set_function(lambda: len(self._unusable_files) + has_problem())

    def applied(self, now: float) -> list[tuple[Family, float]]:
        """All that was taken is in force: how long each of the recorded changes took (SVC-103)."""
        for kind in self._pending:
            self._pending[kind] = 0
        return self._trigger_times.take(now)

    def _note_usable(self, key: ObjectKey, *, is_usable: bool) -> None:
        if is_usable and not self._invalid:
            return
        was_usable = key not in self._invalid
        if is_usable and not was_usable:
            self._invalid.discard(key)
            self._invalid_objects[key[0]].dec()
        # One without a name could never be told from others again.
        elif not is_usable and was_usable and key[2]:
            self._invalid.add(key)
            self._invalid_objects[key[0]].inc()

    def _note_file(self, event: FileUnusable | FileUsable) -> None:
        if isinstance(event, FileUnusable):
            self._unusable_files.add(event.file)
        else:
            self._unusable_files.discard(event.file)

    def _note_time(self, event: Upsert | Delete) -> None:
        if isinstance(event, Upsert):
            if isinstance(event.item, EndpointSlice):
                self._trigger_times.set_slice(event.item)
        elif event.kind is EndpointSlice:
            self._trigger_times.remove_slice(event.namespace, event.name)


class _Syncs:
    """What syncs take, and how they end (SVC-100)."""

    def __init__(self, make: _Maker, target: Target) -> None:
        prefix = "kubeproxy_sync_proxy_rules"
        self._all = make.histograms(f"{prefix}_duration_seconds", "How long a sync took, whether it failed or not")
        self._by_extent = {
            True: make.histograms(
                "kubeproxy_sync_full_proxy_rules_duration_seconds", "How long a sync took that read what there is"
            ),
            False: make.histograms(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds", "How long a sync of only what changed took"
            ),
        }
        self._programming = make.histograms(
            "kubeproxy_network_programming_duration_seconds",
            "From a change of a Pod or Service in the cluster until it is in force here",
            _PROGRAMMING_BUCKETS,
        )
        self._last = make.gauges(f"{prefix}_last_timestamp_seconds", "When a sync succeeded last")
        self._queued = 0.0
        last_queued = make.gauges(f"{prefix}_last_queued_timestamp_seconds", "When a change arrived last")
        for gauge in last_queued.values():
            gauge.set_function(lambda: self._queued)
        self._entries = make.counter("rulegen_entries_changed_total", "Entries that syncs changed", "change")
        for change in ("added", "changed", "removed"):
            self._entries.labels(change)
        self._failures: list[_ByFamily] = []
        self._partial_failures: list[_ByFamily] = []
        self._cleanup_failures: list[_ByFamily] = []
        if target is Target.IPTABLES:
            self._failures += [make.counters(f"{prefix}_iptables_restore_failures_total", "Syncs that failed")]
            self._partial_failures += [
                make.counters(f"{prefix}_iptables_partial_restore_failures_total", "Partial syncs that failed")
            ]
        else:
            self._failures += [make.counters(f"{prefix}_nftables_sync_failures_total", "Syncs that failed")]
            self._cleanup_failures += [
                make.counters(
                    f"{prefix}_nftables_cleanup_failures_total", "Removals of what is no longer used that failed"
                )
            ]

    def queued(self) -> None:
        self._queued = time.time()

    def took(self, seconds: float, *, is_full: bool) -> None:
        for histograms in (self._all, self._by_extent[is_full]):
            for histogram in histograms.values():
                histogram.observe(seconds)

    def done(self, delta: Delta[Any, Any], latencies: Iterable[tuple[Family, float]]) -> None:
        now = time.time()
        for gauge in self._last.values():
            gauge.set(now)
        for change, number in delta.counts._asdict().items():
            self._entries.labels(change).inc(number)
        for family, seconds in latencies:
            if family in self._programming:
                self._programming[family].observe(seconds)

    def failed(self, *, is_full: bool) -> None:
        _count(self._failures if is_full else self._failures + self._partial_failures)

    def cleanup_failed(self) -> None:
        _count(self._cleanup_failures)


def _count(counters: Iterable[_ByFamily]) -> None:
    for by_family in counters:
        for counter in by_family.values():
            counter.inc()


class _ServicePorts:
    """What is in force. Each ServicePort is counted when it comes and when it goes, so nothing is ever gone through."""

    def __init__(self, make: _Maker) -> None:
        self._service_ports = make.gauges("rulegen_service_ports", "Service-ports that are in force")
        self._frontends = make.gauges("rulegen_frontends", "Their frontends")
        self._endpoints = make.gauges(
            "rulegen_endpoints", "Their endpoints: those of the Cluster list, else of the Local list"
        )
        dropping = make.gauge(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Service-ports that drop traffic: the policy is Local, and their endpoints are on other nodes",
            "traffic_policy",
            _FAMILY,
        )
        self._dropping = {
            (policy, family): dropping.labels(policy, family.value)
            for policy in (_INTERNAL, _EXTERNAL)
            for family in make.families
        }

    def changed(self, pairs: Iterable[tuple[ServicePort | None, ServicePort | None]]) -> None:
        for before, after in pairs:
            if before is not None:
                self._count(before, -1)
            if after is not None:
                self._count(after, 1)

    def _count(self, service_port: ServicePort, step: int) -> None:
        family = service_port.family
        self._service_ports[family].inc(step)
        self._frontends[family].inc(step * len(service_port.frontends))
        self._endpoints[family].inc(step * len(service_port.cluster_endpoints or service_port.local_endpoints))
        for policy in _dropped_policies(service_port):
            self._dropping[policy, family].inc(step)


def _dropped_policies(service_port: ServicePort) -> set[str]:
    """The traffic policies because of which a service-port drops (SVC-37); one that has no endpoint rejects."""
    return {
        _INTERNAL if frontend.kind is FrontendKind.CLUSTER_IP else _EXTERNAL
        for frontend in service_port.frontends
        if frontend.verdict is Verdict.DROP
    }


class _Findings:
    """How many findings there are for each reason."""

    def __init__(self, make: _Maker) -> None:
        self._gauge = make.gauge("rulegen_findings", "Findings about objects: legal but probably wrong", "reason")
        # It is shown before there is one.
        self._gauge.labels(Reason.DUPLICATE_FRONTEND.value)

    def count(self, findings: Iterable[Finding], step: int) -> None:
        for finding in findings:
            self._gauge.labels(str(finding.reason)).inc(step)


class _Refused:
    """How many objects are not in force as they are now."""

    def __init__(self, make: _Maker) -> None:
        why = "that are not in force as they are now: not expressible, or refused"
        self._services = make.gauge("rulegen_refused_services", f"Services {why}")
        self._objects = make.gauge("rulegen_refused_objects", f"Objects of any feature {why}", "feature", "kind")
        # It is shown before there is one.
        self._seen = {(ALWAYS[0], SERVICE)}
        self._objects.labels(ALWAYS[0], SERVICE)

    def counted(self, objects: Mapping[tuple[str, str], int]) -> None:
        self._services.set(sum(number for (_, kind), number in objects.items() if kind == SERVICE))
        self._seen |= objects.keys()
        for labels in self._seen:
            self._objects.labels(*labels).set(objects.get(labels, 0))


class _Rules:
    """How many rules of ours each table has, and how many the last sync wrote (SVC-101)."""

    def __init__(self, make: _Maker) -> None:
        prefix = "kubeproxy_sync_proxy_rules_iptables"
        total = make.gauge(f"{prefix}_total", "Rules of rulegen that there are", "table", _FAMILY)
        last = make.gauge(f"{prefix}_last", "Rules that the last sync wrote", "table", _FAMILY)
        tables = [(family, table) for table in ("mangle", "nat", "filter") for family in make.families]
        self._gauges = {
            (family, table): (total.labels(table, family.value), last.labels(table, family.value))
            for family, table in tables
        }

    def counted(self, counts: Mapping[tuple[Family, str], RuleCount]) -> None:
        for key, (total, last) in self._gauges.items():
            count = counts.get(key, RuleCount(0, 0))
            total.set(count.total)
            last.set(count.written)
