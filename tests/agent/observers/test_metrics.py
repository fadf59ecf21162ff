"""What is scraped after what the agent did: SVC-100 to SVC-103, and the metrics of our own."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from rulegen import __version__
from rulegen.agent.observers.latency import TRIGGER_TIME, TriggerTimes
from rulegen.agent.observers.metrics import Metrics
from rulegen.config import Family, Target
from rulegen.egress.observer import RangeMetrics
from rulegen.errors import HostError
from rulegen.features import kinds_of
from rulegen.kube.decode import ObjectError
from rulegen.kube.follow import Delete, Failed, Interrupted, Invalid, Resumed, Synced, Upsert
from rulegen.kube.objects import EndpointSlice, Node, Service
from rulegen.policies.denials import DenialCounts
from rulegen.policies.model import Combination
from rulegen.reconcile.delta import Delta, diff
from rulegen.reconcile.driver import RuleCount
from rulegen.services.model import ServicePort, ServicePortKey
from rulegen.services.store import Store
from tests.builders import CONFIGURATION, endpoint, endpoint_port, endpoint_slice, node, port, service, store

FAMILIES = (Family.IPV4, Family.IPV6)
REPOSITORY = Path(__file__).parents[3]
EMPTY: Delta[str, str] = Delta()
START = 1_700_000_000.0  # 2023-11-14T22:13:20Z


def made(target: Target = Target.NFTABLES) -> Metrics:
    return Metrics(target, FAMILIES, kinds_of(()), START)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def names(metrics: Metrics) -> set[str]:
    """As they are scraped, without what a histogram adds."""
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
    }


def triggered(at: str, *, family: str = "IPv4", service_name: str = "web", name: str = "web-1") -> EndpointSlice:
    return endpoint_slice(family=family, service_name=service_name, name=name, annotations={TRIGGER_TIME: at})


# SVC-100.


def test_svc_100_a_sync_is_observed_for_every_family() -> None:
    metrics = made()
    before = time.time()
    metrics.sync_done(EMPTY, 0.003, is_full=True)
    metrics.sync_done(EMPTY, 0.0005, is_full=False)
    for family in ("IPv4", "IPv6"):
        name = "kubeproxy_sync_proxy_rules_duration_seconds"
        assert value(metrics, f"{name}_count", ip_family=family) == 2
        assert value(metrics, f"{name}_sum", ip_family=family) == pytest.approx(0.0035)
        assert value(metrics, f"{name}_bucket", ip_family=family, le="0.001") == 1
        for extent in ("full", "partial"):
            count = value(metrics, f"kubeproxy_sync_{extent}_proxy_rules_duration_seconds_count", ip_family=family)
            assert count == 1
        succeeded = value(metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", ip_family=family)
        assert succeeded is not None
        assert before <= succeeded <= time.time()


def test_svc_100_buckets() -> None:
    samples = [sample for family in made().registry.collect() for sample in family.samples]

    def bounds(name: str) -> list[float]:
        labels = [sample.labels for sample in samples if sample.name == f"{name}_bucket"]
        return [float(label["le"]) for label in labels if label["ip_family"] == "IPv4"][:-1]

    milliseconds = [0.001 * 2**power for power in range(15)]
    assert bounds("kubeproxy_sync_proxy_rules_duration_seconds") == milliseconds
    assert bounds("kubeproxy_conntrack_reconciler_sync_duration_seconds") == milliseconds
    found = bounds("kubeproxy_network_programming_duration_seconds")
    assert found[:3] == [0.25, 0.5, 1]
    assert found[60:63] == [59, 60, 65]
    assert found[-8:] == [115, 120, 150, 180, 210, 240, 270, 300]


def test_svc_100_a_failed_sync_is_observed_and_counted_and_is_no_success() -> None:
    metrics = made()
    metrics.sync_failed(0.1, is_full=False)
    assert value(metrics, "kubeproxy_sync_proxy_rules_duration_seconds_count", ip_family="IPv4") == 1
    assert value(metrics, "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", ip_family="IPv6") == 1
    assert value(metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", ip_family="IPv4") == 0
    metrics.cleanup_failed()
    assert value(metrics, "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total", ip_family="IPv4") == 1


def test_svc_100_on_iptables_partial_failures_are_failures_too() -> None:
    metrics = made(Target.IPTABLES)
    metrics.sync_failed(0.1, is_full=True)
    metrics.sync_failed(0.1, is_full=False)
    prefix = "kubeproxy_sync_proxy_rules_iptables"
    assert value(metrics, f"{prefix}_restore_failures_total", ip_family="IPv4") == 2
    assert value(metrics, f"{prefix}_partial_restore_failures_total", ip_family="IPv4") == 1


def test_svc_100_only_the_targets_own_are_there() -> None:
    on_nftables, on_iptables = names(made()), names(made(Target.IPTABLES))
    assert not [name for name in on_nftables if "iptables" in name]
    assert not [name for name in on_iptables if "nftables" in name]
    assert {name for name in on_nftables if "nftables" not in name} == {
        name for name in on_iptables if "iptables" not in name
    }


def test_a_clean_up_of_conntrack() -> None:
    metrics = made()
    metrics.conntrack_cleaned(Family.IPV4, 0.002, 7)
    metrics.conntrack_cleaned(Family.IPV4, 0.002, 0)
    prefix = "kubeproxy_conntrack_reconciler"
    assert value(metrics, f"{prefix}_deleted_entries_total", ip_family="IPv4") == 7
    assert value(metrics, f"{prefix}_sync_duration_seconds_count", ip_family="IPv4") == 2
    assert value(metrics, f"{prefix}_sync_duration_seconds_count", ip_family="IPv6") == 0


# SVC-101.


class ServicePorts:
    """A cluster whose changes are counted as they come."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.store = Store(CONFIGURATION)
        self._known: dict[ServicePortKey, ServicePort] = {}

    def take(self, *items: Service | EndpointSlice | Node) -> None:
        self.store.set_objects(items)
        changes = self.store.take_changes()
        self.metrics.service_ports_changed(
            (self._known.get(key), service_port) for key, service_port in changes.service_ports.items()
        )
        self._known |= {
            key: service_port for key, service_port in changes.service_ports.items() if service_port is not None
        }

    def dropping(self) -> dict[str, float | None]:
        name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
        return {
            policy: value(self.metrics, name, traffic_policy=policy, ip_family="IPv4")
            for policy in ("internal", "external")
        }


