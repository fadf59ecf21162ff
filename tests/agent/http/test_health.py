"""Health: what is said of it and when, and the listeners of Services with real sockets."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from msgspec.structs import replace

from rulegen.agent.http.health import GOING_AWAY_TAINT, Health, healthz_application
from rulegen.agent.http.health_checks import ServiceHealthServers
from rulegen.agent.http.pages import Page, Pages
from rulegen.agent.http.server import HttpServer, respond_text
from rulegen.config import Family, SocketAddress
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.interfaces import bindable_addresses
from rulegen.kube.manifests import load
from rulegen.kube.objects import Node, NodeSpec, Taint
from rulegen.networks import MATCH_ALL
from rulegen.services.model import HealthCheck, HealthCheckKey, ServiceKey
from tests.agent.asking import ask, is_open
from tests.builders import draining, endpoint, endpoint_slice, node, service, store

V4, V6 = Family.IPV4, Family.IPV6
EVERYWHERE = {family: (cidr,) for family, cidr in MATCH_ALL.items()}
WEB, SHOP = ("default", "web"), ("prod", "shop")
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
JSON = {"content-type": "application/json", "x-content-type-options": "nosniff"}
WEIGHT = "x-load-balancing-endpoint-weight"


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return STARTED + timedelta(seconds=self.seconds - 100)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def health_of(clock: Clock, *, requires_node: bool = False) -> Health:
    """Unhealthy after 60 seconds."""
    return Health((V4, V6), 30.0, requires_node=requires_node, clock=clock, now=clock.now)


@pytest.fixture
def health(clock: Clock) -> Health:
    return health_of(clock)


def tainted(*keys: str) -> Node:
    return replace(node(), spec=NodeSpec(taints=[Taint(key=key) for key in keys]))


def deleted() -> Node:
    return replace(node(), metadata=replace(node().metadata, deletion_timestamp="2026-01-01T00:00:00Z"))


# ---- the state ----


def test_svc_85_pending_for_twice_the_sync_period_is_unhealthy_until_a_sync(health: Health, clock: Clock) -> None:
    health.queued()
    clock.seconds += 59.9
    health.queued()
    assert health.is_healthy()
    clock.seconds += 0.1
    assert not health.is_healthy()
    assert health.livez().status == health.healthz().status == 503
    health.synced()
    assert health.livez().status == health.healthz().status == 200
    clock.seconds += 1000
    assert health.is_healthy()
    health.queued()
    assert health.is_healthy()


def test_work_that_does_not_end_is_unhealthy_also_before_the_first_sync(health: Health, clock: Clock) -> None:
    health.woke()
    clock.seconds += 59.9
    assert health.is_healthy()
    clock.seconds += 0.1
    assert not health.is_healthy()
    assert health.livez().status == 503
    health.rests()
    assert health.is_healthy()
    # Waiting for the API server is no work.
    clock.seconds += 1000
    assert health.livez().status == 200


def test_svc_87_healthy_before_the_first_sync_as_long_as_nothing_waits(health: Health, clock: Clock) -> None:
    clock.seconds += 1000
    assert health.healthz().status == 200
    health.queued()
    clock.seconds += 60
    assert health.healthz().status == 503


@pytest.mark.parametrize("requires_node", [True, False])
def test_svc_86_eligible_is_a_node_that_is_seen_and_stays(clock: Clock, requires_node: bool) -> None:
    health = health_of(clock, requires_node=requires_node)
    for item, expected in (
        (None, not requires_node),
        (node(), True),
        (tainted(GOING_AWAY_TAINT), False),
        (tainted("node.kubernetes.io/unreachable", "DeletionCandidateOfClusterAutoscaler"), True),
        (tainted("a", GOING_AWAY_TAINT), False),
        (deleted(), False),
        (node(), True),
        (None, not requires_node),
    ):
        health.set_node(item)
        assert (health.healthz().status == 200) is expected
        assert health.livez().status == 200
        assert health.is_healthy()
    assert (health_of(clock, requires_node=requires_node).healthz().status == 200) is not requires_node


def test_taints_are_read_from_manifests(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n"
        "spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, value: '1', effect: NoSchedule}]}\n"
    )
    health = health_of(clock)
    health.set_node(load([str(path)], None).nodes[0])
    assert health.healthz().status == 503


# ---- /healthz and /livez ----

PORT = 10256


def no_status(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """In the place of the status page."""
    del environ
    return respond_text(start_response, HTTPStatus.OK, "the status")


class Site:
    """The application at work; what it has counted."""

    def __init__(self, health: Health, server: HttpServer) -> None:
        self.counted: list[tuple[str, int]] = []
        count: Callable[[str, int], None] = lambda *what: self.counted.append(what)  # noqa: E731
        server.open(SocketAddress("127.0.0.1", PORT), healthz_application(health, count, no_status))


@pytest.fixture
def site(health: Health, server: HttpServer) -> Site:
    return Site(health, server)


def families(last_updated: str, healthy: bool) -> dict[str, Any]:
    return {family: {"lastUpdated": last_updated, "healthy": healthy} for family in ("IPv4", "IPv6")}


def test_svc_87_what_is_answered(site: Site, health: Health, clock: Clock) -> None:
    never, now = "0001-01-01T00:00:00Z", "2026-01-02T03:04:05Z"
    reply = ask(PORT, "/livez")
    assert reply.status == 200
    assert reply.headers.items() >= JSON.items()
    assert reply.json == {"lastUpdated": now, "currentTime": now, "healthy": True, "status": families(never, True)}
    health.synced()
    health.queued()
    clock.seconds += 60.25
    later = "2026-01-02T03:05:05.250000Z"
    broken = {"lastUpdated": now, "currentTime": later, "healthy": False, "status": families(now, False)}
    assert ask(PORT, "/livez").json == broken
    assert ask(PORT, "/healthz").json == {**broken, "nodeEligible": True}
    health.synced()
    health.set_node(deleted())
    clock.seconds += 1
    reply = ask(PORT, "/healthz?verbose")
    assert reply.status == 503
    assert reply.headers.items() >= JSON.items()
    assert reply.json == {
        "lastUpdated": later,
        "currentTime": "2026-01-02T03:05:06.250000Z",
        "nodeEligible": False,
        # D7: as the status says.
        "healthy": False,
        "status": families(later, True),
    }
    assert ask(PORT, "/livez").json["healthy"] is True
    assert site.counted == [("livez", 200), ("livez", 503), ("healthz", 503), ("healthz", 503), ("livez", 200)]


def test_a_head_request_counts_and_is_answered_without_a_body(site: Site, health: Health) -> None:
    health.set_node(deleted())
    reply = ask(PORT, "/healthz", method="HEAD")
    assert (reply.status, reply.body) == (503, b"")
    assert reply.headers.items() >= JSON.items()
    assert site.counted == [("healthz", 503)]


def test_other_paths_and_methods_are_refused(site: Site) -> None:
    for path in ("/", "/healthz/", "/metrics", "/HEALTHZ"):
        assert ask(PORT, path).status == 404
    for method in ("POST", "DELETE", "BREW"):
        reply = ask(PORT, "/healthz", method=method)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert site.counted == []


def test_one_family_alone(clock: Clock, server: HttpServer) -> None:
    Site(Health((V6,), 30.0, requires_node=False), server)
    assert list(ask(PORT, "/livez").json["status"]) == ["IPv6"]


# ---- the Services' ----


class Balancers:
    """The servers at work, and what they have reported."""

    def __init__(self, health: Health, server: HttpServer, most: int = 1000) -> None:
        self.reports: list[tuple[ServiceKey, str]] = []
        self.ended: list[tuple[ServiceKey, str]] = []
        self.servers = ServiceHealthServers(health, server, most, self._take_report)

    def apply(self, *checks: HealthCheck, gone: tuple[HealthCheckKey, ...] = ()) -> None:
        changes: dict[HealthCheckKey, HealthCheck | None] = dict.fromkeys(gone)
        self.servers.apply(changes | {(check.service, check.family): check for check in checks})

    def _take_report(self, service: ServiceKey, message: str, holds: bool) -> None:
        (self.reports if holds else self.ended).append((service, message))

    def new_reports(self) -> list[tuple[ServiceKey, str]]:
        reports, self.reports = self.reports, []
        return reports


@pytest.fixture
def balancers(health: Health, server: HttpServer) -> Balancers:
    made = Balancers(health, server)
    made.servers.set_addresses(EVERYWHERE)
    return made


def check(port: int, count: int = 1, service: ServiceKey = WEB, family: Family = V4) -> HealthCheck:
    return HealthCheck(service, family, port, count)


def taken(port: int, address: str = "127.0.0.1") -> socket.socket:
    """Somebody else's listening socket."""
    return socket.create_server((address, port))


