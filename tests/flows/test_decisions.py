"""Where rulegen differs from kube-proxy on purpose: the decisions of docs/service-proxy.md, each in the kernel.

D3, D5 and D7 concern a proxy that runs and fails, connection tracking and health checks; they decide about no packet.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rulegen.kube.manifests import load
from rulegen.services.model import Reason
from tests import builders
from tests.flows.scene import CLIENT, CLIENT_V6, EVERYBODY, NODE, POD, SECOND, Scene
from tests.flows.world import ELSEWHERE, HERE, Endpoint, Port, Service, World
from tests.lab import Fate

pytestmark = pytest.mark.kernel

CLUSTER_IP, OTHER_CLUSTER_IP = "10.96.0.1", "10.96.0.2"
EXTERNAL_IP, VIP, VIP_V6 = "198.19.0.1", "198.18.0.1", "2001:db8:f::1"
LOCAL, REMOTE = Endpoint("10.128.0.5", HERE), Endpoint("10.128.1.7")
SERVICE = Service("web", (CLUSTER_IP,), (Port(80, "TCP", 30080),), (LOCAL, REMOTE), vips=(VIP,))
EMPTY = replace(SERVICE, endpoints=())


def fates(
    scene: Scene, sources: tuple[str, ...], destination: str, number: int = 80, protocol: str = "TCP"
) -> set[Fate]:
    return {outcome.fate for outcome in scene.send(sources, destination, number, protocol)}


class TestD1OneBehaviour:
    def test_node_ports_are_accepted_on_the_primary_address_alone(self, running: Scene) -> None:
        running.services(SERVICE)
        assert fates(running, EVERYBODY, NODE, 30080) == {Fate.DELIVERED}
        assert fates(running, EVERYBODY, SECOND, 30080) == {Fate.PASSED}

    def test_not_on_loopback(self, running: Scene) -> None:
        running.configure(nodeport_addresses=("0.0.0.0/0",))
        running.services(SERVICE)
        assert fates(running, EVERYBODY, SECOND, 30080) == {Fate.DELIVERED}
        assert fates(running, (NODE, "127.0.0.1"), "127.0.0.1", 30080) == {Fate.PASSED}

    @pytest.mark.parametrize(("number", "protocol"), [(81, "TCP"), (80, "UDP"), (80, "SCTP"), (0, "ICMP")])
    def test_what_an_active_cluster_ip_does_not_have_is_rejected(
        self, running: Scene, number: int, protocol: str
    ) -> None:
        running.services(SERVICE)
        assert fates(running, EVERYBODY, CLUSTER_IP, number, protocol) == {Fate.REJECTED}

    def test_unallocated_addresses_are_dropped(self, running: Scene) -> None:
        running.services(SERVICE)
        assert fates(running, EVERYBODY, OTHER_CLUSTER_IP) == {Fate.DROPPED}
        assert fates(running, EVERYBODY, OTHER_CLUSTER_IP, 0, "ICMP") == {Fate.DROPPED}

    @pytest.mark.parametrize("destination", [(CLUSTER_IP, 80), (VIP, 80), (NODE, 30080)])
    def test_rejects_hold_for_forwarded_incoming_and_own_traffic(
        self, running: Scene, destination: tuple[str, int]
    ) -> None:
        running.services(EMPTY)
        assert fates(running, EVERYBODY, *destination) == {Fate.REJECTED}
        running.change_node(addresses=(*running.world.addresses, f"{VIP}/32"))
        assert fates(running, EVERYBODY, *destination) == {Fate.REJECTED}

    def test_source_ranges_are_checked_before_dnat(self, running: Scene) -> None:
        for service in (SERVICE, EMPTY):
            running.services(replace(service, ranges=("203.0.113.0/28",)))
            assert fates(running, EVERYBODY, VIP) == {Fate.DROPPED}

    def test_no_drop_of_what_connection_tracking_calls_invalid(self, running: Scene) -> None:
        running.services(SERVICE)
        assert "invalid" not in running.lab.nft("list ruleset")


class TestD2DuplicateFrontends:
    OLD = Service("old", (OTHER_CLUSTER_IP,), (Port(80),), (REMOTE,), "ClusterIP", (EXTERNAL_IP, CLUSTER_IP), created=1)
    YOUNG = replace(SERVICE, external_ips=(EXTERNAL_IP,), endpoints=(LOCAL,), created=2)

    def test_the_oldest_service_owns_and_a_cluster_ip_always_wins(self, scene: Scene) -> None:
        for services in ((self.YOUNG,), (self.OLD, self.YOUNG), (self.YOUNG, self.OLD), (self.OLD,)):
            scene.services(*services)
            scene.check(EVERYBODY, (EXTERNAL_IP, CLUSTER_IP, OTHER_CLUSTER_IP, VIP))
        scene.services(self.OLD, self.YOUNG)
        assert scene.send(CLIENT, EXTERNAL_IP)[0].endpoint == "10.128.1.7:8080"
        assert scene.send(CLIENT, CLUSTER_IP)[0].endpoint == "10.128.0.5:8080"

    def test_of_equal_age_the_name_decides(self, scene: Scene) -> None:
        twin = replace(self.OLD, name="zzz", created=2)
        scene.services(twin, self.YOUNG)
        assert scene.send(CLIENT, EXTERNAL_IP)[0].endpoint == "10.128.0.5:8080"
        scene.services(replace(twin, name="aaa"), self.YOUNG)
        assert scene.send(CLIENT, EXTERNAL_IP)[0].endpoint == "10.128.1.7:8080"

    def test_the_other_is_reported(self) -> None:
        store = builders.store(*World((self.OLD, self.YOUNG)).objects())
        reported = [finding for finding in store.findings() if finding.reason is Reason.DUPLICATE_FRONTEND]
        assert {finding.subject for finding in reported} == {"Service default/web", "Service default/old"}


class TestD4Promptly:
    def test_service_cidrs(self, scene: Scene) -> None:
        scene.services(SERVICE)
        for cidrs in (("10.96.0.0/16",), ("10.97.0.0/16",), ("10.96.0.0/16", "10.97.0.0/16"), ()):
            scene.change_node(service_cidrs=cidrs)
            scene.check(EVERYBODY, ("10.96.0.200", "10.97.0.200", CLUSTER_IP))

    def test_the_address_of_the_node(self, scene: Scene) -> None:
        scene.services(SERVICE)
        for address in (SECOND, NODE):
            scene.change_node(internal_ips=(address,))
            scene.check(EVERYBODY, (NODE, SECOND), 30080)
            assert fates(scene, (CLIENT,), address, 30080) == {Fate.DELIVERED}

    def test_addresses_that_come_to_the_node_and_go(self, scene: Scene) -> None:
        scene.configure(nodeport_addresses=("198.18.0.0/16",))
        scene.services(SERVICE)
        addresses = scene.world.addresses
        for held in (addresses, (*addresses, "198.18.0.99/32"), addresses):
            scene.change_node(addresses=held)
            scene.check(CLIENT, "198.18.0.99", 30080)

    def test_the_zone_of_the_node(self, scene: Scene) -> None:
        hinted = (replace(LOCAL, zones=("a",)), replace(REMOTE, zones=("b",)))
        scene.services(replace(SERVICE, endpoints=hinted))
        for zone in ("a", "b", "c", "", "a"):
            scene.change_node(zone=zone)
            scene.check(EVERYBODY, (CLUSTER_IP, VIP))

    def test_the_timeout_of_session_affinity(self, scene: Scene) -> None:
        """The rest is in test_affinity.py: here, that clients stay who connected within the new timeout."""
        clients = [f"203.0.113.{number}" for number in range(1, 41)]
        for timeout in (10800, 60, 600):
            scene.services(replace(SERVICE, affinity=timeout))
            met = scene.reached(clients, VIP)
            assert scene.reached(clients, CLUSTER_IP) == met


def test_d6_a_slice_that_moves_to_another_service_leaves_nothing_behind(scene: Scene) -> None:
    other = replace(SERVICE, name="other", cluster_ips=(OTHER_CLUSTER_IP,), vips=(), ports=(Port(80),), endpoints=())
    moving = [builders.endpoint("10.128.1.8", ELSEWHERE)]
    fixed = list(World((SERVICE, other)).objects())
    ports = [builders.endpoint_port(8080, "tcp-80")]
    for owner in ("web", "other", "web"):
        slice_ = builders.endpoint_slice(moving, service_name=owner, name="moving", ports=ports)
        scene.objects([*fixed, slice_])
        mine = (*SERVICE.endpoints, Endpoint("10.128.1.8")) if owner == "web" else SERVICE.endpoints
        theirs = () if owner == "web" else (Endpoint("10.128.1.8"),)
        scene.world = replace(
            scene.world, services=(replace(SERVICE, endpoints=mine), replace(other, endpoints=theirs))
        )
        scene.check(EVERYBODY, (CLUSTER_IP, OTHER_CLUSTER_IP))


def test_d8_source_ranges_of_one_family_leave_the_other_open_and_are_reported(running: Scene) -> None:
    dual = replace(
        SERVICE,
        cluster_ips=(CLUSTER_IP, "fd00:10:96::1"),
        vips=(VIP, VIP_V6),
        endpoints=(REMOTE, Endpoint("fd00:10:128:1::7")),
        ranges=("203.0.113.0/28",),
    )
    running.services(dual)
    assert fates(running, (CLIENT,), VIP) == {Fate.DROPPED}
    assert fates(running, (CLIENT_V6,), VIP_V6) == {Fate.DELIVERED}
    findings = builders.store(*World((dual,)).objects()).findings()
    assert [finding.subject for finding in findings if finding.reason is Reason.OPEN_FAMILY] == ["Service default/web"]


class TestD9Weights:
    """The proportions are in test_balance.py, weight 0 with session affinity in test_affinity.py."""

    def test_weight_0_is_as_if_absent(self, scene: Scene) -> None:
        """In the lists, in the fallback to terminating endpoints, for policies and for hints."""
        idle = replace(LOCAL, weight=0)
        for external in ("Cluster", "Local"):
            for endpoints in (
                (idle, REMOTE),
                (idle, replace(REMOTE, weight=0)),
                (idle,),
                (replace(LOCAL, zones=("a",)), replace(REMOTE, weight=0)),
            ):
                scene.services(replace(SERVICE, external=external, endpoints=endpoints))
                scene.check(EVERYBODY, (CLUSTER_IP, VIP))
        scene.services(replace(SERVICE, endpoints=(idle,)))
        assert fates(scene, EVERYBODY, VIP) == {Fate.REJECTED}

    def test_the_annotation_of_a_slice_and_the_one_of_the_service_which_wins(self, scene: Scene) -> None:
        ports = [builders.endpoint_port(8080, "tcp-80")]
        slices = [
            builders.endpoint_slice(
                [builders.endpoint(address, ELSEWHERE, target=target)],
                name=target,
                ports=ports,
                annotations={annotation: weight},
            )
            for address, target, annotation, weight in (
                ("10.128.1.7", "stable-1", "rulegen.io/weight", "3"),
                ("10.128.1.8", "canary-1", "service.cilium.io/weight", "0"),
            )
        ]
        for weights, reached in (
            (None, {"10.128.1.7:8080"}),
            ("stable-*=0,*=1", {"10.128.1.8:8080"}),
            ("canary-*=1", {"10.128.1.7:8080", "10.128.1.8:8080"}),
            (f"{ELSEWHERE}=0", set()),
            ("not a weight", {"10.128.1.7:8080"}),
        ):
            service = builders.service(
                "web",
                (CLUSTER_IP,),
                [builders.port(80, "tcp-80")],
                annotations={"rulegen.io/weights": weights} if weights else None,
            )
            scene.objects([*World().objects(), service, *slices])
            found = {outcome.endpoint for outcome in scene.send(POD, CLUSTER_IP, count=60)}
            assert found == (reached or {""}), weights


def test_d10_legacy_endpoints_of_a_service_without_slices(scene: Scene, tmp_path: Path) -> None:
    manifest = """
