"""EndpointSlices to the lists of a ServicePort: SVC-2, SVC-17 to SVC-35, and D6."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from msgspec.structs import replace

from rulegen.config import Family
from rulegen.kube.objects import Endpoint, EndpointSlice, Service
from rulegen.services.model import Backend, Reason, ServicePort, Verdict
from rulegen.services.store import Store
from tests.builders import (
    CONFIGURATION,
    draining,
    endpoint,
    endpoint_port,
    endpoint_slice,
    node,
    port,
    service,
    store,
)

BOTH_LISTS = service(kind="NodePort", external="Local", ports=[port(node_port=30000)])


def service_port(*items: EndpointSlice, of: Service = BOTH_LISTS, zone: str | None = None) -> ServicePort:
    (found,) = store(node(zone=zone), of, *items).service_ports()
    return found


def addresses(backends: Sequence[Backend]) -> list[str]:
    return [str(backend) for backend in backends]


def lists(*endpoints: Endpoint, zone: str | None = None) -> tuple[str, str]:
    """The last parts of the addresses in the Cluster and in the Local list."""
    found = service_port(endpoint_slice(endpoints), zone=zone)
    cluster_list, local_list = (
        " ".join(backend.address.rpartition(".")[2] for backend in backends)
        for backends in (found.cluster_endpoints, found.local_endpoints)
    )
    return cluster_list, local_list


def skipped(made: Store) -> bool:
    (found,) = made.service_ports()
    return found.cluster_endpoints == () and found.frontends[0].verdict is Verdict.REJECT


def test_svc_2_and_17_slices_that_do_not_count() -> None:
    good = endpoint_slice(["10.244.1.1"])
    headless = {"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""}
    assert skipped(store(service(), replace(good, address_type="FQDN")))
    assert skipped(store(service(), replace(good, metadata=replace(good.metadata, labels=headless))))
    assert skipped(store(service(), replace(good, metadata=replace(good.metadata, labels=None))))
    unnamed = replace(good.metadata, labels={"kubernetes.io/service-name": ""})
    assert skipped(store(service(), replace(good, metadata=unnamed)))
    assert skipped(store(service(), replace(good, metadata=replace(good.metadata, namespace="other"))))


def test_svc_17_each_family_has_its_own_slices() -> None:
    made = store(
        service(cluster_ips=["10.96.0.1", "fd00::1"]),
        endpoint_slice(["10.244.1.1"]),
        endpoint_slice(["fd00:10:244::1"], name="web-6", family="IPv6"),
    )
    assert {found.family: addresses(found.cluster_endpoints) for found in made.service_ports()} == {
        Family.IPV4: ["10.244.1.1:8080"],
        Family.IPV6: ["[fd00:10:244::1]:8080"],
    }


def test_svc_18_joined_by_port_name_and_protocol_with_the_slices_number() -> None:
    item = service(ports=[port(80, "http"), port(53, "dns"), port(53, "dns", "UDP")])
    made = store(
        item,
        endpoint_slice(["10.244.1.1"], ports=[endpoint_port(8080, "http"), endpoint_port(5353, "dns", "UDP")]),
        endpoint_slice(["10.244.1.2"], name="web-2", ports=[endpoint_port(9090, "http"), endpoint_port(9999, "")]),
    )
    assert {
        (found.name.port, found.name.protocol): addresses(found.cluster_endpoints) for found in made.service_ports()
    } == {
        ("http", "TCP"): ["10.244.1.1:8080", "10.244.1.2:9090"],
        ("dns", "TCP"): [],
        ("dns", "UDP"): ["10.244.1.1:5353"],
    }


@pytest.mark.parametrize("bad", [endpoint_port(None), endpoint_port(0), endpoint_port(name=None)])
def test_svc_18_ports_without_name_or_number_are_skipped_and_reported(bad: object) -> None:
    made = store(node(), service(), endpoint_slice(["10.244.1.1"], ports=[bad]))  # type: ignore[list-item]
    assert skipped(made)
    assert [finding.reason for finding in made.findings()] == [Reason.SKIPPED_PORT]


def test_svc_19_only_the_first_address_and_canonical() -> None:
    first = replace(endpoint("010.244.001.1"), addresses=["010.244.001.1", "10.244.1.2"])
    assert addresses(service_port(endpoint_slice([first])).cluster_endpoints) == ["10.244.1.1:8080"]


@pytest.mark.parametrize("bad", [replace(endpoint("x"), addresses=[]), endpoint("web"), endpoint("fd00::1")])
def test_svc_19_unusable_addresses_are_skipped_and_reported(bad: Endpoint) -> None:
    made = store(node(), service(), endpoint_slice([bad]))
    assert skipped(made)
    assert [(finding.subject, finding.reason) for finding in made.findings()] == [
        ("EndpointSlice default/web-1", Reason.UNUSABLE_ADDRESS)
    ]


def test_svc_20_local_is_the_own_node_only() -> None:
    items = [endpoint("10.244.1.1", "node-1"), endpoint("10.244.1.2", "node-2"), endpoint("10.244.1.3")]
    assert lists(*items) == ("1 2 3", "1")


def test_svc_20_nothing_is_local_to_a_node_without_a_name() -> None:
    made = store(
        BOTH_LISTS, endpoint_slice([endpoint("10.244.1.1", "")]), configuration=replace(CONFIGURATION, node_name="")
    )
    assert made.service_ports()[0].local_endpoints == ()


@pytest.mark.parametrize(
    ("conditions", "used"),
    [
        ({}, True),
        ({"ready": None, "serving": False, "terminating": True}, True),
        ({"ready": True, "serving": False}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": False}, False),
        ({"ready": False, "serving": False, "terminating": True}, False),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": None, "terminating": True}, True),
        ({"ready": False, "serving": True, "terminating": None}, False),
    ],
)
def test_svc_21_and_28_conditions(conditions: dict[str, bool | None], used: bool) -> None:
    found = service_port(endpoint_slice([endpoint("10.244.1.1", "node-1", **conditions)]))  # type: ignore[arg-type]
    assert (
        addresses(found.cluster_endpoints) == addresses(found.local_endpoints) == (["10.244.1.1:8080"] if used else [])
    )
    expected = Verdict.BALANCE if used else Verdict.REJECT
    assert {frontend.verdict for frontend in found.frontends} == {expected}


def test_svc_22_merged_sorted_as_text_same_address_with_two_ports() -> None:
    found = service_port(
        endpoint_slice(["10.244.1.10", "10.244.1.9"]),
        endpoint_slice(["10.244.1.10"], name="web-2", ports=[endpoint_port(9090)]),
    )
    assert addresses(found.cluster_endpoints) == ["10.244.1.10:8080", "10.244.1.10:9090", "10.244.1.9:8080"]


def test_svc_22_running_beats_terminating_in_any_order() -> None:
    slices = [
        endpoint_slice([draining("10.244.1.1")], name="web-1"),
        endpoint_slice([endpoint("10.244.1.1", "node-1")], name="web-2"),
        endpoint_slice([draining("10.244.1.1")], name="web-3"),
    ]
    expected = (Backend("10.244.1.1", 8080, local=True),)
    assert {service_port(*order).local_endpoints for order in permutations(slices)} == {expected}


def test_svc_22_running_duplicates_the_slice_with_the_last_name_wins_in_any_order() -> None:
    slices = [
        endpoint_slice([endpoint("10.244.1.1", "node-1")], name="web-1"),
        endpoint_slice([endpoint("10.244.1.1", "node-2")], name="web-2"),
    ]
    assert {service_port(*order).cluster_endpoints for order in permutations(slices)} == {
        (Backend("10.244.1.1", 8080),)
    }


def test_svc_23_endpoints_of_a_removed_slice_stay_while_another_lists_them() -> None:
    made = store(node(), service(), endpoint_slice(["10.244.1.1"]), endpoint_slice(["10.244.1.1"], name="web-2"))
    made.remove_slice("default", "web-1")
    assert addresses(made.service_ports()[0].cluster_endpoints) == ["10.244.1.1:8080"]
    made.remove_slice("default", "web-2")
    assert skipped(made)


def test_svc_24_removing_an_unknown_slice_does_nothing() -> None:
    made = store(service())
    made.take_changes()
    made.remove_slice("default", "web-1")
    assert made.take_changes().service_ports == {}


def test_d6_a_relabelled_slice_leaves_nothing_behind() -> None:
    made = store(service(), service("api", ["10.96.0.11"]), endpoint_slice(["10.244.1.1"]))
    made.take_changes()
    made.set_slice(endpoint_slice(["10.244.1.1"], service_name="api"))
    changed = made.take_changes().service_ports
    assert {key[0].name: addresses(found.cluster_endpoints) for key, found in changed.items() if found} == {
        "web": [],
        "api": ["10.244.1.1:8080"],
    }


def test_d6_a_slice_that_loses_its_label_leaves_nothing_behind() -> None:
    good = endpoint_slice(["10.244.1.1"])
    made = store(service(), good)
    made.set_slice(replace(good, metadata=replace(good.metadata, labels={})))
    assert skipped(made)


def test_svc_26_and_27_the_terminating_fallback_is_each_lists_own() -> None:
    assert lists(endpoint("10.0.0.1", "node-2"), draining("10.0.0.2", "node-1")) == ("1", "2")
    assert lists(draining("10.0.0.1", "node-2"), draining("10.0.0.2", "node-1")) == ("1 2", "2")
    assert lists(endpoint("10.0.0.1", "node-1"), draining("10.0.0.2", "node-1")) == ("1", "1")


def test_svc_27_topology_does_not_concern_the_local_list() -> None:
    items = [endpoint("10.0.0.1", "node-2", zones=["a"]), endpoint("10.0.0.2", "node-1", zones=["b"])]
    assert lists(*items, zone="a") == ("1", "2")


def test_svc_29_draining_endpoints_elsewhere_count() -> None:
    found = service_port(endpoint_slice([draining("10.0.0.1", "node-2")]))
    assert [frontend.verdict for frontend in found.frontends] == [Verdict.BALANCE, Verdict.DROP]


def test_svc_31_node_hints_beat_zone_hints() -> None:
    items = [
        endpoint("10.0.0.1", nodes=["node-1", "node-3"], zones=["b"]),
        endpoint("10.0.0.2", nodes=["node-2"], zones=["a"]),
    ]
    assert lists(*items, zone="a")[0] == "1"


def test_svc_32_zone_hints_when_not_every_endpoint_names_a_node() -> None:
    items = [endpoint("10.0.0.1", nodes=["node-1"], zones=["b"]), endpoint("10.0.0.2", zones=["a", "c"])]
    assert lists(*items, zone="a")[0] == "2"


def test_svc_32_zone_hints_when_no_endpoint_names_this_node() -> None:
    items = [endpoint("10.0.0.1", nodes=["node-9"], zones=["b"]), endpoint("10.0.0.2", nodes=["node-9"], zones=["a"])]
    assert lists(*items, zone="a")[0] == "2"


@pytest.mark.parametrize("zone", [None, "", "c"])
def test_svc_33_no_filter_when_nothing_is_for_this_zone(zone: str | None) -> None:
    assert lists(endpoint("10.0.0.1", zones=["a"]), endpoint("10.0.0.2", zones=["b"]), zone=zone)[0] == "1 2"


def test_svc_33_no_filter_when_a_ready_endpoint_lacks_a_hint() -> None:
    assert lists(endpoint("10.0.0.1", zones=["a"]), endpoint("10.0.0.2"), zone="a")[0] == "1 2"


def test_svc_33_the_empty_zone_can_be_hinted() -> None:
    assert lists(endpoint("10.0.0.1", zones=[""]), endpoint("10.0.0.2", zones=["b"]), zone=None)[0] == "1"


def test_svc_33_hints_of_unready_endpoints_neither_count_nor_veto() -> None:
    items = [endpoint("10.0.0.1", zones=["a"]), endpoint("10.0.0.2", zones=["b"]), draining("10.0.0.3")]
    assert lists(*items, zone="a")[0] == "1"
    items = [endpoint("10.0.0.1", zones=["b"]), endpoint("10.0.0.2", ready=False, zones=["a"])]
    assert lists(*items, zone="a")[0] == "1"


def test_svc_26_draining_endpoints_ignore_hints() -> None:
    first, second = (
        replace(draining(f"10.0.0.{n}"), hints=endpoint("x", zones=[zone]).hints) for n, zone in ((1, "a"), (2, "b"))
    )
    assert lists(first, second, zone="a")[0] == "1 2"


def test_svc_35_a_zone_that_changes_or_goes_counts_at_once() -> None:
    items = endpoint_slice([endpoint("10.0.0.1", zones=["a"]), endpoint("10.0.0.2", zones=["b"])])
    made = store(node(zone="a"), service(), items)
    for zone, expected in (
        ("a", ["10.0.0.1:8080"]),
        ("b", ["10.0.0.2:8080"]),
        (None, ["10.0.0.1:8080", "10.0.0.2:8080"]),
    ):
        made.set_node(node(zone=zone))
        assert addresses(made.service_ports()[0].cluster_endpoints) == expected


def test_svc_3_other_nodes_are_ignored() -> None:
    made = store(node(zone="a"), service())
    made.take_changes()
    made.set_node(node("node-2", ["192.168.1.20"], zone="b"))
    assert not any(made.take_changes())


DNS_PORTS = [port(53, "dns", "UDP", node_port=30053), port(53, "dns-tcp")]
DNS = service("dns", kind="NodePort", external="Local", ports=DNS_PORTS)
DNS_TARGETS = [endpoint_port(5353, "dns", "UDP"), endpoint_port(5353, "dns-tcp")]


def udp_and_tcp(
    *endpoints: Endpoint, of: Service = DNS, annotations: dict[str, str] | None = None
) -> tuple[ServicePort, ServicePort]:
    """The ServicePorts of both ports of a name server."""
    items = endpoint_slice(endpoints, service_name="dns", ports=DNS_TARGETS, annotations=annotations)
    udp, tcp = store(node(zone="a"), of, items).service_ports()
    return udp, tcp


def test_svc_73_and_76_flows_live_on_at_who_serves_or_is_published() -> None:
    udp, tcp = udp_and_tcp(
        endpoint("10.0.0.1", "node-1"),
        endpoint("10.0.0.2", ready=False, serving=True),
        draining("10.0.0.3"),
        endpoint("10.0.0.4", ready=True, serving=False),
        endpoint("10.0.0.5", ready=False, serving=False),
        endpoint("10.0.0.6", ready=False, serving=False, terminating=True),
    )
    assert addresses(udp.serving) == [f"10.0.0.{number}:5353" for number in (1, 2, 3, 4)]
    assert addresses(udp.cluster_endpoints) == ["10.0.0.1:5353", "10.0.0.4:5353"]
    assert tcp.serving == ()


def test_svc_73_hints_and_policies_do_not_end_flows() -> None:
    items = [endpoint("10.0.0.1", "node-1", zones=["a"]), endpoint("10.0.0.2", "node-2", zones=["b"])]
    local_only = replace(DNS, spec=replace(DNS.spec, internal_traffic_policy="Local", type="ClusterIP"))
    for of in (DNS, local_only):
        udp, _ = udp_and_tcp(*items, of=of)
        assert addresses(udp.serving) == ["10.0.0.1:5353", "10.0.0.2:5353"]


def test_d9_weight_0_keeps_its_flows() -> None:
    udp, _ = udp_and_tcp(endpoint("10.0.0.1"), annotations={"rulegen.io/weight": "0"})
    assert udp.cluster_endpoints == ()
    assert addresses(udp.serving) == ["10.0.0.1:5353"]
    assert udp.draining == ()


def test_what_serves_is_not_held_twice() -> None:
    udp, _ = udp_and_tcp(*[endpoint(f"10.0.0.{number}") for number in range(1, 5)])
    assert udp.serving is udp.cluster_endpoints


def test_all_of_both_lists_keep_their_flows() -> None:
    udp, _ = udp_and_tcp(endpoint("10.0.0.1", "node-2"), draining("10.0.0.2", "node-1"), endpoint("10.0.0.3", "node-3"))
    assert {*udp.cluster_endpoints, *udp.local_endpoints} <= set(udp.serving)


def test_readiness_that_changes_nothing_else_is_told_for_udp_only() -> None:
    """A slice keeps what decides, and that is no more for TCP than it was."""
    before = endpoint_slice([endpoint("10.0.0.1", ready=False, serving=True)], service_name="dns", ports=DNS_TARGETS)
    after = endpoint_slice([endpoint("10.0.0.1", ready=False, serving=False)], service_name="dns", ports=DNS_TARGETS)
    made = store(node(), DNS, before)
    made.take_changes()
    made.set_slice(after)
    assert [name.protocol for name, _ in made.take_changes().service_ports] == ["UDP"]
