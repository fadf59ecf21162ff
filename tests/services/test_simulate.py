"""Where packets go, in words: SVC-36 to SVC-54, SVC-60 to SVC-67. Every expectation is read from the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from msgspec.structs import replace

from rulegen.config import DetectLocalMode, Family, NodeConfiguration
from rulegen.kube.objects import Service
from rulegen.services.simulate import Fate, FrontendIndex, Origin, Outcome, Packet, simulate
from tests.builders import CONFIGURATION, Item, endpoint, endpoint_slice, node, port, service, service_cidr, store

NODE = "192.168.1.10"
SECOND = "192.168.2.10"
POD = "10.244.1.9"
CLIENT = "203.0.113.7"
NO_DETECTOR = replace(CONFIGURATION, cluster_cidrs=())

BACKENDS = [endpoint("10.244.1.1", "node-1"), endpoint("10.244.2.1", "node-2")]
REMOTE = BACKENDS[1:]


def item(
    internal: str = "Cluster",
    external: str = "Cluster",
    *,
    ranges: Sequence[str] = (),
    annotations: Mapping[str, str] | None = None,
) -> Service:
    return service(
        kind="LoadBalancer",
        external_ips=["198.51.100.1"],
        vips=["192.0.2.1"],
        ports=[port(80, node_port=30080)],
        internal=internal,
        external=external,
        ranges=ranges,
        annotations=annotations,
    )


def send(
    source: str,
    destination: str,
    number: int = 80,
    *items: Item,
    protocol: str = "TCP",
    interface: str = "",
    configuration: NodeConfiguration = CONFIGURATION,
    node_addresses: tuple[str, ...] = (NODE, SECOND),
) -> Outcome:
    made = store(node(), *items, configuration=configuration)
    family = Family.IPV6 if ":" in destination else Family.IPV4
    index = FrontendIndex(service_port for service_port in made.service_ports() if service_port.family is family)
    settings = made.node_settings(family)
    assert settings is not None
    return simulate(index, settings, node_addresses, Packet(source, destination, number, protocol, interface))


def said(outcome: Outcome) -> str:
    """The outcome as a word, or as the endpoints and `masq`."""
    if outcome.fate is not Fate.BALANCED:
        return str(outcome.fate.value)
    parts = [delivery.backend.address for delivery in outcome.deliveries]
    masquerades = {delivery.masquerade for delivery in outcome.deliveries}
    assert len(masquerades) == 1
    return " ".join([*parts, "masq"] if masquerades == {True} else parts)


BOTH = "10.244.1.1 10.244.2.1"
LOCAL = "10.244.1.1"
EXTERNAL = [("198.51.100.1", 80), ("192.0.2.1", 80), (NODE, 30080)]


@pytest.mark.parametrize(
    ("source", "configuration", "cluster_ip", "external_cluster", "external_local"),
    [
        (POD, CONFIGURATION, "", " masq", BOTH),
        (POD, NO_DETECTOR, "", " masq", LOCAL),
        (NODE, CONFIGURATION, " masq", " masq", BOTH + " masq"),
        ("127.0.0.1", CONFIGURATION, " masq", " masq", BOTH + " masq"),
        (NODE, NO_DETECTOR, "", " masq", BOTH + " masq"),
        (CLIENT, CONFIGURATION, " masq", " masq", LOCAL),
        (CLIENT, NO_DETECTOR, "", " masq", LOCAL),
    ],
)
def test_masquerade_table_of_section_7(
    source: str, configuration: NodeConfiguration, cluster_ip: str, external_cluster: str, external_local: str
) -> None:
    for internal, chosen in (("Cluster", BOTH), ("Local", LOCAL)):
        world = (item(internal), endpoint_slice(BACKENDS))
        assert said(send(source, "10.96.0.10", 80, *world, configuration=configuration)) == chosen + cluster_ip
        everything = replace(configuration, masquerade_all=True)
        assert said(send(source, "10.96.0.10", 80, *world, configuration=everything)) == chosen + " masq"
    for destination, number in EXTERNAL:
        world = (item("Local", "Cluster"), endpoint_slice(BACKENDS))
        assert said(send(source, destination, number, *world, configuration=configuration)) == BOTH + external_cluster
        # SVC-45: masqueradeAll does not alter the rows of policy Local.
        for masquerade_all in (False, True):
            world = (item("Local", "Local"), endpoint_slice(BACKENDS))
            settings = replace(configuration, masquerade_all=masquerade_all)
            assert said(send(source, destination, number, *world, configuration=settings)) == external_local


@pytest.mark.parametrize(
    ("mode", "interface", "detected"),
    [
        (DetectLocalMode.BRIDGE_INTERFACE, "cni0", True),
        (DetectLocalMode.BRIDGE_INTERFACE, "cni01", False),
        (DetectLocalMode.INTERFACE_NAME_PREFIX, "cni01", True),
        (DetectLocalMode.INTERFACE_NAME_PREFIX, "eth0", False),
        (DetectLocalMode.INTERFACE_NAME_PREFIX, "", False),
    ],
)
def test_svc_47_interfaces(mode: DetectLocalMode, interface: str, detected: bool) -> None:
    configuration = replace(CONFIGURATION, detect_local_mode=mode, detect_local_interface="cni0")
    outcome = send(
        CLIENT, "10.96.0.10", 80, item(), endpoint_slice(BACKENDS), interface=interface, configuration=configuration
    )
    assert outcome.origin is (Origin.POD if detected else Origin.OUTSIDE)
    assert said(outcome) == BOTH + (" masq" if not detected else "")


def test_svc_36_no_endpoints_anywhere_rejects_all_frontends_and_sources() -> None:
    for destination, number in [("10.96.0.10", 80), *EXTERNAL]:
        for source in (POD, NODE, CLIENT):
            assert said(send(source, destination, number, item("Local", "Local"))) == "rejected"


def test_svc_37_none_local_drops_what_is_not_short_circuited() -> None:
    world = (item("Local", "Local"), endpoint_slice(REMOTE))
    for source in (POD, NODE, CLIENT):
        assert said(send(source, "10.96.0.10", 80, *world)) == "dropped"
    for destination, number in EXTERNAL:
        assert said(send(CLIENT, destination, number, *world)) == "dropped"
        # SVC-38 and SVC-43a, SVC-43b: they work without local endpoints.
        assert said(send(POD, destination, number, *world)) == "10.244.2.1"
        assert said(send(NODE, destination, number, *world)) == "10.244.2.1 masq"


def test_svc_44_a_client_that_reaches_itself_is_masqueraded() -> None:
    outcome = send("10.244.1.1", "10.96.0.10", 80, item(), endpoint_slice(BACKENDS))
    assert [(delivery.backend.address, delivery.masquerade) for delivery in outcome.deliveries] == [
        ("10.244.1.1", True),
        ("10.244.2.1", False),
    ]


def test_svc_40_and_d9_probabilities_follow_the_weights() -> None:
    world = (item(annotations={"rulegen.io/weights": "10.244.1.*=3"}), endpoint_slice(BACKENDS))
    assert [delivery.probability for delivery in send(POD, "10.96.0.10", 80, *world).deliveries] == [0.75, 0.25]


@pytest.mark.parametrize("external", ["Cluster", "Local"])
def test_svc_50_and_51_ranges_come_before_short_circuits_and_concern_the_vip_only(external: str) -> None:
    world = (item(external=external, ranges=["198.18.0.0/15", "203.0.113.0/29"]), endpoint_slice(BACKENDS))
    assert said(send(CLIENT, "192.0.2.1", 80, *world)).startswith("10.244.1.1")
    for source in (POD, NODE, "203.0.113.8"):
        outcome = send(source, "192.0.2.1", 80, *world)
        assert (outcome.fate, "SVC-51" in outcome.reasons[0]) == (Fate.DROPPED, True)
        for destination, number in [("10.96.0.10", 80), ("198.51.100.1", 80), (NODE, 30080)]:
            assert send(source, destination, number, *world).fate is Fate.BALANCED


def test_svc_52_the_node_reaches_its_vip_by_the_vip() -> None:
    world = (item(ranges=["192.168.0.0/16"]), endpoint_slice(BACKENDS))
    addresses = (NODE, "192.0.2.1")
    assert said(send("192.0.2.1", "192.0.2.1", 80, *world, node_addresses=addresses)) == BOTH + " masq"


def test_svc_54_ranges_before_the_reject() -> None:
    world = item(ranges=["203.0.113.0/29"])
    assert said(send(CLIENT, "192.0.2.1", 80, world)) == "rejected"
    assert said(send(POD, "192.0.2.1", 80, world)) == "dropped"


def test_svc_61_and_65_node_ports_on_the_primary_address_only() -> None:
    world = (item(), endpoint_slice(BACKENDS))
    assert said(send(CLIENT, NODE, 30080, *world)) == BOTH + " masq"
    for address in (SECOND, "192.168.1.11", "127.0.0.1"):
        outcome = send(CLIENT, address, 30080, *world)
        assert outcome.fate is Fate.UNTOUCHED
    assert "SVC-60 to SVC-66" in send(CLIENT, SECOND, 30080, *world).reasons[0]
    assert said(send(CLIENT, SECOND, 30080, item())) == "untouched"


def test_svc_63_match_all_is_every_local_address_but_loopback() -> None:
    configuration = replace(CONFIGURATION, nodeport_addresses=("0.0.0.0/0",))
    world = (item(), endpoint_slice(BACKENDS))
    assert said(send(CLIENT, SECOND, 30080, *world, configuration=configuration)) == BOTH + " masq"
    assert said(send(CLIENT, "192.168.1.11", 30080, *world, configuration=configuration)) == "untouched"
    loopback = send(NODE, "127.0.0.1", 30080, *world, configuration=configuration, node_addresses=(NODE, "127.0.0.1"))
    assert said(loopback) == "untouched"


def test_svc_64_addresses_come_before_node_ports() -> None:
    # The other Service's NodePort is what is reached on the node's address by the number 30080 otherwise.
    own = service("own", ["10.96.0.20"], [port(30080)], external_ips=[NODE])
    world = (item(), endpoint_slice(BACKENDS), own)
    reached = send(CLIENT, NODE, 30080, *world, endpoint_slice(["10.244.9.9"], service_name="own", name="own-1"))
    assert said(reached) == "10.244.9.9 masq"
    # Without endpoints it is in no dispatch map, and the NodePort takes the packet.
    assert said(send(CLIENT, NODE, 30080, *world)) == BOTH + " masq"


def test_svc_67_other_ports_and_unallocated_addresses() -> None:
    world = (item(), endpoint_slice(BACKENDS), service_cidr("10.96.0.0/16"))
    for source in (POD, NODE, CLIENT):
        assert said(send(source, "10.96.0.10", 81, *world)) == "rejected"
        assert said(send(source, "10.96.0.10", 80, *world, protocol="UDP")) == "rejected"
        assert said(send(source, "10.96.0.10", 0, *world, protocol="ICMP")) == "rejected"
        assert said(send(source, "10.96.0.99", 80, *world)) == "dropped"
        assert said(send(source, "10.97.0.1", 80, *world)) == "untouched"
    assert said(send(POD, "10.96.0.99", 80, item())) == "untouched"


def test_svc_67_not_for_what_is_delivered_on_this_node() -> None:
    world = (item(), endpoint_slice(BACKENDS), service_cidr("10.96.0.0/16"))
    bound = (NODE, "10.96.0.99", "10.96.0.10")
    assert said(send(CLIENT, "10.96.0.99", 80, *world, node_addresses=bound)) == "untouched"
    assert said(send(CLIENT, "10.96.0.10", 81, *world, node_addresses=bound)) == "untouched"
    assert said(send(NODE, "10.96.0.10", 81, *world, node_addresses=bound)) == "rejected"


def test_svc_38_the_verdict_concerns_the_destination_after_dnat() -> None:
    # An endpoint that is another Service's ClusterIP, at a port that it does not have.
    world = (item(), endpoint_slice(["10.96.0.20"]), service("other", ["10.96.0.20"]))
    (delivery,) = send(POD, "10.96.0.10", 80, *world).deliveries
    assert delivery.decision.fate is Fate.REJECTED
    assert "SVC-67" in delivery.decision.reason
    (delivery,) = send(POD, "10.96.0.10", 80, item(), endpoint_slice(BACKENDS[:1])).deliveries
    assert delivery.decision.fate is Fate.UNTOUCHED


def test_ipv6() -> None:
    world = (service(cluster_ips=["fd00::10"]), endpoint_slice(["fd00:10:244::1"], family="IPv6"))
    assert said(send("fd00:10:244::9", "fd00::10", 80, *world)) == "fd00:10:244::1"
    assert said(send("2001:db8::9", "fd00::10", 80, *world)) == "fd00:10:244::1 masq"
    assert said(send("::1", "fd00::10", 80, *world)) == "fd00:10:244::1 masq"


def test_the_answer_names_frontend_service_and_rules() -> None:
    outcome = send(CLIENT, "192.0.2.1", 80, item(external="Local"), endpoint_slice(BACKENDS))
    assert outcome.matched is not None
    assert str(outcome.matched) == "load-balancer VIP 192.0.2.1 port 80/TCP of default/web"
    assert "SVC-43c" in outcome.reasons[1]
    outcome = send(CLIENT, NODE, 30080, item())
    assert str(outcome.matched) == "NodePort port 30080/TCP of default/web"


def test_families_do_not_mix() -> None:
    with pytest.raises(ValueError, match="not both IPv4"):
        send("fd00::1", "10.96.0.10", 80, item())