def test_svc_101_service_ports_that_drop_are_counted_as_they_come_and_go() -> None:
    service_ports = ServicePorts(made())
    local = service(
        ports=[port(80, "a"), port(81, "b")],
        kind="LoadBalancer",
        vips=["192.0.2.1"],
        internal="Local",
        external="Local",
    )
    service_ports.take(node(), local)
    # Without any endpoint they reject.
    assert service_ports.dropping() == {"internal": 0, "external": 0}
    slice_ports = [endpoint_port(8080, "a"), endpoint_port(8081, "b")]
    service_ports.take(endpoint_slice([endpoint("10.244.2.1", "node-2")], ports=slice_ports))
    assert service_ports.dropping() == {"internal": 2, "external": 2}
    assert value(service_ports.metrics, "rulegen_service_ports", ip_family="IPv4") == 2
    assert value(service_ports.metrics, "rulegen_frontends", ip_family="IPv4") == 4
    assert value(service_ports.metrics, "rulegen_endpoints", ip_family="IPv4") == 2
    assert value(service_ports.metrics, "rulegen_endpoints", ip_family="IPv6") == 0
    service_ports.take(endpoint_slice([endpoint("10.244.1.1", "node-1")], ports=slice_ports))
    assert service_ports.dropping() == {"internal": 0, "external": 0}


def test_svc_101_without_an_external_frontend_nothing_external_drops() -> None:
    service_ports = ServicePorts(made())
    service_ports.take(
        node(),
        service(kind="LoadBalancer", external="Local"),
        endpoint_slice([endpoint("10.244.2.1", "node-2")]),
    )
    assert service_ports.dropping() == {"internal": 0, "external": 0}