apiVersion: v1
kind: List
items:
- {kind: Service, apiVersion: v1, metadata: {name: web, namespace: default}, spec: {clusterIP: 10.96.0.1,
   clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ports: [{port: 80, protocol: TCP}]}}
- {kind: Endpoints, apiVersion: v1, metadata: {name: web, namespace: default, labels: {LABELS}},
   subsets: [{addresses: [{ip: 10.128.1.9, nodeName: node-elsewhere}], ports: [{port: 9090, protocol: TCP}]}]}
"""
    slice_ = """
- {kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, addressType: IPv4, metadata: {name: web-1, namespace: default,
   labels: {kubernetes.io/service-name: web}}, endpoints: [{addresses: [10.128.1.7]}], ports: [{name: "", port: 8080}]}
"""
    skipped = '"endpointslice.kubernetes.io/skip-mirror": "true"'
    for text, reached in (
        (manifest.replace("LABELS", ""), "10.128.1.9:9090"),
        (manifest.replace("LABELS", "") + slice_.lstrip("\n"), "10.128.1.7:8080"),
        (manifest.replace("LABELS", skipped), ""),
    ):
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        manifests = load([str(path)], None)
        assert not manifests.problems
        scene.objects([*World().objects(), *manifests.services, *manifests.endpoint_slices])
        assert scene.reached([CLIENT], CLUSTER_IP) == {CLIENT: reached}
