"""Host ports (D21): which pods have some, whose a port is, and who is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rulegen.config import Family, NodeConfiguration
from rulegen.features import kinds_of, make, resources
from rulegen.kube.objects import Pod, PodStatus
from rulegen.reconcile.feature import Need
from rulegen.reference import ObjectReference
from rulegen.services.feature import ServicesFeature
from rulegen.services.model import ServicePort
from tests.builders import port, service

NODE = NodeConfiguration(node_name="node-1", cluster_cidrs=("10.244.0.0/16",))


def pod(
    name: str,
    *ports: dict[str, Any],
    created: str = "2026-01-01T00:00:00Z",
    addresses: tuple[str, ...] = ("10.244.0.5",),
    deleted: str | None = None,
    **spec: Any,
) -> Pod:
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "default",
                "creationTimestamp": created,
                **({"deletionTimestamp": deleted} if deleted else {}),
            },
            "spec": {"nodeName": "node-1", "containers": [{"ports": list(ports)}], **spec},
            "status": {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]},
        },
        Pod,
    )


def host_port(number: int, **fields: Any) -> dict[str, Any]:
    return {"containerPort": 8080, "hostPort": number, **fields}


class Followed:
    """The feature as an agent feeds it."""

    def __init__(self) -> None:
        feature = make(["host-ports"], NODE)[0]
        assert isinstance(feature, ServicesFeature)
        self.feature = feature
        self._owned: dict[Any, ServicePort] = {}

    def put(self, *items: Any) -> Followed:
        for item in items:
            self.feature.put(item)
        return self

    def owners(self) -> dict[str, str]:
        """Whose each IPv4 frontend is that is no ClusterIP; what was taken must add up to what there is."""
        for key, service_port in self.feature.take().service_ports.items():
            self._owned.pop(key, None)
            if service_port is not None:
                self._owned[key] = service_port
        assert {(one.name, one.family): one for one in self.feature.store.service_ports()} == self._owned
        return {
            f"{frontend.address}:{frontend.port}": one.name.name
            for one in self._owned.values()
            for frontend in one.frontends
            if one.family is Family.IPV4 and frontend.kind.value in {"host port", "NodePort"}
        }

    def findings(self, name: str) -> list[str]:
        found = dict(self.feature.findings.items())
        return [one.message for one in found.get(ObjectReference("Pod", "default", name), ())]


def test_only_the_own_node_is_asked_about() -> None:
    assert kinds_of(["host-ports"])[Pod] is Need.OWN_NODE
    (asked,) = (each for each in resources(["host-ports"], "node-1") if each.kind is Pod)
    assert "spec.nodeName=node-1" in asked.selectors["fieldSelector"].split(",")
    assert Pod not in kinds_of([])


@pytest.mark.parametrize(
    ("young", "old", "owner"),
    [
        ({}, {}, "old"),
        ({}, {"deleted": "2026-03-01T00:00:00Z"}, "young"),
        ({"deleted": "2026-03-01T00:00:00Z"}, {}, "old"),
        ({"deleted": "2026-03-01T00:00:00Z"}, {"deleted": "2026-03-01T00:00:00Z"}, "old"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_pods_the_running_one_then_the_older(
    young: dict[str, Any], old: dict[str, Any], owner: str, turned: bool
) -> None:
    pods = [
        pod("young", host_port(80), created="2026-02-01T00:00:00Z", **young),
        pod("old", host_port(80), created="2026-01-01T00:00:00Z", **old),
    ]
    made = Followed().put(*(pods[::-1] if turned else pods))
    assert made.owners() == {":80": owner}
    loser = {"young": "old", "old": "young"}[owner]
    assert made.findings(loser) == [f"host port 80/TCP: belongs to Pod default/{owner}:80 (D21)"]
    assert made.findings(owner) == []
    made.feature.remove(ObjectReference("Pod", "default", owner))
    assert made.owners() == {":80": loser}
    assert made.findings(loser) == []


def test_a_node_port_that_comes_and_goes() -> None:
    made = Followed().put(pod("a", host_port(30080)))
    assert made.owners() == {":30080": "a"}
    made.put(service("web", ports=[port(80, node_port=30080)], kind="NodePort"))
    assert made.owners() == {":30080": "web"}
    assert made.findings("a") == ["host port 30080/TCP: belongs to the NodePort of Service default/web (D21)"]
    made.feature.remove(ObjectReference("Service", "default", "web"))
    assert made.owners() == {":30080": "a"}
    assert made.findings("a") == []


def test_a_node_port_beats_a_host_ip_too() -> None:
    made = Followed().put(
        service("web", ports=[port(80, node_port=30080)], kind="NodePort"),
        pod("a", host_port(30080, hostIP="192.0.2.1")),
    )
    assert made.owners() == {":30080": "web"}


def test_one_address_and_all_addresses() -> None:
    one = pod("one", host_port(80, hostIP="192.0.2.1"), created="2026-01-01T00:00:00Z")
    made = Followed().put(one, pod("all", host_port(80), created="2026-02-01T00:00:00Z"))
    assert made.owners() == {"192.0.2.1:80": "one", ":80": "all"}
    assert made.findings("all") == ["host port 80/TCP: belongs to other pods on 192.0.2.1 (D21)"]
    made.put(pod("all", host_port(80), created="2025-02-01T00:00:00Z"))
    assert made.owners() == {":80": "all"}
    assert made.findings("one") == ["host port 80/TCP on 192.0.2.1: belongs to Pod default/all:80 (D21)"]


@pytest.mark.parametrize("name", ["127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_is_told(name: str) -> None:
    made = Followed().put(pod("a", host_port(80, hostIP=name)))
    assert made.owners() == {}
    (said,) = made.findings("a")
    assert "is loopback" in said


@pytest.mark.parametrize(
    "wrong",
    [
        {"hostPort": 70000},
        {"hostPort": -1},
        {"containerPort": 0},
        {"protocol": "ICMP"},
        {"hostIP": "localhost"},
        {"hostIP": "192.0.2.1;drop"},
    ],
)
def test_what_cannot_be_is_told_and_costs_no_other(wrong: dict[str, Any]) -> None:
    made = Followed().put(pod("a", host_port(80) | wrong, host_port(81)))
    assert made.owners() == {":81": "a"}
    (said,) = made.findings("a")
    assert said.endswith("skipped (D21)")


@pytest.mark.parametrize(
    "fields",
    [
        {"nodeName": "node-2"},
        {"nodeName": None},
        {"hostNetwork": True},
        {"addresses": ()},
        {"addresses": ("nonsense",)},
    ],
)
def test_pods_without_host_ports_here(fields: dict[str, Any]) -> None:
    assert Followed().put(pod("a", host_port(80), **fields)).owners() == {}


def test_a_pod_that_finishes() -> None:
    running = pod("a", host_port(80))
    made = Followed().put(running)
    assert made.owners() == {":80": "a"}
    made.put(msgspec.structs.replace(running, status=PodStatus(phase="Failed", pod_ip="10.244.0.5")))
    assert made.owners() == {}


def test_both_families() -> None:
    made = Followed().put(pod("a", host_port(80), addresses=("10.244.0.5", "fd00::5")))
    made.owners()
    endpoints = {str(one.local_endpoints[0]) for one in made.feature.store.service_ports()}
    assert endpoints == {"10.244.0.5:8080", "[fd00::5]:8080"}


def test_the_second_of_a_pods_own_counts_not() -> None:
    made = Followed().put(pod("a", host_port(80), host_port(80, containerPort=9090)))
    assert made.owners() == {":80": "a"}
    assert [str(one.local_endpoints[0]) for one in made.feature.store.service_ports()] == ["10.244.0.5:8080"]
    assert made.findings("a") == ["host port 80/TCP: listed more than once, the first one counts (D21)"]
