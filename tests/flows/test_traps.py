"""What kube-proxy's users have stumbled over: each a story told in states, and every state checked with packets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.flows.scene import CLIENT, CLIENT_V6, EVERYBODY, NODE, NODE_V6, POD, POD_V6, REMOTE_POD, SECOND, Scene
from tests.flows.world import ELSEWHERE, HERE, Endpoint, Port, Service, State
from tests.lab import Fate

pytestmark = pytest.mark.kernel

CLUSTER_IP, OTHER_CLUSTER_IP = "10.96.0.1", "10.96.0.2"
EXTERNAL_IP, VIP, VIP_V6 = "198.19.0.1", "198.18.0.1", "2001:db8:f::1"
LOCAL = Endpoint("10.128.0.5", HERE)
LOCAL_2 = Endpoint("10.128.0.6", HERE)
REMOTE = Endpoint("10.128.1.7", ELSEWHERE)
REMOTE_2 = Endpoint("10.128.1.8", ELSEWHERE)
SERVICE = Service("web", (CLUSTER_IP,), (Port(80, "TCP", 30080),), (LOCAL, REMOTE), vips=(VIP,))
OTHER = Service("other", (OTHER_CLUSTER_IP,), (Port(80, "TCP"),), (REMOTE_2,), kind="ClusterIP")


def check_all(scene: Scene) -> None:
    """Everybody, at all frontends of the Services above."""
    by_address = [(address, 80) for address in (CLUSTER_IP, OTHER_CLUSTER_IP, VIP, EXTERNAL_IP)]
    scene.check_frontends(EVERYBODY, [*by_address, (NODE, 30080), (SECOND, 30080)])


def test_affinity_after_the_endpoint_went_away_and_came_back(scene: Scene) -> None:
    """SVC-58: it starts without clients, so those it had are spread anew."""
    clients = [f"203.0.113.{number}" for number in range(1, 91)]
    sticky = replace(SERVICE, affinity=10800, endpoints=(LOCAL, REMOTE, REMOTE_2))
    scene.services(sticky)
    met = scene.reached(clients, VIP)
    had = [client for client in clients if met[client] == "10.128.1.7:8080"]
    scene.services(replace(sticky, endpoints=(LOCAL, REMOTE_2)))
    scene.services(sticky)
    again = scene.reached(clients, VIP)
    assert len({again[client] for client in had}) == 3
    assert all(again[client] == met[client] for client in clients if client not in had)


def test_two_services_with_one_external_ip(scene: Scene) -> None:
    """D2: the older one has it, whoever came first to the proxy; the other takes over when it goes."""
    young = replace(SERVICE, external_ips=(EXTERNAL_IP,), created=20)
    old = replace(OTHER, external_ips=(EXTERNAL_IP,), created=10)
    for services in ((young,), (young, old), (young,), (old, young), (old,), ()):
        scene.services(*services)
        check_all(scene)
    scene.services(young, old)
    scene.services(young, replace(old, external_ips=()))
    check_all(scene)
    scene.services(young, replace(old, endpoints=()))
    check_all(scene)


def test_a_hairpin_through_a_node_port(scene: Scene) -> None:
    """SVC-44: a pod that is given itself sees the node as its client, or its answer would not come back here."""
    for external in ("Cluster", "Local"):
        for endpoints in ((LOCAL,), (LOCAL, REMOTE), (LOCAL, LOCAL_2)):
            scene.services(replace(SERVICE, external=external, endpoints=endpoints))
            scene.check(LOCAL.address, NODE, 30080)
            scene.check(LOCAL.address, (VIP, CLUSTER_IP))
            (outcome,) = {
                outcome for outcome in scene.send(LOCAL.address, NODE, 30080, count=40) if "0.5:" in outcome.endpoint
            }
            assert outcome.masqueraded


def test_external_policy_local_while_the_last_local_pod_terminates(scene: Scene) -> None:
    """SVC-27, SVC-37: it serves until it is gone; pods and the node reach the others all the time."""
    local = replace(SERVICE, external="Local")
    for states in (State.READY, State.DRAINING, State.ENDED, None, State.READY):
        here = () if states is None else (replace(LOCAL, state=states),)
        scene.services(replace(local, endpoints=(*here, REMOTE)))
        check_all(scene)
    scene.services(replace(local, endpoints=(replace(LOCAL, state=State.DRAINING), REMOTE)))
    assert scene.send(CLIENT, VIP)[0].endpoint == "10.128.0.5:8080"
    assert scene.send(POD, VIP)[0].endpoint == "10.128.1.7:8080"
    scene.services(replace(local, endpoints=(REMOTE,)))
    assert scene.send(CLIENT, VIP)[0].fate is Fate.DROPPED


def test_a_service_whose_two_slices_overlap(scene: Scene) -> None:
    """SVC-22, SVC-23: an endpoint listed twice counts once, running beats terminating, and one listing is enough."""
    twice = (LOCAL, REMOTE, replace(LOCAL, slice_=1), replace(REMOTE_2, slice_=1))
    scene.services(replace(SERVICE, endpoints=twice))
    check_all(scene)
    outcomes = [outcome.endpoint for outcome in scene.send(CLIENT, VIP, count=900)]
    # Three equal shares: 300 each, with a standard deviation of 14.
    assert all(200 < outcomes.count(f"{one.address}:8080") < 400 for one in (LOCAL, REMOTE, REMOTE_2))
    for first, second in ((State.DRAINING, State.READY), (State.READY, State.DRAINING)):
        moving = (replace(LOCAL, state=first), replace(LOCAL, state=second, slice_=1), REMOTE)
        scene.services(replace(SERVICE, endpoints=moving))
        check_all(scene)
    scene.services(replace(SERVICE, endpoints=twice[2:]))
    check_all(scene)


def test_the_same_port_number_for_tcp_and_udp(scene: Scene) -> None:
    """SVC-9: they are two service-ports, with NodePorts and endpoint ports of their own."""
    dns = replace(SERVICE, ports=(Port(53, "TCP", 30053, 5353), Port(53, "UDP", 30053, 5300)))
    for ports in (dns.ports, dns.ports[:1], dns.ports[1:], dns.ports[::-1]):
        scene.services(replace(dns, ports=ports))
        for protocol in ("TCP", "UDP", "SCTP"):
            scene.check_frontends(EVERYBODY, [(CLUSTER_IP, 53), (VIP, 53), (NODE, 30053)], protocol)


def test_a_vip_that_is_also_an_address_of_the_node(scene: Scene) -> None:
    """SVC-43, SVC-64: its own port is the Service's, the others are the node's, and it comes and goes."""
    addresses = scene.world.addresses
    scene.configure(nodeport_addresses=("0.0.0.0/0",))
    for external in ("Cluster", "Local"):
        scene.services(replace(SERVICE, external=external, ports=(Port(80, "TCP", 30080), Port(30081, "TCP", 30081))))
        for held in ((*addresses, f"{VIP}/32"), addresses):
            scene.change_node(addresses=held)
            for number in (80, 81, 30080, 30081):
                scene.check((*EVERYBODY, VIP) if held != addresses else EVERYBODY, VIP, number)


def test_a_range_list_for_one_family_only(scene: Scene) -> None:
    """SVC-13, D8: the other family's VIP stays open."""
    endpoints = (LOCAL, REMOTE, Endpoint("fd00:10:128::5", HERE), Endpoint("fd00:10:128:1::7"))
    dual = replace(SERVICE, cluster_ips=(CLUSTER_IP, "fd00:10:96::1"), vips=(VIP, VIP_V6), endpoints=endpoints)
    for ranges in (("203.0.113.0/25",), ("2001:db8:a::/64",), ("203.0.113.0/25", "2001:db8:a::/64"), ()):
        scene.services(replace(dual, ranges=ranges))
        scene.check(("203.0.113.9", CLIENT, POD, NODE), VIP)
        scene.check(("2001:db8:a::9", CLIENT_V6, POD_V6, NODE_V6), VIP_V6)


