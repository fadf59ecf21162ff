"""Who owns a Frontend (SVC-14, D2), and that a Cluster's memory does not show: order and history change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from random import Random
from typing import TypeAlias, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from rulegen.config import Family
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR
from rulegen.reference import Finding, ObjectReference
from rulegen.services.model import (
    HealthCheck,
    HealthCheckKey,
    NodeSettings,
    Reason,
    ServicePort,
    ServicePortKey,
)
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
    service_cidr,
    store,
)

V4 = Family.IPV4
Key = TypeVar("Key")
Told = TypeVar("Told")
OLD, NEW = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"


def owners(made: Store) -> dict[str, str]:
    """The owner's name of each address, or of `:port` for a NodePort."""
    return {
        frontend.address or f":{frontend.port}": service_port.name.name
        for service_port in made.service_ports()
        for frontend in service_port.frontends
    }


def duplicates(made: Store) -> list[tuple[str, str]]:
    return [
        (finding.subject, finding.message) for finding in made.findings() if finding.reason is Reason.DUPLICATE_FRONTEND
    ]


def test_d2_the_oldest_service_owns_and_the_other_is_reported() -> None:
    items = [
        service("aaa", ["10.96.0.1"], external_ips=["192.0.2.1"], created=NEW),
        service("zzz", ["10.96.0.2"], external_ips=["192.0.2.1"], created=OLD),
    ]
    for order in permutations(items):
        made = store(node(), *order)
        assert owners(made) == {"10.96.0.1": "aaa", "10.96.0.2": "zzz", "192.0.2.1": "zzz"}
        assert duplicates(made) == [
            ("Service default/aaa", "externalIP 192.0.2.1 port 80/TCP belongs to default/zzz (D2)"),
        ]


def test_d2_equal_age_goes_by_name_and_unknown_age_is_newest() -> None:
    both = [service(name, [f"10.96.0.{n}"], vips=["192.0.2.1"]) for n, name in enumerate(["b", "a"], 1)]
    assert owners(store(*both))["192.0.2.1"] == "a"
    dated = service("z", ["10.96.0.9"], vips=["192.0.2.1"], created=NEW)
    assert owners(store(*both, dated))["192.0.2.1"] == "z"


def test_d2_ages_are_moments_not_text() -> None:
    early = service("z", ["10.96.0.1"], vips=["192.0.2.1"], created="2024-06-01T01:00:00+02:00")
    late = service("a", ["10.96.0.2"], vips=["192.0.2.1"], created="2024-06-01T00:30:00Z")
    assert owners(store(early, late))["192.0.2.1"] == "z"


def test_d2_a_moment_without_offset_is_unknown() -> None:
    vague = service("a", ["10.96.0.1"], vips=["192.0.2.1"], created="2020-01-01T00:00:00")
    assert owners(store(vague, service("z", ["10.96.0.2"], vips=["192.0.2.1"], created=NEW)))["192.0.2.1"] == "z"


def test_d2_an_older_service_that_arrives_later_takes_the_frontend_over() -> None:
    made = store(node(), service("a", ["10.96.0.1"], vips=["192.0.2.1"], created=NEW))
    made.take_changes()
    made.set_service(service("b", ["10.96.0.2"], vips=["192.0.2.1"], created=OLD))
    assert len(made.take_changes().service_ports) == 2
    assert owners(made)["192.0.2.1"] == "b"
    assert [subject for subject, _ in duplicates(made)] == ["Service default/a"]


def test_d2_a_cluster_ip_beats_an_older_external_ip_or_vip() -> None:
    old = service(
        "a", ["10.96.0.1"], external_ips=["10.96.0.2"], vips=["10.96.0.2"], ranges=["10.0.0.0/8"], created=OLD
    )
    made = store(old, service("b", ["10.96.0.2"], created=NEW))
    assert owners(made) == {"10.96.0.1": "a", "10.96.0.2": "b"}


def test_d2_port_protocol_and_family_tell_frontends_apart() -> None:
    made = store(
        node(),
        service("a", ["10.96.0.1"], [port(80)], external_ips=["192.0.2.1"]),
        service("b", ["10.96.0.2"], [port(81)], external_ips=["192.0.2.1"]),
        service("c", ["10.96.0.3"], [port(80, protocol="UDP")], external_ips=["192.0.2.1"]),
        service("d", ["10.96.0.4"], [port(80, node_port=30000)]),
        service("e", ["fd00::4"], [port(80, node_port=30000)]),
    )
    assert duplicates(made) == []
    assert (
        sum(
            frontend.address in ("192.0.2.1", "")
            for service_port in made.service_ports()
            for frontend in service_port.frontends
        )
        == 5
    )


