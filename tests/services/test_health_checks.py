"""Health checks of Services: which there are, what they count, and that only those that differ are told."""

from __future__ import annotations

import pytest

from rulegen.config import Family, NodeConfiguration
from rulegen.kube.objects import Service
from rulegen.services.model import HealthCheck, HealthCheckKey
from rulegen.services.store import Store
from tests.builders import (
    draining,
    endpoint,
    endpoint_port,
    endpoint_slice,
    node,
    port,
    service,
    store,
)

V4, V6 = Family.IPV4, Family.IPV6
WEB = ("default", "web")
V4_SLICE = endpoint_slice([endpoint("10.244.1.1", "node-1")])


def balanced(name: str = "web", *, number: int = 32000, **options: object) -> Service:
    """A Service of type LoadBalancer that has a health check."""
    wanted: dict[str, object] = {"kind": "LoadBalancer", "external": "Local", "health_check_port": number}
    return service(name, **(wanted | options))  # type: ignore[arg-type]


def checks(made: Store) -> dict[HealthCheckKey, HealthCheck | None]:
    return made.take_changes().health_checks


def counts(made: Store) -> dict[Family, int]:
    """How many local endpoints each family of the one Service has."""
    return {family: check.local_endpoints for (_, family), check in checks(made).items() if check}


def test_svc_77_a_load_balancer_with_local_policy_and_a_port() -> None:
    assert checks(store(balanced(), V4_SLICE)) == {(WEB, V4): HealthCheck(WEB, V4, 32000, 1)}


@pytest.mark.parametrize(
    "other",
    [
        {"number": 0},
        {"kind": "NodePort"},
        {"kind": "ClusterIP", "external_ips": ["192.0.2.1"]},
        {"kind": "ExternalName"},
        {"external": "Cluster"},
        {"cluster_ips": ["None"]},
        {"ports": ()},
        {"labels": {"service.kubernetes.io/service-proxy-name": ""}},
    ],
)
def test_svc_77_others_have_none(other: dict[str, object]) -> None:
    assert checks(store(balanced(**other), V4_SLICE)) == {}  # type: ignore[arg-type]


def test_svc_5_only_in_families_in_which_the_service_exists() -> None:
    both = balanced(cluster_ips=["10.96.0.1", "fd00::1"])
    slices = [V4_SLICE, endpoint_slice([endpoint("fd01::1", "node-1")] * 2, name="web-2", family="IPv6")]
    assert counts(store(both, *slices)) == {V4: 1, V6: 1}
    assert counts(store(balanced(cluster_ips=["fd00::1"]), *slices)) == {V6: 1}
    single = NodeConfiguration(node_name="node-1", families=(V4,))
    assert counts(store(both, *slices, configuration=single)) == {V4: 1}


def test_svc_81_distinct_addresses_of_ready_local_endpoints_over_all_ports() -> None:
    made = store(
        balanced(ports=[port(80, "http"), port(443, "https"), port(53, "dns", "UDP")]),
        endpoint_slice(
            [
                endpoint("10.244.1.1", "node-1"),
                endpoint("10.244.1.2", "node-1", ready=True, serving=False, terminating=True),
                endpoint("10.244.1.3", "node-1", ready=False, serving=True),
                draining("10.244.1.4", "node-1"),
                endpoint("10.244.1.5", "node-2"),
                endpoint("10.244.1.6"),
            ],
            ports=[endpoint_port(8080, "http"), endpoint_port(8443, "https")],
        ),
        endpoint_slice(
            [endpoint("10.244.1.1", "node-1"), endpoint("10.244.1.7", "node-1")],
            name="web-2",
            ports=[endpoint_port(5353, "dns", "UDP")],
        ),
        endpoint_slice(
            [endpoint("10.244.1.8", "node-1")], name="web-3", ports=[endpoint_port(9090, "no-port-of-the-service")]
        ),
    )
    assert counts(made) == {V4: 3}


def test_svc_81_a_service_without_endpoints_has_a_health_check_that_counts_none() -> None:
    assert counts(store(balanced())) == {V4: 0}
    assert counts(store(balanced(), endpoint_slice([draining("10.244.1.1", "node-1")]))) == {V4: 0}


def test_d9_endpoints_of_weight_0_do_not_count() -> None:
    endpoints = [endpoint("10.244.1.1", "node-1", target="old"), endpoint("10.244.1.2", "node-1", target="new")]
    made = store(balanced(annotations={"rulegen.io/weights": "old=0"}), endpoint_slice(endpoints))
    assert counts(made) == {V4: 1}
    made.set_slice(endpoint_slice(endpoints, annotations={"rulegen.io/weight": "0"}))
    assert counts(made) == {V4: 0}
    made.set_service(balanced(annotations={"rulegen.io/weights": "*=7"}))
    assert counts(made) == {V4: 2}


def test_a_service_whose_frontends_belong_to_another_still_has_its_health_check() -> None:
    older = service("aaa", ["10.96.0.10"])
    assert counts(store(older, balanced("web", cluster_ips=["10.96.0.10"]), V4_SLICE)) == {V4: 1}


def test_what_was_taken_is_told_again_only_when_it_differs() -> None:
    made = store(node(), balanced(), V4_SLICE, service("other", ["10.96.0.2"]))
    assert len(checks(made)) == 1
    assert not any(made.take_changes())
    made.set_service(service("other", ["10.96.0.3"]))
    assert checks(made) == {}
    made.set_slice(endpoint_slice([]))
    made.set_slice(endpoint_slice([endpoint("10.244.1.9", "node-1")]))
    changes = made.take_changes()
    assert changes.service_ports
    assert not changes.health_checks
    made.set_service(balanced(number=32001))
    assert checks(made) == {(WEB, V4): HealthCheck(WEB, V4, 32001, 1)}


def test_none_says_that_a_health_check_is_gone() -> None:
    made = store(balanced(cluster_ips=["10.96.0.1", "fd00::1"]))
    assert len(checks(made)) == 2
    made.set_service(balanced(cluster_ips=["10.96.0.1"]))
    assert checks(made) == {(WEB, V6): None}
    made.set_service(balanced(cluster_ips=["10.96.0.1"], external="Cluster"))
    assert checks(made) == {(WEB, V4): None}
    made.set_service(balanced())
    made.remove_service(*WEB)
    assert checks(made) == {}
    made.set_service(balanced())
    assert list(checks(made)) == [(WEB, V4)]
    made.remove_service(*WEB)
    assert checks(made) == {(WEB, V4): None}