def test_svc_101_rules_of_iptables_are_counted_by_table() -> None:
    metrics = made(Target.IPTABLES)
    metrics.rules_counted({(Family.IPV4, "nat"): RuleCount(70, 4), (Family.IPV6, "filter"): RuleCount(9, 0)})
    for table, family, total, last in (("nat", "IPv4", 70, 4), ("filter", "IPv6", 9, 0), ("mangle", "IPv4", 0, 0)):
        labels = {"table": table, "ip_family": family}
        assert value(metrics, "kubeproxy_sync_proxy_rules_iptables_total", **labels) == total
        assert value(metrics, "kubeproxy_sync_proxy_rules_iptables_last", **labels) == last


# SVC-102.


def test_svc_102_answers_of_the_health_server() -> None:
    metrics = made()
    for code in (200, 503, 503):
        metrics.health_answer("healthz", code)
    metrics.health_answer("livez", 200)
    assert value(metrics, "kubeproxy_proxy_healthz_total", code="503") == 2
    assert value(metrics, "kubeproxy_proxy_healthz_total", code="200") == 1
    assert value(metrics, "kubeproxy_proxy_livez_total", code="200") == 1
    assert value(metrics, "kubeproxy_proxy_livez_total", code="503") == 0


def test_svc_102_changes_wait_until_a_sync_succeeds() -> None:
    metrics = made()
    prefix = "kubeproxy_sync_proxy_rules"

    def changes() -> list[float | None]:
        return [
            value(metrics, f"{prefix}_{kind}_changes_{what}")
            for kind in ("service", "endpoint")
            for what in ("pending", "total")
        ]

    metrics.taken([Synced(Service), Synced(EndpointSlice), Upsert(node())])
    assert changes() == [0, 0, 0, 0]
    before = time.time()
    metrics.taken([Upsert(service()), Upsert(endpoint_slice()), Delete(EndpointSlice, "default", "other")])
    metrics.sync_failed(0.1, is_full=False)
    assert changes() == [1, 1, 2, 2]
    queued = value(metrics, f"{prefix}_last_queued_timestamp_seconds", ip_family="IPv6")
    assert queued is not None
    assert before <= queued <= time.time()
    metrics.sync_done(EMPTY, 0.1, is_full=True)
    metrics.taken([Delete(Service, "default", "web")])
    assert changes() == [1, 2, 0, 2]


# SVC-103.


def test_svc_103_one_observation_for_each_recorded_time() -> None:
    times = TriggerTimes(START)
    for at in ("2023-11-14T22:13:21.5Z", "2023-11-14T22:13:22.123456789Z", "2023-11-14T22:13:22.123456789Z"):
        times.set_slice(triggered(at))
    times.set_slice(triggered("2023-11-15T00:13:23+02:00", family="IPv6", name="web-2"))
    assert [(family, round(seconds, 3)) for family, seconds in times.take(START + 10)] == [
        (Family.IPV4, 8.5),
        (Family.IPV4, 7.877),
        (Family.IPV6, 7.0),
    ]
    assert times.take(START + 11) == []