def test_d2_node_ports_have_owners_too_and_the_next_one_takes_over() -> None:
    made = store(
        node(),
        service("a", ["10.96.0.1"], [port(node_port=30000)], created=OLD),
        service("b", ["10.96.0.2"], [port(node_port=30000)], created=NEW),
    )
    assert owners(made)[":30000"] == "a"
    made.take_changes()
    made.remove_service("default", "a")
    changes = made.take_changes().service_ports
    assert {key[0].name: service_port is None for key, service_port in changes.items()} == {"a": True, "b": False}
    assert owners(made)[":30000"] == "b"
    assert duplicates(made) == []


def test_a_node_port_moves_from_one_service_to_another_in_one_go() -> None:
    made = store(
        service("a", ["10.96.0.1"], [port(node_port=30000)]), service("b", ["10.96.0.2"], [port(node_port=30001)])
    )
    made.take_changes()
    made.set_service(service("a", ["10.96.0.1"], [port()]))
    made.set_service(service("b", ["10.96.0.2"], [port(node_port=30000)]))
    assert len(made.take_changes().service_ports) == 2
    assert owners(made)[":30000"] == "b"


def test_d2_two_ports_of_one_service_with_one_number() -> None:
    made = store(node(), service(ports=[port(80, "b"), port(80, "a")]))
    (found,) = made.service_ports()
    assert found.name.port == "a"
    assert len(duplicates(made)) == 1
    made.remove_service("default", "web")
    assert made.service_ports() == []
    assert duplicates(made) == []


def test_a_service_with_nothing_left_has_no_service_port() -> None:
    made = store(service("a", ["10.96.0.1"], created=OLD), service("b", ["10.96.0.1"], created=NEW))
    assert [service_port.name.name for service_port in made.service_ports()] == ["a"]


def test_a_service_that_changes_type() -> None:
    made = store(node(), service(kind="NodePort", ports=[port(node_port=30000)]))
    made.take_changes()
    made.set_service(service(kind="ExternalName"))
    assert list(made.take_changes().service_ports.values()) == [None]
    made.set_service(service())
    (found,) = made.take_changes().service_ports.values()
    assert found is not None
    assert len(found.frontends) == 1


def test_what_was_taken_is_not_given_again_and_what_reverted_never() -> None:
    made = store(node(), service(), endpoint_slice(["10.244.1.1"]))
    assert len(made.take_changes().service_ports) == 1
    assert not any(made.take_changes())
    made.set_slice(endpoint_slice(["10.244.1.2"]))
    assert made.service_ports()[0].cluster_endpoints[0].address == "10.244.1.2"
    made.set_slice(endpoint_slice(["10.244.1.1"]))
    made.set_service(service(annotations={"irrelevant": "x"}))
    assert not any(made.take_changes())


def test_only_what_the_change_concerns_is_compiled() -> None:
    made = store(node(), *(service(f"s{n}", [f"10.96.1.{n}"]) for n in range(50)))
    before = {service_port.name: service_port for service_port in made.service_ports()}
    made.set_slice(endpoint_slice(["10.244.1.1"], service_name="s7"))
    changed = [service_port for service_port in made.service_ports() if before[service_port.name] is not service_port]
    assert [service_port.name.name for service_port in changed] == ["s7"]


# What was found, as it changes.


def reasons_taken(made: Store) -> dict[str, list[str]]:
    return {
        name: [found.reason for found in findings] for (kind, name), findings in taken(made).items() if kind != "Node"
    }


def taken(made: Store) -> dict[tuple[str, str], tuple[Finding, ...]]:
    """Of whom something else is found than when it was taken last, by kind and name."""
    made.take_changes()
    return {(told.kind, told.name): change.after or () for told, change in made.findings_of.take().items()}