IFA_F_NODAD = 0x02


def add_addresses(*addresses: str) -> None:
    """More addresses of the loopback interface of the namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        for address in addresses:
            # Nobody else is asked whether it is his: for a while it could not be used.
            ip.addr("add", index=1, address=address, prefixlen=128 if ":" in address else 32, flags=IFA_F_NODAD)


def in_use(address: str, port: int) -> str:
    return f"no health checks: cannot listen on {address} port {port}: Address already in use"


def test_svc_78_to_80_what_a_load_balancer_is_told(balancers: Balancers, health: Health, clock: Clock) -> None:
    balancers.apply(check(32000, 3))
    reply = ask(32000, "/any/path?and=query")
    assert reply.status == 200
    assert reply.headers.items() >= {**JSON, WEIGHT: "3"}.items()
    web = {"namespace": "default", "name": "web"}
    assert reply.json == {"service": web, "localEndpoints": 3, "serviceProxyHealthy": True}
    head = ask(32000, method="HEAD")
    assert (head.status, head.body, head.headers[WEIGHT]) == (200, b"", "3")
    assert ask(32000, method="POST").status == 405
    health.queued()
    clock.seconds += 60
    reply = ask(32000)
    assert (reply.status, reply.headers[WEIGHT]) == (503, "3")
    assert reply.json == {"service": web, "localEndpoints": 3, "serviceProxyHealthy": False}
    health.synced()
    # Eligibility is not asked here.
    health.set_node(deleted())
    assert ask(32000).status == 200
    balancers.apply(check(32000, 0))
    reply = ask(32000)
    assert (reply.status, reply.headers[WEIGHT]) == (503, "0")
    assert reply.json == {"service": web, "localEndpoints": 0, "serviceProxyHealthy": True}
    assert balancers.reports == []


def test_each_service_and_family_for_itself(balancers: Balancers) -> None:
    balancers.apply(check(32000, 1), check(32000, 2, family=V6), check(32001, 0, SHOP))
    assert ask(32000).headers[WEIGHT] == "1"
    assert ask(32000, address="::1").headers[WEIGHT] == "2"
    assert (ask(32001).status, ask(32001).json["service"]) == (503, {"namespace": "prod", "name": "shop"})
    assert not is_open(32001, "::1")
    balancers.apply(gone=((WEB, V4),))
    assert not is_open(32000)
    assert ask(32000, address="::1").status == 200
    balancers.apply(gone=((WEB, V6), (SHOP, V4), (WEB, V4)))
    assert not is_open(32000, "::1")
    assert not is_open(32001)


def test_svc_82_renumbering_and_ports_that_change_hands(balancers: Balancers) -> None:
    balancers.apply(check(32000, 1), check(32001, 2, SHOP))
    balancers.apply(check(32002, 1))
    assert not is_open(32000)
    assert ask(32002).json["service"]["name"] == "web"
    balancers.apply(check(32001, 1), check(32002, 2, SHOP))
    assert ask(32001).json["service"]["name"] == "web"
    assert ask(32002).json["service"]["name"] == "shop"
    balancers.apply(check(32002, 5), gone=((SHOP, V4),))
    assert ask(32002).headers[WEIGHT] == "5"
    assert not is_open(32001)
    assert balancers.reports == []


@pytest.mark.parametrize("again", ["apply", "retry"])
def test_svc_82_a_port_that_is_taken_is_reported_once_and_tried_again(balancers: Balancers, again: str) -> None:
    def try_again() -> None:
        balancers.apply() if again == "apply" else balancers.servers.retry()

    with taken(32000):
        balancers.apply(check(32000, 1), check(32001, 1, SHOP))
        assert balancers.new_reports() == [(WEB, in_use("0.0.0.0", 32000))]  # noqa: S104
        assert ask(32001).status == 200
        try_again()
        balancers.apply(check(32000, 7))
        assert balancers.new_reports() == []
    try_again()
    assert ask(32000).headers[WEIGHT] == "7"
    balancers.apply(gone=((WEB, V4),))
    with taken(32000):
        balancers.apply(check(32000))
        assert len(balancers.new_reports()) == 1
        balancers.apply(check(32002))
    assert ask(32002).status == 200
    assert balancers.new_reports() == []


def test_a_failed_port_that_goes_is_forgotten(balancers: Balancers) -> None:
    with taken(32000):
        balancers.apply(check(32000))
        balancers.apply(gone=((WEB, V4),))
    balancers.apply()
    assert not is_open(32000)


def test_two_services_with_one_port(balancers: Balancers) -> None:
    balancers.apply(check(32000, 1, SHOP), check(32000, 2, WEB))
    assert ask(32000).json["service"]["name"] == "web"
    assert balancers.new_reports() == [(SHOP, in_use("0.0.0.0", 32000))]  # noqa: S104
    balancers.apply(gone=((WEB, V4),))
    assert ask(32000).json["service"]["name"] == "shop"


def test_svc_77_only_on_own_addresses_that_accept_node_ports(balancers: Balancers, namespace: NetworkNamespace) -> None:
    add_addresses("10.9.0.1", "10.9.0.2", "10.8.0.1", "fd00:9::1", "fd00:8::1")
    assert bindable_addresses(V4) == ("10.8.0.1", "10.9.0.1", "10.9.0.2", "127.0.0.1")
    assert bindable_addresses(V6) == ("::1", "fd00:8::1", "fd00:9::1")
    balancers.apply(check(32000), check(32000, family=V6))
    balancers.servers.set_addresses({V4: ("10.9.0.0/24", "192.0.2.0/24"), V6: ("fd00:9::/64",)})
    assert [is_open(32000, address) for address in ("10.9.0.1", "10.9.0.2", "10.8.0.1", "127.0.0.1")] == [
        True,
        True,
        False,
        False,
    ]
    assert [is_open(32000, address) for address in ("fd00:9::1", "fd00:8::1", "::1")] == [True, False, False]
    # One family alone; the other stays as it is.
    balancers.servers.set_addresses({V4: ("10.8.0.1/32",)})
    assert [is_open(32000, address) for address in ("10.9.0.1", "10.8.0.1", "fd00:9::1")] == [False, True, True]
    balancers.servers.set_addresses({V4: ("192.0.2.0/24",)})
    assert not is_open(32000, "10.8.0.1")
    balancers.servers.set_addresses(EVERYWHERE)
    assert is_open(32000)
    assert is_open(32000, "::1")
    assert balancers.reports == []


def test_addresses_that_come_and_go_are_followed(balancers: Balancers) -> None:
    balancers.servers.set_addresses({V4: ("10.9.0.0/24",)})
    balancers.apply(check(32000))
    add_addresses("10.9.0.1")
    assert not is_open(32000, "10.9.0.1")
    balancers.servers.retry()
    assert is_open(32000, "10.9.0.1")
    add_addresses("10.9.0.2")
    balancers.servers.retry()
    assert is_open(32000, "10.9.0.1")
    assert is_open(32000, "10.9.0.2")


def test_one_address_that_is_taken_closes_the_others(balancers: Balancers) -> None:
    add_addresses("10.9.0.1", "10.9.0.2")
    balancers.servers.set_addresses({V4: ("10.9.0.0/24",)})
    balancers.apply(check(32001, 1, SHOP))
    with taken(32000, "10.9.0.2"):
        balancers.apply(check(32000), check(32000, family=V6))
        assert balancers.new_reports() == [(WEB, in_use("10.9.0.2", 32000))]
        assert not is_open(32000, "10.9.0.1")
        assert is_open(32001, "10.9.0.1")
        assert is_open(32000, "::1")
    balancers.servers.retry()
    assert is_open(32000, "10.9.0.1")
    assert is_open(32000, "10.9.0.2")


def test_nothing_is_opened_before_the_addresses_are_known(health: Health, server: HttpServer) -> None:
    balancers = Balancers(health, server)
    balancers.apply(check(32000, 2), check(32000, 2, family=V6))
    balancers.servers.retry()
    assert not is_open(32000)
    balancers.servers.set_addresses({V4: (MATCH_ALL[V4],)})
    assert ask(32000).headers[WEIGHT] == "2"
    assert not is_open(32000, "::1")
    assert balancers.reports == []


def test_a_host_whose_ipv6_is_off_serves_ipv4(balancers: Balancers, namespace: NetworkNamespace) -> None:
    namespace.set_sysctl("ipv6/conf/all/disable_ipv6", 1)
    balancers.servers.set_addresses({V6: ("::1/128",)})
    balancers.apply(check(32000), check(32000, family=V6))
    assert ask(32000).status == 200
    assert balancers.reports == []


def test_from_objects_to_answers(health: Health, server: HttpServer) -> None:
    add_addresses("192.168.0.2")
    balancers = Balancers(health, server)
    balanced = service(kind="LoadBalancer", external="Local", health_check_port=32000)
    made = store(node(addresses=["192.168.0.2"]), balanced, endpoint_slice([endpoint("10.244.1.1", "node-1")]))

    def sync() -> None:
        changes = made.take_changes()
        balancers.servers.set_addresses(
            {of: node_settings.nodeport_addresses for of, node_settings in changes.node.items()}
        )
        balancers.servers.apply(changes.health_checks)

    sync()
    assert ask(32000, address="192.168.0.2").status == 200
    assert not is_open(32000)
    made.set_slice(endpoint_slice([draining("10.244.1.1", "node-1")]))
    sync()
    assert ask(32000, address="192.168.0.2").status == 503
    made.remove_service("default", "web")
    sync()
    assert not is_open(32000, "192.168.0.2")


def test_more_ports_than_there_are_descriptors_for_are_reported_and_opened_when_there_is_room(
    health: Health, server: HttpServer
) -> None:
    balancers = Balancers(health, server, most=2)
    balancers.servers.set_addresses(EVERYWHERE)
    services = [("default", f"web-{number}") for number in range(3)]
    balancers.apply(*(check(30000 + number, service=service) for number, service in enumerate(services)))
    assert [is_open(30000 + number) for number in range(3)] == [True, True, False]
    assert balancers.new_reports() == [
        (
            services[2],
            "no health checks: cannot listen on 0.0.0.0 port 30002: there are 2 such listeners, and the limit of open "
            "files leaves room for no more",
        )
    ]
    balancers.apply(gone=((services[0], V4),))
    assert [is_open(30000 + number) for number in range(3)] == [False, True, True]
    assert len(balancers.ended) == 1


def test_hundreds_of_new_ports_are_opened_in_turns(balancers: Balancers) -> None:
    """The thread that programs Services opens them."""
    checks = [check(20000 + number, service=("default", f"web-{number:03}")) for number in range(120)]
    balancers.apply(*checks)
    assert (is_open(20000), is_open(20119)) == (True, False)
    turns = 0
    while balancers.servers.has_more:
        balancers.servers.proceed()
        turns += 1
    assert turns == 2
    assert all(is_open(one.port) for one in checks)
    assert balancers.reports == []


def test_an_address_that_was_taken_is_told_when_it_is_listened_on(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    address = SocketAddress("127.0.0.1", 10299)
    with caplog.at_level(logging.INFO), socket.create_server(tuple(address)) as taken:
        pages = Pages(server, [Page("metricsBindAddress", address, _nothing)], must_listen=False)
        pages.act(0.0)
        taken.close()
        pages.act(0.0)
    assert [record.getMessage() for record in caplog.records] == [
        "metricsBindAddress: cannot listen on 127.0.0.1:10299: Address already in use; trying again every 5 s",
        "metricsBindAddress: listening on 127.0.0.1:10299 now",
    ]
    assert pages.wait(0.0) is None


def _nothing(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    del environ
    return respond_text(start_response, HTTPStatus.OK)
