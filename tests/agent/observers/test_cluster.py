"""Health and metrics of an agent for a cluster, call by call."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from http import HTTPStatus

from rulegen.agent.http.cluster_health import ClusterHealth
from rulegen.agent.observers.cluster_metrics import ClusterMetrics
from rulegen.errors import HostError
from rulegen.kube.decode import ObjectError
from rulegen.kube.follow import Delete, FileUnusable, FileUsable, Interrupted, Invalid, Resumed, Upsert
from rulegen.kube.objects import Service
from rulegen.reconcile.delta import Change, Delta
from rulegen.reconcile.reconciler import Sync
from rulegen.reference import Finding, ObjectReference
from tests.builders import service

WEB = ObjectReference("Service", "default", "web")
ERROR = HostError("the server is away")
EMPTY = Sync(False, Delta(), Delta(), {}, {}, {"apply": 0.1})


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_who_waits_is_healthy_and_who_leads_has_to_sync_in_time() -> None:
    clock = Clock()
    health = ClusterHealth(30.0, clock=clock, now=lambda: datetime(2026, 1, 2, tzinfo=UTC))
    clock.seconds = 1000.0
    assert (health.healthz().status, health.livez().status) == (HTTPStatus.OK, HTTPStatus.OK)
    assert json.loads(health.healthz().body) == {
        "healthy": True,
        "leading": False,
        "lastUpdated": None,
        "currentTime": "2026-01-02T00:00:00Z",
    }
    health.leads()
    clock.seconds = 1059.0
    assert health.healthz().status == HTTPStatus.OK
    clock.seconds = 1060.0
    # The first sync is late; nothing hangs.
    assert (health.healthz().status, health.livez().status) == (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.OK)
    health.synced(EMPTY)
    assert json.loads(health.healthz().body)["lastUpdated"] == "2026-01-02T00:00:00Z"
    clock.seconds = 5000.0
    assert health.healthz().status == HTTPStatus.OK
    health.failed(ERROR, 0.1, is_full=True)
    clock.seconds = 5030.0
    health.failed(ERROR, 0.1, is_full=True)
    clock.seconds = 5060.0
    assert (health.healthz().status, health.livez().status) == (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.OK)


def test_a_worker_that_hangs_for_minutes_is_not_alive() -> None:
    clock = Clock()
    health = ClusterHealth(30.0, clock=clock)
    health.woke()
    clock.seconds = 599.0
    assert health.livez().status == HTTPStatus.OK
    clock.seconds = 600.0
    assert (health.livez().status, health.healthz().status) == (HTTPStatus.SERVICE_UNAVAILABLE,) * 2
    health.rests()
    assert health.livez().status == HTTPStatus.OK


def test_what_arrives_and_what_becomes_of_it_is_counted() -> None:
    has_problem = False
    metrics = ClusterMetrics("records", [Service], lambda: 7, lambda: has_problem)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert (value("rulegen_leader"), value("rulegen_waiting_changes")) == (0, 7)
    broken = ObjectError("Service", "default/web", ())
    metrics.took([Upsert(service("web")), Upsert(service("other")), Invalid(Service, "default", "web", broken)])
    metrics.took([Delete(Service, "default", "other"), FileUnusable("a", "b"), Interrupted(Service, ERROR, False)])
    assert value("rulegen_changes_pending") == 3
    assert value("rulegen_following", kind="Service") == 0
    assert [value("rulegen_invalid_objects", kind=kind) for kind in ("Service", "File")] == [1, 1]
    metrics.failed(ERROR, 0.1, is_full=False)
    assert (value("rulegen_changes_pending"), value("rulegen_sync_failures_total")) == (3, 1)
    has_problem = True
    metrics.took([Upsert(service("web")), FileUsable("a"), Resumed(Service)])
    assert value("rulegen_following", kind="Service") == 1
    assert [value("rulegen_invalid_objects", kind=kind) for kind in ("Service", "File")] == [0, 1]
    finding = Finding(WEB, "TooManyRecords", "words", is_for_owner=True)
    metrics.repaired("somebody", 2, [])
    metrics.synced(EMPTY._replace(delta=Delta({1: 1, 2: 2}, {}, {3: 3}), findings={WEB: Change(None, (finding,))}))
    assert value("rulegen_findings", reason="TooManyRecords") == 1
    assert [value("rulegen_entries_changed_total", change=word) for word in ("added", "changed", "removed")] == [
        2,
        0,
        1,
    ]
    assert [value(f"rulegen_{name}_total") for name in ("drift", "repaired_entries")] == [1, 2]
    assert value("rulegen_changes_pending") == 0
    assert (value("rulegen_sync_last_timestamp_seconds") or 0) > 0
    metrics.synced(EMPTY._replace(findings={WEB: Change((finding,), None)}))
    assert value("rulegen_findings", reason="TooManyRecords") == 0
    assert value("rulegen_sync_duration_seconds_count") == 3