def test_findings_are_told_with_those_of_the_slices_when_they_differ() -> None:
    malformed = {"rulegen.io/weight": "many"}
    made = store(
        node(),
        service("a", annotations={"rulegen.io/weights": "?"}),
        service("b", ["10.96.0.11"]),
        endpoint_slice(["10.244.1.1"], service_name="a", annotations=malformed),
    )
    (told,) = taken(made).values()
    assert list(told) == [found for found in made.findings() if "default/" in found.subject]
    assert {found.subject for found in told} == {"Service default/a", "EndpointSlice default/web-1"}
    made.set_slice(endpoint_slice(["10.244.1.1"], service_name="b", annotations=malformed))
    assert reasons_taken(made) == {"a": [Reason.MALFORMED_WEIGHT], "b": [Reason.MALFORMED_WEIGHT]}
    made.set_slice(endpoint_slice(["10.244.1.2"], service_name="b", annotations=malformed))
    assert reasons_taken(made) == {}
    made.remove_slice("default", "web-1")
    made.set_service(service("a"))
    assert reasons_taken(made) == {"a": [], "b": []}
    assert reasons_taken(made) == {}


def test_a_service_that_is_gone_has_no_findings_and_one_that_comes_has_those_of_its_slices() -> None:
    made = store(node(), endpoint_slice(["10.244.1.1", "fd00::1"]))
    assert reasons_taken(made) == {}
    made.set_service(service())
    assert reasons_taken(made) == {"web": [Reason.UNUSABLE_ADDRESS]}
    assert made.service("default", "web") == service()
    made.set_service(service(kind="ExternalName"))
    assert made.service("default", "web") is None
    assert reasons_taken(made) == {"web": []}
    made.set_service(service())
    made.remove_service("default", "web")
    assert reasons_taken(made) == {}


def test_d2_who_takes_a_frontend_changes_the_findings_of_the_other() -> None:
    made = store(node(), service("a", ["10.96.0.1"], vips=["192.0.2.1"], created=NEW))
    assert reasons_taken(made) == {}
    made.set_service(service("b", ["10.96.0.2"], vips=["192.0.2.1"], created=OLD))
    assert reasons_taken(made) == {"a": [Reason.DUPLICATE_FRONTEND]}
    made.remove_service("default", "b")
    assert reasons_taken(made) == {"a": []}


def test_findings_about_the_node_are_told_apart() -> None:
    made = store(service())
    key = ("Node", CONFIGURATION.node_name)
    first = taken(made)[key]
    assert [found.reason for found in first] == [Reason.UNKNOWN_NODE]
    assert key not in taken(made)
    made.set_service_cidr(service_cidr("bad"))
    second = taken(made)[key]
    assert [found.reason for found in second] == [Reason.UNKNOWN_NODE, Reason.UNUSABLE_RANGE]
    made.set_node(node())
    made.remove_service_cidr("kubernetes")
    assert taken(made) == {key: ()}


NAMES = ("a", "b", "c")
ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "10.96.0.1", "", "bad")


@st.composite
def services(draw: DrawFn) -> Service:
    cluster_ips = draw(st.sampled_from([["10.96.0.1"], ["10.96.0.2"], ["fd00::1"], ["10.96.0.3", "fd00::3"], ["None"]]))
    ports = draw(
        st.lists(
            st.builds(
                port,
                st.sampled_from([80, 81]),
                st.sampled_from(["", "http"]),
                st.sampled_from(["TCP", "UDP"]),
                st.sampled_from([0, 30000]),
            ),
            max_size=2,
        )
    )
    return service(
        draw(st.sampled_from(NAMES)),
        cluster_ips,
        ports,
        kind=draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
        external_ips=draw(st.lists(st.sampled_from(ADDRESSES), max_size=2)),
        vips=draw(st.lists(st.sampled_from(ADDRESSES), max_size=2)),
        internal=draw(st.sampled_from(["Cluster", "Local"])),
        external=draw(st.sampled_from(["Cluster", "Local"])),
        health_check_port=draw(st.sampled_from([0, 32000])),
        ranges=draw(st.lists(st.sampled_from(["192.168.0.0/16", "10.0.0.0/8", "fd00::/8", "?"]), max_size=2)),
        affinity=draw(st.sampled_from([None, 60])),
        created=draw(st.sampled_from([None, OLD, NEW])),
        annotations=draw(
            st.sampled_from([None, {"rulegen.io/weights": "10.244.1.*=0,*=2"}, {"rulegen.io/weights": "?"}])
        ),
    )


