"""Which Frontends a change concerns, and whose flows are stale; without a kernel."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from msgspec.structs import replace

from rulegen.config import Family
from rulegen.conntrack.cleaner import Cleaned, Cleaner
from rulegen.conntrack.frontends import Flow, FrontendKey, Judge, UdpFrontends
from rulegen.conntrack.table import ConnectionTable
from rulegen.errors import HostError
from rulegen.kube.objects import Endpoint
from rulegen.services.store import Store
from tests.builders import (
    CONFIGURATION,
    Item,
    draining,
    endpoint,
    endpoint_port,
    endpoint_slice,
    node,
    port,
    service,
    store,
)

VIP, EXTERNAL, NODE = "10.96.0.10", "203.0.113.53", "192.168.1.10"
FIRST, SECOND, THIRD = "10.244.1.1", "10.244.1.2", "10.244.1.3"
CLUSTER_IP = FrontendKey(Family.IPV4, VIP, 53)
EXTERNAL_IP = FrontendKey(Family.IPV4, EXTERNAL, 53)
OTHER_OWN = "198.51.100.10"
NODE_PORT = FrontendKey(Family.IPV4, "", 30053)
ALL = {CLUSTER_IP, EXTERNAL_IP, NODE_PORT}

PORTS = [port(53, "dns", "UDP", 30053), port(53, "dns-tcp", node_port=30053)]
SERVICE = service("dns", [VIP], PORTS, kind="NodePort", external_ips=[EXTERNAL], created="2026-01-01T00:00:00Z")


def endpoints(*items: Endpoint | str, name: str = "dns") -> Item:
    ports = [endpoint_port(5353, "dns", "UDP"), endpoint_port(5353, "dns-tcp")]
    return endpoint_slice(items, service_name=name, name=f"{name}-1", ports=ports)


class Followed:
    """A Cluster and the UDP Frontends in it."""

    def __init__(self, *items: Item) -> None:
        self.store = store(node(), *items)
        self.frontends = UdpFrontends()
        self.first = self.take()

    def take(self) -> set[FrontendKey]:
        return self.frontends.replace(self.store.take_changes().service_ports)

    def set(self, *items: Item) -> set[FrontendKey]:
        """Which Frontends the changed objects concern."""
        self.store.set_objects(items)
        return self.take()

    def is_stale(
        self,
        destination: str,
        number: int,
        reply: str,
        concerned: Collection[FrontendKey] = ALL,
        *,
        untranslated: bool = False,
    ) -> bool:
        flow = Flow(Family.IPV4, destination, number, reply, number if untranslated else 5353, not untranslated)
        judge = Judge(
            self.frontends,
            concerned,
            lambda _, address: address == NODE,
            lambda _, address: address in {NODE, OTHER_OWN},
        )
        return judge.is_stale(flow)


def test_all_frontends_are_new_at_first() -> None:
    assert Followed(SERVICE, endpoints(FIRST)).first == ALL


def test_a_service_without_udp_concerns_nothing() -> None:
    made = Followed(service(), endpoint_slice([FIRST]))
    assert made.first == set()
    assert list(made.frontends.all()) == []


@pytest.mark.parametrize(
    ("before", "after", "concerned"),
    [
        ([FIRST, SECOND], [FIRST], ALL),
        ([FIRST, SECOND], [FIRST, THIRD], ALL),
        ([FIRST], [], ALL),
        ([], [FIRST], ALL),
        ([endpoint(FIRST, ready=False)], [FIRST], ALL),
        ([FIRST], [FIRST, SECOND], set()),
        ([FIRST, SECOND], [SECOND, FIRST], set()),
        ([FIRST, SECOND], [FIRST, draining(SECOND)], set()),
        ([FIRST, SECOND], [FIRST, endpoint(SECOND, ready=False)], set()),
        ([FIRST, SECOND], [FIRST, endpoint(SECOND, ready=False, serving=False)], ALL),
        ([FIRST, SECOND], [FIRST, endpoint(SECOND, zones=["a"])], set()),
    ],
    ids=[
        "one gone", "one replaced", "the last gone", "the first", "the first that serves new flows", "one more",
        "order", "draining", "not ready", "not serving", "hints",
    ],
)  # fmt: skip
def test_a_frontend_is_concerned_when_endpoints_go_or_the_first_one_comes(
    before: list[Endpoint | str], after: list[Endpoint | str], concerned: set[FrontendKey]
) -> None:
    assert Followed(SERVICE, endpoints(*before)).set(endpoints(*after)) == concerned


def test_only_the_frontends_that_come_or_go_are_concerned() -> None:
    made = Followed(SERVICE, endpoints(FIRST))
    assert made.set(replace(SERVICE, spec=replace(SERVICE.spec, external_ips=[]))) == {EXTERNAL_IP}
    assert made.set(SERVICE) == {EXTERNAL_IP}
    without_node_port = replace(SERVICE.spec, ports=[port(53, "dns", "UDP")])
    assert made.set(replace(SERVICE, spec=without_node_port)) == {NODE_PORT}
    assert made.set(replace(SERVICE, spec=replace(without_node_port, session_affinity="ClientIP"))) == set()
    made.store.remove_service("default", "dns")
    assert made.take() == {CLUSTER_IP, EXTERNAL_IP}
    assert list(made.frontends.all()) == []


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_frontend_that_moves_belongs_to_its_new_owner(names: tuple[str, str]) -> None:
    older, newer = names
    ports = [port(53, "dns", "UDP")]
    items = [
        service(name, [f"10.96.0.{number}"], ports, external_ips=[EXTERNAL], created=f"2026-01-0{number}T00:00:00Z")
        for number, name in enumerate(names, 1)
    ]
    made = Followed(*items, endpoints(FIRST, name=older), endpoints(SECOND, name=newer))
    assert not made.is_stale(EXTERNAL, 53, FIRST)
    made.store.remove_service("default", older)
    assert made.take() == {FrontendKey(Family.IPV4, "10.96.0.1", 53), EXTERNAL_IP}
    assert made.is_stale(EXTERNAL, 53, FIRST)
    assert not made.is_stale(EXTERNAL, 53, SECOND)
    made.set(items[0])
    assert not made.is_stale(EXTERNAL, 53, FIRST)


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_new_owner_may_come_before_the_old_one_gives_up(is_gone: bool) -> None:
    """So it is where the old one's change is refused at first."""
    old = Followed(SERVICE, endpoints(FIRST))
    old.store.set_service(replace(SERVICE, spec=replace(SERVICE.spec, external_ips=[])))
    gives_up = old.store.take_changes().service_ports
    heir = service("heir", ["10.96.0.77"], PORTS[:1], external_ips=[EXTERNAL])
    takes = store(node(), heir, endpoints(SECOND, name="heir")).take_changes().service_ports
    old.frontends.replace(takes)
    if is_gone:
        old.frontends.replace(dict.fromkeys(takes))
    assert EXTERNAL_IP in old.frontends.replace(gives_up)
    assert old.is_stale(EXTERNAL, 53, SECOND) is is_gone
    assert old.is_stale(EXTERNAL, 53, FIRST)