@pytest.mark.parametrize(
    "at",
    [
        "2023-11-14T22:13:20Z",  # the start itself
        "2001-01-01T00:00:00Z",
        "",
        "now",
        "2023-11-14T22:13:21",
        "9999-99-99T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_svc_103_what_was_before_the_start_or_is_no_time_does_not_count(at: str) -> None:
    times = TriggerTimes(START)
    times.set_slice(triggered(at))
    assert times.take(START + 10) == []


def test_svc_103_a_time_to_come_took_no_time() -> None:
    times = TriggerTimes(START)
    times.set_slice(triggered("9999-12-31T23:59:59Z"))
    assert times.take(START) == [(Family.IPV4, 0.0)]


def test_svc_103_a_slice_that_goes_discards_what_its_service_has_recorded() -> None:
    times = TriggerTimes(START)
    times.set_slice(endpoint_slice(name="quiet"))
    times.set_slice(triggered("2023-11-14T22:13:21Z"))
    times.set_slice(triggered("2023-11-14T22:13:22Z", service_name="db", name="db-1"))
    times.remove_slice("default", "quiet")
    times.remove_slice("default", "unknown")
    assert times.take(START + 5) == [(Family.IPV4, 3.0)]


def test_svc_103_what_is_recorded_while_nothing_succeeds_is_bounded() -> None:
    times = TriggerTimes(START)
    for microseconds in range(10_000):
        times.set_slice(triggered(f"2023-11-14T22:13:21.{microseconds:06}Z"))
    assert 0 < len(times.take(START + 5)) <= 1000


def test_svc_103_latency_is_observed_at_the_next_success() -> None:
    metrics = made()
    name = "kubeproxy_network_programming_duration_seconds"
    metrics.taken([Upsert(triggered("2023-11-14T22:13:21Z"))])
    metrics.sync_failed(0.1, is_full=False)
    assert value(metrics, f"{name}_count", ip_family="IPv4") == 0
    metrics.sync_done(EMPTY, 0.1, is_full=True)
    metrics.sync_done(EMPTY, 0.1, is_full=True)
    assert value(metrics, f"{name}_count", ip_family="IPv4") == 1
    assert value(metrics, f"{name}_count", ip_family="IPv6") == 0
    metrics.taken([Upsert(triggered("2023-11-14T22:13:22Z")), Delete(EndpointSlice, "default", "web-1")])
    metrics.sync_done(EMPTY, 0.1, is_full=False)
    assert value(metrics, f"{name}_count", ip_family="IPv4") == 1


# Our own.


def test_findings_are_counted_by_reason() -> None:
    metrics = made()
    given = store(
        service("a", ["10.96.0.1"], vips=["192.0.2.1"], annotations={"rulegen.io/weights": "?"}),
        service("b", ["10.96.0.2"], vips=["192.0.2.1"], annotations={"rulegen.io/weights": "?"}),
    )

    def findings() -> list[float | None]:
        given.take_changes()
        metrics.findings_changed(given.findings_of.take().values())
        return [
            value(metrics, "rulegen_findings", reason=reason)
            for reason in ("DuplicateFrontend", "MalformedWeight", "UnknownNode")
        ]

    assert value(metrics, "rulegen_findings", reason="DuplicateFrontend") == 0
    assert findings() == [1, 2, 1]
    given.set_node(node())
    given.remove_service("default", "a")
    assert findings() == [0, 1, 0]
    assert findings() == [0, 1, 0]


def test_objects_that_cannot_be_used_are_counted_while_that_is_so() -> None:
    metrics = made()

    def unusable(kind: str) -> float | None:
        return value(metrics, "rulegen_invalid_objects", kind=kind)

    error = ObjectError("Service", "default/web", ())
    invalid = Invalid(Service, "default", "web", error)
    metrics.taken([invalid, invalid, Invalid(Service, "", "", error), Invalid(Node, "", "node-1", error)])
    assert (unusable("Service"), unusable("Node"), unusable("EndpointSlice")) == (1, 1, 0)
    metrics.taken([Upsert(service()), Upsert(service()), Delete(Node, "", "node-1")])
    assert (unusable("Service"), unusable("Node")) == (0, 0)


def test_what_is_followed() -> None:
    metrics = made()

    def following() -> float | None:
        return value(metrics, "rulegen_following", kind="Service")

    assert following() == 0
    metrics.taken([Synced(Service)])
    assert following() == 1
    metrics.taken([Interrupted(Service, HostError("away"), 1.0)])
    assert following() == 0
    metrics.taken([Resumed(Service)])
    assert following() == 1
    metrics.taken([Failed(Service, ValueError())])
    assert following() == 0
    assert value(metrics, "rulegen_following", kind="ServiceCIDR") == 0


def test_changes_that_wait_are_counted_when_somebody_asks() -> None:
    metrics = made()
    waiting = [3]
    metrics.count_waiting(lambda: waiting[0])
    assert value(metrics, "rulegen_waiting_changes") == 3
    waiting[0] = 0
    assert value(metrics, "rulegen_waiting_changes") == 0


def test_entries_drift_and_refusals() -> None:
    metrics = made()
    metrics.sync_done(diff({"a": 1, "b": 1, "c": 1}, {"b": 2, "c": 2, "d": 2, "e": 1}), 0.1, is_full=True)
    counts = [value(metrics, "rulegen_entries_changed_total", change=it) for it in ("added", "changed", "removed")]
    assert counts == [2, 2, 1]
    metrics.drift()
    metrics.repaired(3)
    metrics.not_in_force({("services", "Service"): 2, ("network-policies", "NetworkPolicy"): 3})
    assert value(metrics, "rulegen_drift_total") == 1
    assert value(metrics, "rulegen_repaired_entries_total") == 3
    policies = {"feature": "network-policies", "kind": "NetworkPolicy"}
    assert value(metrics, "rulegen_refused_services") == 2
    assert value(metrics, "rulegen_refused_objects", feature="services", kind="Service") == 2
    assert value(metrics, "rulegen_refused_objects", **policies) == 3
    metrics.not_in_force({})
    assert value(metrics, "rulegen_refused_services") == 0
    assert value(metrics, "rulegen_refused_objects", **policies) == 0


def test_the_version_the_target_and_the_process() -> None:
    metrics = made()
    assert value(metrics, "rulegen_build_info", version=__version__, target="nftables") == 1
    assert value(metrics, "process_resident_memory_bytes")
    assert "python_info" in names(metrics)


def test_both_formats_are_read_by_prometheus_own_parser() -> None:
    metrics = made(Target.IPTABLES)
    metrics.sync_done(EMPTY, 0.1, is_full=True)
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    text = encode(metrics.registry).decode()
    assert list(parse_openmetrics(text))  # type: ignore[no-untyped-call]
    assert "kubeproxy_sync_proxy_rules_iptables_total" in names(metrics)
    assert "_created" not in generate_latest(metrics.registry).decode()


def test_nothing_grows_with_the_cluster() -> None:
    metrics = made()
    size = len(generate_latest(metrics.registry))
    service_ports = ServicePorts(metrics)
    for number in range(300):
        item = service(f"s-{number}", [f"10.96.{number // 250}.{number % 250 + 1}"])
        metrics.taken([Upsert(item)])
        service_ports.take(item)
    metrics.sync_done(EMPTY, 0.1, is_full=True)
    assert len(generate_latest(metrics.registry)) < size * 1.05
    assert value(metrics, "rulegen_service_ports", ip_family="IPv4") == 300


def test_threads_lose_nothing() -> None:
    metrics = made()

    def work(number: int) -> None:
        for count in range(500):
            metrics.taken([Upsert(service(f"s-{number}-{count}")), Upsert(endpoint_slice(name=f"e-{number}-{count}"))])
            metrics.health_answer("healthz", 200)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(metrics, "kubeproxy_sync_proxy_rules_service_changes_total") == 2000
    assert value(metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_pending") == 2000
    assert value(metrics, "kubeproxy_proxy_healthz_total", code="200") == 2000


def test_every_metric_is_in_the_documentation_and_no_other() -> None:
    """With its labels, which dashboards and alerts go by."""
    rows = re.findall(r"^\| `(\w+)` \| \w+(.*?) \|", (REPOSITORY / "docs/metrics.md").read_text(), re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    everything = [made(target) for target in Target]
    everything[0].registry.register(DenialCounts("network-policies", list, Combination.__str__))
    RangeMetrics(everything[0].registry)
    there = {name for one in everything for name in names(one) if name.startswith(("kubeproxy_", "rulegen_"))}
    assert documented.keys() == there
    for family in (family for one in everything for family in one.registry.collect()):
        name = family.name + ("_total" if family.type == "counter" else "")
        for sample in family.samples if name in documented else ():
            assert sample.labels.keys() - {"le"} == documented[name], name