def test_a_service_that_changes_type(scene: Scene) -> None:
    """SVC-4, SVC-6, SVC-15: what it has lost is gone, the ClusterIP as well when it becomes ExternalName."""
    balanced = replace(SERVICE, external="Local", external_ips=(EXTERNAL_IP,), endpoints=(REMOTE,))
    stages = [
        balanced,
        replace(balanced, kind="NodePort", vips=()),
        replace(balanced, kind="ClusterIP", vips=(), ports=(Port(80),)),
        replace(balanced, kind="ClusterIP", vips=(), ports=(Port(80),), external_ips=()),
        replace(balanced, kind="ExternalName"),
        replace(balanced, cluster_ips=("None",)),
    ]
    for stage in (*stages, *stages[::-1], stages[4], stages[0], stages[2], stages[5], stages[0]):
        scene.services(stage)
        check_all(scene)


def test_a_node_port_that_moves_to_another_service_in_one_apply(scene: Scene) -> None:
    """In one transaction, and to a Service of another policy as well."""
    for policies in (("Cluster", "Cluster"), ("Cluster", "Local"), ("Local", "Cluster")):
        first = replace(SERVICE, external=policies[0])
        second = replace(OTHER, kind="NodePort", external=policies[1])
        with_port, without = (Port(80, "TCP", 30080),), (Port(80, "TCP"),)
        for _ in range(2):
            scene.services(replace(first, ports=with_port), replace(second, ports=without))
            check_all(scene)
            scene.services(replace(first, ports=without), replace(second, ports=with_port))
            check_all(scene)
        scene.services(replace(first, ports=without), replace(second, ports=with_port, endpoints=()))
        check_all(scene)


def test_a_node_port_swapped_between_two_services(scene: Scene) -> None:
    first, second = SERVICE, replace(OTHER, kind="NodePort")
    for numbers in ((30080, 30081), (30081, 30080), (30080, 30081)):
        scene.services(
            *(
                replace(one, ports=(Port(80, "TCP", number),))
                for one, number in zip((first, second), numbers, strict=True)
            )
        )
        scene.check_frontends(EVERYBODY, [(NODE, number) for number in numbers])


def test_a_cluster_ip_given_to_a_new_service_in_one_apply(scene: Scene) -> None:
    """A Service that is deleted and made anew under another name, its addresses kept."""
    for name in ("web", "shop", "web"):
        scene.services(replace(SERVICE, name=name, endpoints=(LOCAL,) if name == "shop" else (REMOTE, REMOTE_2)))
        check_all(scene)


def test_kubernetes_api_servers(scene: Scene) -> None:
    """default/kubernetes: endpoints on the hosts' networks, whose slice names no nodes."""
    api = Service(
        "kubernetes",
        (CLUSTER_IP,),
        (Port(443, "TCP", 0, 6443),),
        (Endpoint(NODE, ""), Endpoint("192.0.2.11", "")),
        kind="ClusterIP",
    )
    for endpoints in (api.endpoints, api.endpoints[:1], api.endpoints[1:], ()):
        for internal in ("Cluster", "Local"):
            scene.services(replace(api, endpoints=endpoints, internal=internal))
            scene.check(EVERYBODY, CLUSTER_IP, 443)
    scene.services(api)
    scene.check((POD, REMOTE_POD, NODE), CLUSTER_IP, 443)
