"""Services to Frontends: SVC-1 to SVC-16, SVC-50 to SVC-55 and what a Service alone decides."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from rulegen.config import Family, NodeConfiguration
from rulegen.kube.objects import LoadBalancerIngress, Service
from rulegen.networks import parse_network
from rulegen.services.model import Frontend, FrontendKind, Reason, ServicePort, TrafficPolicy, Verdict
from tests.builders import CONFIGURATION, endpoint, endpoint_slice, node, port, service, store

V4, V6 = Family.IPV4, Family.IPV6
REMOTE = endpoint_slice([endpoint("10.244.2.5", "node-2")])


def service_ports(*services: Service, configuration: NodeConfiguration = CONFIGURATION) -> list[ServicePort]:
    return store(node(), *services, configuration=configuration).service_ports()


def frontends(item: Service, family: Family = V4) -> dict[tuple[FrontendKind, str], Frontend]:
    return {
        (frontend.kind, frontend.address): frontend
        for service_port in service_ports(item)
        if service_port.family is family
        for frontend in service_port.frontends
    }


def findings(item: Service) -> list[tuple[str, str]]:
    return [
        (finding.reason, finding.message)
        for finding in store(node(), item).findings()
        if finding.subject == f"Service default/{item.metadata.name}"
    ]


@pytest.mark.parametrize("value", ["", "other-proxy"])
def test_svc_1_another_proxys_service_is_skipped(value: str) -> None:
    assert service_ports(service(labels={"service.kubernetes.io/service-proxy-name": value})) == []


def test_svc_1_a_service_handed_to_another_proxy_goes() -> None:
    made = store(node(), service())
    made.take_changes()
    made.set_service(service(labels={"service.kubernetes.io/service-proxy-name": "x"}))
    (gone,) = made.take_changes().service_ports.values()
    assert gone is None


@pytest.mark.parametrize("cluster_ip", ["", "None"])
def test_svc_4_headless_is_skipped(cluster_ip: str) -> None:
    assert service_ports(service(cluster_ips=[cluster_ip], vips=["192.0.2.1"])) == []


def test_svc_4_external_name_is_skipped_even_with_a_cluster_ip() -> None:
    assert service_ports(service(kind="ExternalName")) == []


def test_svc_5_cluster_ip_by_the_index_of_the_family() -> None:
    found = {
        service_port.family: service_port.frontends[0].address
        for service_port in service_ports(service(cluster_ips=["fd00::10", "10.96.0.9"]))
    }
    assert found == {V6: "fd00::10", V4: "10.96.0.9"}


def test_svc_5_cluster_ip_alone_without_families() -> None:
    item = service()
    item = replace(item, spec=replace(item.spec, ip_families=None, cluster_ips=None))
    assert [(service_port.family, service_port.frontends[0].address) for service_port in service_ports(item)] == [
        (V4, "10.96.0.10")
    ]


def test_svc_5_families_beyond_the_list_of_cluster_ips_do_not_exist() -> None:
    item = service()
    item = replace(item, spec=replace(item.spec, ip_families=["IPv4", "IPv6"]))
    assert [service_port.family for service_port in service_ports(item)] == [V4]


def test_svc_5_a_family_without_cluster_ip_has_no_external_addresses_either() -> None:
    item = service(external_ips=["2001:db8::1"], vips=["2001:db8::2"], ports=[port(node_port=30000)])
    assert [service_port.family for service_port in service_ports(item)] == [V4]
    assert [reason for reason, _ in findings(item)] == [Reason.UNUSED_ADDRESS] * 2


def test_only_configured_families() -> None:
    only_v6 = replace(CONFIGURATION, families=(V6,))
    made = store(node(), service(cluster_ips=["10.96.0.9", "fd00::9"]), configuration=only_v6)
    assert [service_port.family for service_port in made.service_ports()] == [V6]
    assert list(made.take_changes().node) == [V6]
    assert made.node_settings(V4) is None


def test_svc_6_node_ports_and_vips_of_any_type() -> None:
    found = frontends(service(kind="ClusterIP", ports=[port(node_port=30080)], vips=["192.0.2.1"]))
    assert [kind for kind, _ in found] == [
        FrontendKind.CLUSTER_IP,
        FrontendKind.LOAD_BALANCER,
        FrontendKind.NODE_PORT,
    ]
    assert found[FrontendKind.NODE_PORT, ""].port == 30080
    assert found[FrontendKind.LOAD_BALANCER, "192.0.2.1"].port == 80


def test_svc_9_every_kind_of_the_own_family_sorted() -> None:
    item = service(
        cluster_ips=["10.96.0.10", "fd00::10"],
        external_ips=["198.51.100.9", "198.51.100.10", "2001:db8::1"],
        vips=["192.0.2.1"],
        ports=[port(node_port=30080)],
    )
    assert [address for _, address in frontends(item)] == [
        "10.96.0.10",
        "198.51.100.10",
        "198.51.100.9",
        "192.0.2.1",
        "",
    ]
    assert [address for _, address in frontends(item, V6)] == ["fd00::10", "2001:db8::1", ""]


def test_svc_9_protocols_may_share_a_number() -> None:
    item = service(ports=[port(53, "dns"), port(53, "dns-udp", "UDP"), port(53, "dns-sctp", "SCTP")])
    assert {service_port.name.protocol for service_port in service_ports(item)} == {"TCP", "UDP", "SCTP"}
    assert findings(item) == []


@pytest.mark.parametrize(
    ("ingress", "used"),
    [
        (LoadBalancerIngress(ip="192.0.2.1"), True),
        (LoadBalancerIngress(ip="192.0.2.1", ip_mode="VIP"), True),
        (LoadBalancerIngress(ip="192.0.2.1", ip_mode="Proxy"), False),
        (LoadBalancerIngress(ip="192.0.2.1", ip_mode=""), False),
        (LoadBalancerIngress(hostname="lb.example"), False),
    ],
)
def test_svc_10_which_ingress_is_a_vip(ingress: LoadBalancerIngress, used: bool) -> None:
    item = service(kind="LoadBalancer", vips=[ingress])
    assert ((FrontendKind.LOAD_BALANCER, "192.0.2.1") in frontends(item)) is used
    assert findings(item) == []


def test_svc_12_lenient_in_canonical_out() -> None:
    item = service(
        cluster_ips=["010.096.0.010", "FD00:0::0010"],
        external_ips=["172.30.0.041", "172.30.0.41"],
        vips=["192.0.2.1"],
        ranges=["203.0.113.000/025"],
    )
    assert [address for _, address in frontends(item)] == ["10.96.0.10", "172.30.0.41", "192.0.2.1"]
    assert [address for _, address in frontends(item, V6)] == ["fd00::10"]
    assert frontends(item)[FrontendKind.LOAD_BALANCER, "192.0.2.1"].allowed_sources == ("203.0.113.0/25",)


def test_svc_12_unusable_addresses_are_skipped_and_reported_blank_ones_in_silence() -> None:
    item = service(external_ips=["", " ", "web", "1.2.3", "1.2.3.4%1", "1.2.3.256"], vips=["x"])
    assert list(frontends(item)) == [(FrontendKind.CLUSTER_IP, "10.96.0.10")]
    reported = findings(item)
    assert [reason for reason, _ in reported] == [Reason.UNUSABLE_ADDRESS] * 5
    assert any('"web"' in message and "externalIPs" in message for _, message in reported)


def test_svc_12_ipv4_mapped_is_ipv4_in_every_field_of_a_service() -> None:
    item = service(
        external_ips=["::FFFF:172.30.0.41", "172.30.0.41"],
        vips=["::ffff:c000:201"],
        ranges=["::ffff:203.0.113.0/121", "::ffff:198.51.100.7/128"],
    )
    spec = replace(item.spec, cluster_ip="::ffff:10.96.0.10", cluster_ips=["::ffff:10.96.0.10"])
    item = replace(item, spec=spec)
    assert [address for _, address in frontends(item)] == ["10.96.0.10", "172.30.0.41", "192.0.2.1"]
    found = frontends(item)[FrontendKind.LOAD_BALANCER, "192.0.2.1"]
    assert found.allowed_sources == ("198.51.100.7/32", "203.0.113.0/25")
    assert findings(item) == []


@pytest.mark.parametrize(
    ("text", "cidr"),
    [
        ("::ffff:203.0.113.9/120", "203.0.113.0/24"),
        ("::ffff:cb00:7109/0120", "203.0.113.0/24"),
        ("::ffff:203.000.113.9/128", "203.0.113.9/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        # Shorter ones hold more than IPv4.
        ("::ffff:203.0.113.9/95", "::fffe:0:0/95"),
        ("::ffff:203.0.113.9/80", "::/80"),
        ("::/0", "::/0"),
        ("::203.0.113.9/120", "::cb00:7100/120"),
        ("::ffff:203.0.113.9/129", None),
        ("::ffff:203.0.113.9", None),
        ("::ffff:203.0.113.9/", None),
        ("::ffff:203.0.113.9/-1", None),
        ("203.0.113.9/120", None),
        ("::ffff:203.0.113.9/" + "1" * 5000, None),
    ],
)
def test_svc_12_ipv4_mapped_ranges(text: str, cidr: str | None) -> None:
    network = parse_network(text)
    assert (str(network) if network else None) == cidr


def test_svc_5_what_the_api_server_sets() -> None:
    """A manifest as it was written says no more than `clusterIP`."""
    written = service(cluster_ips=["10.96.0.10"]).spec
    for spec in (
        replace(written, cluster_ips=None),
        replace(written, cluster_ips=None, ip_families=None),
        replace(written, ip_families=None),
        replace(written, cluster_ips=[], ip_families=[]),
    ):
        item = replace(service(), spec=spec)
        assert list(frontends(item)) == [(FrontendKind.CLUSTER_IP, "10.96.0.10")]
        assert frontends(item, V6) == {}
    both = replace(written, cluster_ips=["10.96.0.10", "fd00::10"], ip_families=None)
    for family, address in ((V4, "10.96.0.10"), (V6, "fd00::10")):
        assert list(frontends(replace(service(), spec=both), family)) == [(FrontendKind.CLUSTER_IP, address)]
    ipv6 = replace(written, cluster_ip="fd00::10", cluster_ips=None, ip_families=None)
    assert list(frontends(replace(service(), spec=ipv6), V6)) == [(FrontendKind.CLUSTER_IP, "fd00::10")]


def vip(item: Service, family: Family = V4) -> Frontend:
    (found,) = [
        frontend for (kind, _), frontend in frontends(item, family).items() if kind is FrontendKind.LOAD_BALANCER
    ]
    return found


def test_svc_13_ranges_trimmed_invalid_ones_dropped_collapsed() -> None:
    item = service(vips=["192.0.2.1"], ranges=[" 10.1.0.0/16 ", "10.1.2.0/24", "nonsense", "10.0.0.7/16", ""])
    assert vip(item).allowed_sources == ("10.0.0.0/15",)
    assert findings(item) == [
        (Reason.UNUSABLE_RANGE, 'loadBalancerSourceRanges: "nonsense" is not a CIDR; skipped (SVC-12)')
    ]


@pytest.mark.parametrize("ranges", [[], [" "], ["10.0.0.0/8", "0.0.0.0/0"]])
def test_svc_13_no_ranges_or_a_zero_prefix_let_all_in(ranges: list[str]) -> None:
    item = service(vips=["192.0.2.1"], ranges=ranges)
    assert vip(item).allowed_sources is None
    assert findings(item) == []


def test_svc_13_and_d8_ranges_of_one_family_leave_the_other_open_and_say_so() -> None:
    item = service(cluster_ips=["10.96.0.10", "fd00::10"], vips=["192.0.2.1", "2001:db8::1"], ranges=["10.0.0.0/8"])
    assert vip(item).allowed_sources == ("10.0.0.0/8",)
    assert vip(item, V6).allowed_sources is None
    assert findings(item) == [
        (Reason.OPEN_FAMILY, "loadBalancerSourceRanges has no IPv6 range: 2001:db8::1 open to all (SVC-13, D8)"),
    ]


def test_d8_only_invalid_ranges_leave_all_open_and_say_so() -> None:
    reasons = {reason for reason, _ in findings(service(vips=["192.0.2.1"], ranges=["10.0.0.0"]))}
    assert reasons == {Reason.OPEN_FAMILY, Reason.UNUSABLE_RANGE}


def test_svc_50_ranges_concern_vips_only() -> None:
    item = service(
        vips=["192.0.2.1"], external_ips=["198.51.100.1"], ports=[port(node_port=30000)], ranges=["10.0.0.0/8"]
    )
    restricted = [key for key, frontend in frontends(item).items() if frontend.allowed_sources is not None]
    assert restricted == [(FrontendKind.LOAD_BALANCER, "192.0.2.1")]


def test_one_address_as_external_ip_and_vip_keeps_the_vips_ranges() -> None:
    item = service(vips=["192.0.2.1"], external_ips=["192.0.2.1"], ranges=["10.0.0.0/8"])
    assert list(frontends(item)) == [(FrontendKind.CLUSTER_IP, "10.96.0.10"), (FrontendKind.LOAD_BALANCER, "192.0.2.1")]
    assert vip(item).allowed_sources == ("10.0.0.0/8",)
    assert findings(item) == []


def test_svc_52_ranges_with_the_nodes_address_let_the_own_vips_in() -> None:
    item = service(vips=["192.0.2.1", "192.0.2.9"], ranges=["192.168.0.0/16"])
    allowed = {frontend.allowed_sources for frontend in frontends(item).values()} - {None}
    assert allowed == {("192.0.2.1/32", "192.0.2.9/32", "192.168.0.0/16")}


def test_svc_52_follows_the_nodes_address() -> None:
    made = store(node(addresses=["10.9.9.9"]), service(vips=["192.0.2.1"], ranges=["192.168.0.0/16"]))
    assert made.service_ports()[0].frontends[1].allowed_sources == ("192.168.0.0/16",)
    made.take_changes()
    made.set_node(node(addresses=["192.168.7.7"]))
    (service_port,) = made.take_changes().service_ports.values()
    assert service_port is not None
    assert service_port.frontends[1].allowed_sources == ("192.0.2.1/32", "192.168.0.0/16")


def test_svc_53_loopback_while_no_address_is_known() -> None:
    made = store(service(vips=["192.0.2.1"], ranges=["127.0.0.0/8"]))
    assert made.service_ports()[0].frontends[1].allowed_sources == ("127.0.0.0/8", "192.0.2.1/32")


@pytest.mark.parametrize(
    ("kind", "external_ips", "effective"),
    [
        ("ClusterIP", [], False),
        ("ClusterIP", ["198.51.100.1"], True),
        ("NodePort", [], True),
        ("LoadBalancer", [], True),
    ],
)
def test_svc_15_where_external_policy_local_is_effective(kind: str, external_ips: list[str], effective: bool) -> None:
    item = service(kind=kind, external="Local", external_ips=external_ips, ports=[port(node_port=30000)])
    policy = frontends(item)[FrontendKind.NODE_PORT, ""].policy
    assert policy is (TrafficPolicy.LOCAL if effective else TrafficPolicy.CLUSTER)


@pytest.mark.parametrize("internal", ["Cluster", "Local"])
@pytest.mark.parametrize("external", ["Cluster", "Local"])
def test_svc_41_policies_are_independent(internal: str, external: str) -> None:
    item = service(kind="NodePort", internal=internal, external=external, ports=[port(node_port=30000)])
    found = {kind: frontend.policy.value for (kind, _), frontend in frontends(item).items()}
    assert found == {FrontendKind.CLUSTER_IP: internal, FrontendKind.NODE_PORT: external}


@pytest.mark.parametrize(
    ("internal", "external", "node_port", "lists"),
    [
        ("Cluster", "Cluster", 0, "cluster"),
        ("Cluster", "Cluster", 30000, "cluster"),
        ("Local", "Cluster", 0, "local"),
        ("Local", "Cluster", 30000, "cluster local"),
        ("Cluster", "Local", 0, "cluster"),
        ("Cluster", "Local", 30000, "cluster local"),
        ("Local", "Local", 0, "local"),
        ("Local", "Local", 30000, "cluster local"),
    ],
)
def test_svc_16_which_lists_are_used(internal: str, external: str, node_port: int, lists: str) -> None:
    item = service(kind="NodePort", internal=internal, external=external, ports=[port(node_port=node_port)])
    (service_port,) = store(node(), item, endpoint_slice([endpoint("10.244.1.5", "node-1")])).service_ports()
    assert " ".join(name for name in ("cluster", "local") if getattr(service_port, f"{name}_endpoints")) == lists


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_svc_36_without_endpoints_everything_is_rejected(policy: str) -> None:
    item = service(kind="NodePort", internal=policy, external=policy, ports=[port(node_port=30000)])
    assert {frontend.verdict for frontend in frontends(item).values()} == {Verdict.REJECT}


def test_svc_37_without_local_endpoints_policy_local_drops_each_on_its_own() -> None:
    for internal in ("Cluster", "Local"):
        for external in ("Cluster", "Local"):
            item = service(kind="NodePort", internal=internal, external=external, ports=[port(node_port=30000)])
            (service_port,) = store(node(), item, REMOTE).service_ports()
            verdicts = [frontend.verdict for frontend in service_port.frontends]
            expected = {"Cluster": Verdict.BALANCE, "Local": Verdict.DROP}
            assert verdicts == [expected[internal], expected[external]]


def test_svc_55_affinity_timeout() -> None:
    item = service(affinity=77)
    assert service_ports(item)[0].affinity_timeout == 77
    assert service_ports(service())[0].affinity_timeout is None
    item = replace(item, spec=replace(item.spec, session_affinity_config=None))
    assert service_ports(item)[0].affinity_timeout == 10800


def test_ports_that_share_name_and_protocol_are_reported_and_the_last_one_counts() -> None:
    item = service(ports=[port(80), port(81)])
    assert [frontend.port for frontend in frontends(item).values()] == [81]
    assert [reason for reason, _ in findings(item)] == [Reason.DUPLICATE_PORT]


def test_findings_stay_on_one_line_whatever_a_field_holds() -> None:
    made = store(node(), service(external_ips=['a"\n; drop'], annotations={"rulegen.io/weights": "a\nb"}))
    assert made.findings()
    assert not any("\n" in text for finding in made.findings() for text in (finding.subject, finding.message))
