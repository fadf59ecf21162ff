"""What follows from a sync beside the rules: conntrack, health, metrics, and what is told to people."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rulegen.agent.http.health import Health
from rulegen.agent.http.health_checks import ServiceHealthServers
from rulegen.agent.observers.events import EventRecorder, record_findings
from rulegen.agent.observers.metrics import Metrics
from rulegen.config import Family
from rulegen.conntrack.cleaner import Cleaner
from rulegen.errors import RulegenError
from rulegen.kube.backoff import Retries
from rulegen.kube.follow import Delete, FollowEvent, Upsert
from rulegen.kube.objects import Node
from rulegen.reconcile.delta import Change
from rulegen.reconcile.feature import ItemKey
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Reconciler, Sync
from rulegen.reference import Finding, ObjectReference
from rulegen.services.feature import changes_of, service_ports_of
from rulegen.services.model import ServiceKey

_LOG = logging.getLogger("rulegen.agent")

_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0
_SHOWN_FINDINGS = 20
# Reasons of Events; the first is kube-proxy's.
_HEALTH_CHECK_FAILED = "FailedToStartServiceHealthcheck"
_NOT_IN_FORCE = "NotInForce"


class MetricsObserver(Observer):
    """Keeps the metrics."""

    def __init__(self, metrics: Metrics, reconciler: Reconciler) -> None:
        self._metrics = metrics
        self._reconciler = reconciler

    def took(self, events: Sequence[FollowEvent]) -> None:
        """They wait for a sync."""
        self._metrics.taken(events)

    def synced(self, sync: Sync) -> None:
        """What a sync did and found."""
        metrics = self._metrics
        metrics.sync_done(sync.delta, sum(sync.seconds.values()), is_full=sync.is_full)
        metrics.service_ports_changed(service_ports_of(sync).values())
        metrics.findings_changed(sync.findings.values())
        metrics.rules_counted(self._reconciler.rule_counts())
        refused = {(key[0], self._reconciler.reference(key)) for key in self._reconciler.refusals()}
        metrics.not_in_force(Counter((feature, "" if about is None else about.kind) for feature, about in refused))
        if sync.repaired:
            metrics.drift()
            metrics.repaired(len(sync.repaired))

    def failed(self, error: RulegenError, seconds: float, *, is_full: bool) -> None:
        """It is tried again."""
        del error
        self._metrics.sync_failed(seconds, is_full=is_full)


class ConntrackObserver(Observer):
    """Removes stale UDP connections from the kernel's table after a sync; what fails is tried again (D5, D3)."""

    def __init__(self, cleaner: Cleaner, metrics: Metrics) -> None:
        self._cleaner = cleaner
        self._metrics = metrics
        self._retries = Retries(_FIRST_RETRY, _LONGEST_RETRY)

    def synced(self, sync: Sync) -> None:
        """Notes what is in force now; after a repair, all of it may have been missing for a while."""
        service_ports = {key: change.after for key, change in service_ports_of(sync).items()}
        self._cleaner.note(changes_of(sync)._replace(service_ports=service_ports))
        if sync.repaired:
            self._cleaner.note_all()

    def wait(self, now: float) -> float | None:
        """Nothing to wait for after a sync that concerns UDP."""
        return self._retries.not_before - now if self._cleaner.is_pending else None

    def act(self, now: float) -> None:
        try:
            cleaned = self._cleaner.clean()
        except RulegenError as error:
            ended = time.monotonic()
            self._count(dict.fromkeys(Family, 0), ended - now)
            if self._retries.failed(error, ended):
                _LOG.warning("stale UDP connections stay for now, tried again until it works: %s", error)
            return
        self._retries.succeeded()
        self._count(cleaned.removed, cleaned.seconds)
        if removed := sum(cleaned.removed.values()):
            _LOG.debug(
                "conntrack removed=%d frontends=%d clean_ms=%.2f", removed, cleaned.frontends, cleaned.seconds * 1000
            )

    def _count(self, removed: dict[Family, int], seconds: float) -> None:
        for family, number in removed.items():
            self._metrics.conntrack_cleaned(family, seconds, number)