@st.composite
def slices(draw: DrawFn) -> EndpointSlice:
    nodes = st.sampled_from([None, "node-1", "node-2"])
    family = draw(st.sampled_from(["IPv4", "IPv6"]))
    prefix = "10.244.1." if family == "IPv4" else "fd00:10:244::"
    texts = st.sampled_from([f"{prefix}1", f"{prefix}2"])
    hints = st.sampled_from([(), ("z1",), ("z2",)])
    items = st.one_of(
        st.builds(endpoint, texts, nodes, ready=st.sampled_from([True, False]), zones=hints),
        st.builds(draining, texts, nodes),
    )
    return endpoint_slice(
        draw(st.lists(items, max_size=3)),
        service_name=draw(st.sampled_from([*NAMES, ""])),
        name=draw(st.sampled_from(["s1", "s2", "s3"])),
        family=family,
        ports=[endpoint_port(8080, draw(st.sampled_from(["", "http"])), draw(st.sampled_from(["TCP", "UDP"])))],
        annotations=draw(st.sampled_from([None, {"rulegen.io/weight": "3"}])),
    )


NODES = st.sampled_from(
    [node(zone="z1"), node(zone="z2"), node(addresses=["10.9.9.9", "fd00::9"]), node("node-2", zone="z1")]
)
CIDRS = st.builds(service_cidr, st.sampled_from(["10.96.0.0/16", "fd00::/108"]), name=st.sampled_from(NAMES))

Step: TypeAlias = Item | tuple[str, str]
REMOVALS = st.tuples(st.sampled_from(["service", "slice", "cidr"]), st.sampled_from([*NAMES, "s1", "s2", "s3"]))


def take_step(made: Store, step: Step, held: dict[tuple[str, str], Item]) -> None:
    """Does a step, and keeps `held` at what the cluster then holds."""
    if not isinstance(step, tuple):
        kind = {Service: "service", EndpointSlice: "slice", ServiceCIDR: "cidr", Node: "node"}[type(step)]
        held.pop((kind, step.metadata.name), None)
        held[kind, step.metadata.name] = step
        made.set_objects([step])
        return
    held.pop(step, None)
    kind, name = step
    if kind == "service":
        made.remove_service("default", name)
    elif kind == "slice":
        made.remove_slice("default", name)
    else:
        made.remove_service_cidr(name)


class Replayed:
    """What somebody knows who is told of changes only."""

    def __init__(self) -> None:
        self.service_ports: dict[ServicePortKey, ServicePort] = {}
        self.node: dict[Family, NodeSettings] = {}
        self.checks: dict[HealthCheckKey, HealthCheck] = {}
        self.findings: dict[ObjectReference, tuple[Finding, ...]] = {}

    def take(self, made: Store) -> None:
        changes = made.take_changes()
        _replay(self.service_ports, changes.service_ports)
        _replay(self.checks, changes.health_checks)
        findings = made.findings_of.take()
        assert all(self.findings.get(key) == change.before for key, change in findings.items())
        _replay(self.findings, {key: change.after for key, change in findings.items()})
        self.node.update(changes.node)


def _replay(known: dict[Key, Told], changes: Mapping[Key, Told | None]) -> None:
    """None: it is gone. What is told differs from what was known."""
    for key, told in changes.items():
        assert known.get(key) != told
        if told is None:
            del known[key]
        else:
            known[key] = told


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.one_of(services(), slices(), NODES, CIDRS, REMOVALS), st.booleans()), max_size=25),
    st.randoms(),
)
def test_history_and_order_do_not_show_and_changes_replay_to_the_service_ports(
    steps: list[tuple[Step, bool]], random: Random
) -> None:
    made = Store(CONFIGURATION)
    held: dict[tuple[str, str], Item] = {}
    replayed = Replayed()
    for step, take in steps:
        take_step(made, step, held)
        if take:
            replayed.take(made)
    replayed.take(made)
    shuffled = list(held.values())
    random.shuffle(shuffled)
    fresh = store(*shuffled)
    assert made.service_ports() == fresh.service_ports()
    assert made.findings() == fresh.findings()
    taken = fresh.take_changes()
    assert replayed.findings == {key: change.after for key, change in fresh.findings_of.take().items()}
    assert (
        sorted(replayed.service_ports.values(), key=lambda service_port: (service_port.name, service_port.family.value))
        == fresh.service_ports()
    )
    assert replayed.node == {family: fresh.node_settings(family) for family in CONFIGURATION.families}
    assert replayed.checks == taken.health_checks
    keys = [
        (service_port.family, frontend.address, frontend.port, service_port.name.protocol)
        for service_port in fresh.service_ports()
        for frontend in service_port.frontends
    ]
    assert len(keys) == len(set(keys))