def test_svc_74_who_answers_must_be_an_endpoint() -> None:
    made = Followed(SERVICE, endpoints(FIRST, endpoint(SECOND, ready=False)))
    for destination, number in ((VIP, 53), (EXTERNAL, 53), (NODE, 30053)):
        assert not made.is_stale(destination, number, FIRST)
        assert not made.is_stale(destination, number, SECOND)
        assert made.is_stale(destination, number, THIRD)
        assert made.is_stale(destination, number, destination, untranslated=True)
        assert not made.is_stale(destination, number, THIRD, concerned=())
    assert not made.is_stale("192.168.1.11", 30053, THIRD)
    assert not made.is_stale(VIP, 54, THIRD)


def test_of_a_frontend_that_is_gone_only_translated_flows_are_stale() -> None:
    made = Followed(SERVICE, endpoints(FIRST))
    made.store.remove_service("default", "dns")
    made.take()
    for destination, number in ((VIP, 53), (EXTERNAL, 53), (NODE, 30053)):
        assert made.is_stale(destination, number, FIRST)
        assert not made.is_stale(destination, number, destination, untranslated=True)
    assert not made.is_stale("192.168.1.11", 30053, FIRST)


def test_svc_64_an_external_ip_that_is_the_nodes_own_beats_a_node_port() -> None:
    other = service("other", ["10.96.0.11"], [port(30053, "dns", "UDP")], external_ips=[NODE])
    made = Followed(SERVICE, other, endpoints(FIRST), endpoints(SECOND, name="other"))
    concerned = {NODE_PORT}
    assert not made.is_stale(NODE, 30053, SECOND, concerned)
    assert not made.is_stale(NODE, 30053, THIRD, concerned)
    assert made.is_stale(NODE, 30053, THIRD, {FrontendKey(Family.IPV4, NODE, 30053)})
    made.set(endpoints(name="other"))
    assert not made.is_stale(NODE, 30053, FIRST, concerned)
    assert made.is_stale(NODE, 30053, SECOND, concerned)


class Opened:
    """Counts how often the table was to be opened, which always fails."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> ConnectionTable:
        self.times += 1
        raise HostError("no privileges")


@pytest.fixture
def following() -> tuple[Store, Cleaner, Opened]:
    opened = Opened()
    return Store(CONFIGURATION), Cleaner(opened), opened


def noted(store_: Store, cleaner: Cleaner, *items: Item) -> bool:
    store_.set_objects(items)
    cleaner.note(store_.take_changes())
    return cleaner.is_pending


def test_nothing_is_opened_when_nothing_is_pending(following: tuple[Store, Cleaner, Opened]) -> None:
    store_, cleaner, opened = following
    assert not noted(store_, cleaner, node(), service(), endpoint_slice([FIRST]))
    cleaner.note_all()
    assert cleaner.clean()[:3] == Cleaned(0, 0, {}, 0.0)[:3]
    assert opened.times == 0


def test_what_fails_stays_pending(following: tuple[Store, Cleaner, Opened]) -> None:
    store_, cleaner, opened = following
    assert noted(store_, cleaner, node(), SERVICE, endpoints(FIRST))
    for times in (1, 2):
        with pytest.raises(HostError, match="no privileges"):
            cleaner.clean()
        assert cleaner.is_pending
        assert opened.times == times


def test_other_addresses_for_node_ports_concern_all_node_ports(following: tuple[Store, Cleaner, Opened]) -> None:
    store_, cleaner, _ = following
    noted(store_, cleaner, node(), SERVICE, endpoints(FIRST))
    cleaner._pending.clear()
    assert not noted(store_, cleaner, node(zone="a"))
    assert noted(store_, cleaner, node(addresses=["192.168.1.20"]))
    assert cleaner._pending == {NODE_PORT}