class HealthObserver(Observer):
    """Says whether the agent keeps up, and answers the health checks of Services. `period`: seconds between retries."""

    def __init__(self, health: Health, servers: ServiceHealthServers, node_name: str, period: float) -> None:
        self._health = health
        self._servers = servers
        self._node_name = node_name
        self._period = period
        self._next_retry: float | None = None

    def woke(self) -> None:
        """Whatever hangs now, hangs the agent: the first sync, too."""
        self._health.woke()

    def rests(self) -> None:
        """Nothing hangs."""
        self._health.rests()

    def took(self, events: Sequence[FollowEvent]) -> None:
        """Before the first sync nothing is late; the own Node decides whether this one is to stay."""
        for event in events:
            match event:
                case Upsert(Node() as node) if node.metadata.name == self._node_name:
                    self._health.set_node(node)
                case Delete(kind, _, name) if kind is Node and name == self._node_name:
                    self._health.set_node(None)
        if self._next_retry is not None and any(isinstance(event, Upsert | Delete) for event in events):
            self._health.queued()

    def synced(self, sync: Sync) -> None:
        """Everything that was taken is in force (SVC-82)."""
        self._health.synced()
        self._servers.set_addresses({family: node.nodeport_addresses for family, node in changes_of(sync).node.items()})
        self._servers.apply(changes_of(sync).health_checks)
        if self._next_retry is None:
            self._next_retry = time.monotonic() + self._period

    def failed(self, error: RulegenError, seconds: float, *, is_full: bool) -> None:
        """Something is late from now on (SVC-85)."""
        del error, seconds, is_full
        self._health.queued()

    def wait(self, now: float) -> float | None:
        """Ports that were taken may be free, addresses may have come."""
        if self._servers.has_more:
            return 0.0
        return None if self._next_retry is None else self._next_retry - now

    def act(self, now: float) -> None:
        """Goes on, or tries again."""
        if self._servers.has_more:
            self._servers.proceed()
            return
        self._next_retry = now + self._period
        self._servers.retry()


class EventObserver(Observer):
    """Tells people what is wrong with their objects: in the log, and in Events where there is an API server."""

    def __init__(self, reconciler: Reconciler, recorder: EventRecorder | None) -> None:
        self._reconciler = reconciler
        self._recorder = recorder
        # The objects that are not in force, without and with their uids, and the words that were told.
        self._not_in_force: dict[ObjectReference, tuple[ObjectReference, str]] = {}

    def synced(self, sync: Sync) -> None:
        """Tells what is new, once while it holds."""
        _log_findings(sync.findings)
        if self._recorder is not None:
            record_findings(self._recorder, sync.findings)
        self._record_refusals(sync)

    def _record_refusals(self, sync: Sync) -> None:
        current = {reference.without_uid for reference in self._references(self._reconciler.refusals())}
        for key in self._not_in_force.keys() - current:
            reference, words = self._not_in_force.pop(key)
            if self._recorder is not None:
                self._recorder.resolve(reference, _NOT_IN_FORCE, words)
        for reference, words in self._references(sync.refused).items():
            if reference.without_uid not in self._not_in_force:
                self._not_in_force[reference.without_uid] = (reference, words)
                if self._recorder is not None:
                    self._recorder.record(reference, _NOT_IN_FORCE, words)

    def _references(self, refused: Mapping[ItemKey, str]) -> dict[ObjectReference, str]:
        """Of each object the first words."""
        found: dict[ObjectReference, str] = {}
        for key, words in refused.items():
            reference = self._reconciler.reference(key)
            if reference is not None:
                found.setdefault(reference, words)
        return found


def _log_findings(findings: Mapping[ObjectReference, Change[tuple[Finding, ...] | None]]) -> None:
    new = [finding for before, after in findings.values() for finding in after or () if finding not in (before or ())]
    for finding in new[:_SHOWN_FINDINGS]:
        _LOG.warning("%s: %s", finding.subject, finding.message)
    if len(new) > _SHOWN_FINDINGS:
        _LOG.warning("%d more findings like these: `rulegen lint` lists them", len(new) - _SHOWN_FINDINGS)


class HealthCheckEvents:
    """Tells of ports of health checks that cannot be listened on (SVC-82). `reference`: of a Service, with its uid."""

    def __init__(
        self, reference: Callable[[ServiceKey], ObjectReference], node_name: str, recorder: EventRecorder | None
    ) -> None:
        self._reference = reference
        self._node_name = node_name
        self._recorder = recorder

    def tell(self, service: ServiceKey, message: str, holds: bool) -> None:
        """That is so (`holds`), or not any more."""
        if holds:
            _LOG.warning("Service %s/%s: %s", *service, message)
        if self._recorder is None:
            return
        say = self._recorder.record if holds else self._recorder.resolve
        say(self._reference(service), _HEALTH_CHECK_FAILED, f"{self._node_name}: {message}")
