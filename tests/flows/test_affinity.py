"""Session affinity in the kernel (SVC-55 to SVC-59, D9): whom a client meets again, how long, and what ends it.

Where a coincidence could hide an error or feign one, so many clients and endpoints take part that its chance is below
one in a million.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rulegen.services.on_nftables import base_chains
from tests.flows.scene import CLIENT, NODE, NODE_V6, POD, Scene
from tests.flows.world import ELSEWHERE, HERE, Endpoint, Port, Service, State
from tests.lab import Fate

pytestmark = pytest.mark.kernel

CLUSTER_IP, CLUSTER_IP_V6 = "10.96.0.1", "fd00:10:96::1"
EXTERNAL_IP, VIP, VIP_V6 = "198.19.0.1", "198.18.0.1", "2001:db8:f::1"
CLIENTS = [f"203.0.113.{number}" for number in range(1, 61)]
CLIENTS_V6 = [f"2001:db8:b::{number:x}" for number in range(1, 61)]
LONG = 10800


def endpoints(count: int, node: str = ELSEWHERE, first: int = 1) -> tuple[Endpoint, ...]:
    prefix = "0" if node == HERE else "1"
    return tuple(Endpoint(f"10.128.{prefix}.{number}", node) for number in range(first, first + count))


SERVICE = Service(
    "sticky",
    (CLUSTER_IP, CLUSTER_IP_V6),
    (Port(80, "TCP", 30080), Port(80, "UDP", 30080), Port(80, "SCTP", 30080), Port(443, "TCP", 30443, 8443)),
    (*endpoints(8), *(Endpoint(f"fd00:10:128:1::{number}") for number in range(1, 9))),
    external_ips=(EXTERNAL_IP,),
    vips=(VIP, VIP_V6),
    affinity=LONG,
)


def with_endpoints(*groups: tuple[Endpoint, ...], **fields: object) -> Service:
    return replace(SERVICE, endpoints=tuple(one for group in groups for one in group), **fields)  # type: ignore[arg-type]


def clients_of(met: dict[str, str], endpoint: Endpoint) -> list[str]:
    return [client for client, reached in met.items() if reached == f"{endpoint.address}:8080"]


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_svc_55_one_record_for_all_frontends_of_a_service_port(running: Scene, protocol: str) -> None:
    running.services(SERVICE)
    for clients, frontends in (
        (CLIENTS, [(CLUSTER_IP, 80), (VIP, 80), (EXTERNAL_IP, 80), (NODE, 30080), (CLUSTER_IP, 80)]),
        (CLIENTS_V6, [(CLUSTER_IP_V6, 80), (VIP_V6, 80), (NODE_V6, 30080), (CLUSTER_IP_V6, 80)]),
    ):
        met = [running.reached(clients, address, number, protocol) for address, number in frontends]
        assert all(again == met[0] for again in met)
        assert "" not in met[0].values()
        assert len(set(met[0].values())) > 1


def test_svc_55_the_node_and_pods_are_clients_too(running: Scene) -> None:
    running.services(SERVICE)
    for source in (NODE, POD):
        assert len({outcome.endpoint for outcome in running.send(source, VIP, count=30)}) == 1


def test_svc_55_every_service_port_has_its_own_record(running: Scene) -> None:
    running.services(SERVICE)
    tcp, udp, https = (running.reached(CLIENTS, CLUSTER_IP, *port) for port in ((80, "TCP"), (80, "UDP"), (443, "TCP")))
    assert tcp != udp
    assert {endpoint.replace("8443", "8080") for endpoint in https.values()} == set(tcp.values())
    assert [endpoint.replace("8443", "8080") for endpoint in https.values()] != list(tcp.values())


def test_svc_55_the_record_is_shared_by_the_cluster_and_the_local_list(scene: Scene) -> None:
    scene.services(with_endpoints(endpoints(4, HERE), endpoints(4), external="Local"))
    local = scene.reached(CLIENTS, VIP)
    assert {endpoint.split(".")[2] for endpoint in local.values()} == {"0"}
    assert scene.reached(CLIENTS, CLUSTER_IP) == local
    assert scene.reached(CLIENTS, NODE, 30080) == local


def test_svc_57_a_record_outside_the_list_does_not_count_there(scene: Scene) -> None:
    scene.services(with_endpoints(endpoints(4, HERE), endpoints(4), external="Local"))
    anywhere = scene.reached(CLIENTS, CLUSTER_IP)
    local = scene.reached(CLIENTS, VIP)
    for client in CLIENTS:
        if anywhere[client].split(".")[2] == "0":
            assert local[client] == anywhere[client]
        assert local[client].split(".")[2] == "0"
    assert scene.reached(CLIENTS, VIP) == local


def test_svc_56_a_connection_refreshes_and_silence_ends(running: Scene) -> None:
    # On a busy machine it takes a while until all clients have come again: then it is tried with a longer timeout.
    timeout = 2
    while (met := _met_within(running, timeout)) is None:
        timeout *= 2
        assert timeout <= 64
    time.sleep(1.1 * timeout)
    for clients, cluster_ip in ((CLIENTS, CLUSTER_IP), (CLIENTS_V6, CLUSTER_IP_V6)):
        assert running.reached(clients, cluster_ip) != {client: met[client] for client in clients}


def _met_within(running: Scene, timeout: int) -> dict[str, str] | None:
    """Whom all clients met, and met again just within the timeout, twice; None when one came too late."""
    running.services(replace(SERVICE, affinity=timeout))
    last = time.monotonic()
    met = running.reached(CLIENTS, CLUSTER_IP) | running.reached(CLIENTS_V6, CLUSTER_IP_V6)
    for _ in range(2):
        time.sleep(0.55 * timeout)
        begun = time.monotonic()
        again = running.reached(CLIENTS, VIP) | running.reached(CLIENTS_V6, VIP_V6)
        if time.monotonic() - last >= timeout:
            return None
        assert again == met
        last = begun
    return met


def test_svc_58_an_endpoint_that_leaves_has_no_effect_at_once(scene: Scene) -> None:
    first, *others = endpoints(3)
    scene.services(with_endpoints((first, *others)))
    met = scene.reached(CLIENTS, CLUSTER_IP)
    left = clients_of(met, first)
    assert left
    scene.services(with_endpoints(tuple(others)))
    moved = scene.reached(CLIENTS, CLUSTER_IP)
    assert {client: moved[client] for client in CLIENTS if client not in left} == {
        client: met[client] for client in CLIENTS if client not in left
    }
    assert {moved[client] for client in left} == {f"{other.address}:8080" for other in others}
    scene.services(with_endpoints((first, *others)))
    assert scene.reached(CLIENTS, CLUSTER_IP) == moved


def test_svc_58_a_new_endpoint_does_not_inherit_clients(scene: Scene) -> None:
    first, second, third, fourth = endpoints(4)
    scene.services(with_endpoints((first, second, third)))
    left = clients_of(scene.reached(CLIENTS, CLUSTER_IP), third)
    scene.services(with_endpoints((first, second)))
    scene.services(with_endpoints((first, second, fourth)))
    assert len(clients_of(scene.reached(left, CLUSTER_IP), fourth)) < len(left)


def test_svc_58_nor_does_a_new_service(scene: Scene) -> None:
    bystander = replace(SERVICE, name="other", cluster_ips=("10.96.0.2",), vips=(), external_ips=(), ports=(Port(),))
    scene.services(bystander, with_endpoints(endpoints(1)))
    scene.reached(CLIENTS, CLUSTER_IP)
    scene.services(bystander)
    scene.services(bystander, with_endpoints(endpoints(3)))
    assert len(set(scene.reached(CLIENTS, CLUSTER_IP).values())) == 3


@pytest.mark.parametrize("state", [State.DRAINING, State.UNREADY, State.ENDED])
def test_svc_58_so_has_one_that_is_no_longer_used(running: Scene, state: State) -> None:
    first, *others = endpoints(3)
    running.services(with_endpoints((first, *others)))
    left = clients_of(running.reached(CLIENTS, CLUSTER_IP), first)
    running.services(with_endpoints((replace(first, state=state), *others)))
    assert not clients_of(running.reached(left, CLUSTER_IP), first)


def test_svc_59_a_shorter_timeout_applies_at_once(scene: Scene) -> None:
    scene.services(SERVICE)
    met = scene.reached(CLIENTS, CLUSTER_IP)
    time.sleep(1.2)
    scene.services(replace(SERVICE, affinity=1))
    assert scene.reached(CLIENTS, CLUSTER_IP) != met


def test_svc_59_a_longer_timeout_applies_at_once(scene: Scene) -> None:
    scene.services(replace(SERVICE, affinity=1))
    scene.reached(CLIENTS, CLUSTER_IP)
    scene.services(SERVICE)
    met = scene.reached(CLIENTS, CLUSTER_IP)
    time.sleep(1.2)
    assert scene.reached(CLIENTS, CLUSTER_IP) == met


def test_svc_59_records_younger_than_the_new_timeout_stay(scene: Scene) -> None:
    scene.services(SERVICE)
    met = scene.reached(CLIENTS, CLUSTER_IP)
    scene.services(replace(SERVICE, affinity=600))
    assert scene.reached(CLIENTS, CLUSTER_IP) == met


def test_affinity_switched_off_and_on(scene: Scene) -> None:
    scene.services(SERVICE)
    scene.reached(CLIENTS, CLUSTER_IP)
    scene.services(replace(SERVICE, affinity=None))
    assert len({outcome.endpoint for outcome in scene.send(CLIENT, CLUSTER_IP, count=100)}) == 8
    scene.services(SERVICE)
    met = scene.reached(CLIENTS, CLUSTER_IP)
    assert scene.reached(CLIENTS, CLUSTER_IP) == met


def test_records_survive_what_does_not_concern_them(scene: Scene) -> None:
    scene.services(SERVICE)
    met = scene.reached(CLIENTS, CLUSTER_IP) | scene.reached(CLIENTS_V6, CLUSTER_IP_V6)
    other = replace(SERVICE, name="other", cluster_ips=("10.96.0.2",), vips=(), external_ips=(), ports=(Port(),))
    scaled = replace(SERVICE, endpoints=(*SERVICE.endpoints, *endpoints(3, HERE)))
    for services in ((SERVICE,), (other, SERVICE), (SERVICE,), (scaled,), (replace(SERVICE, vips=()),), (SERVICE,)):
        scene.services(*services)
        assert scene.reached(CLIENTS, CLUSTER_IP) | scene.reached(CLIENTS_V6, CLUSTER_IP_V6) == met


def test_records_survive_a_restart(running: Scene) -> None:
    running.services(SERVICE)
    met = running.reached(CLIENTS, CLUSTER_IP)
    assert running.restart() == 0
    assert running.reached(CLIENTS, CLUSTER_IP) == met


@pytest.fixture
def small_map(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How many clients are remembered."""
    base_chains._render_base_chains.cache_clear()
    monkeypatch.setattr(base_chains, "AFFINITY_SIZE", 20)
    yield 20
    base_chains._render_base_chains.cache_clear()


@pytest.mark.parametrize("external", ["Cluster", "Local"])
def test_a_full_map_costs_the_affinity_and_never_the_service(small_map: int, running: Scene, external: str) -> None:
    running.services(with_endpoints(endpoints(4, HERE), endpoints(4), external=external))
    first, second = running.reached(CLIENTS, VIP), running.reached(CLIENTS, VIP)
    assert "" not in first.values()
    assert "" not in second.values()
    kept = [client for client in CLIENTS if first[client] == second[client]]
    assert small_map <= len(kept) < len(CLIENTS)


def test_d9_an_endpoint_of_weight_0_keeps_its_clients_and_gets_no_others(scene: Scene) -> None:
    first, *others = endpoints(3)
    scene.services(with_endpoints((first, *others)))
    met = scene.reached(CLIENTS, CLUSTER_IP)
    drained = with_endpoints((replace(first, weight=0), *others))
    scene.services(drained)
    assert scene.reached(CLIENTS, CLUSTER_IP) == met
    newcomers = [f"203.0.113.{number}" for number in range(61, 121)]
    assert not clients_of(scene.reached(newcomers, CLUSTER_IP), first)
    scene.services(with_endpoints(tuple(others)))
    assert not clients_of(scene.reached(clients_of(met, first), CLUSTER_IP), first)


def test_d9_so_does_one_in_the_local_list(scene: Scene) -> None:
    first, *others = endpoints(3, HERE)
    scene.services(with_endpoints((first, *others), endpoints(3), external="Local"))
    met = scene.reached(CLIENTS, VIP)
    scene.services(with_endpoints((replace(first, weight=0), *others), endpoints(3), external="Local"))
    assert scene.reached(CLIENTS, VIP) == met


def test_a_record_is_of_use_only_while_it_is_allowed(running: Scene) -> None:
    """SVC-36 and SVC-37 come before affinity: a client of an endpoint that left is rejected when it was the last."""
    running.services(with_endpoints(endpoints(1)))
    assert running.send(CLIENT, VIP)[0].fate is Fate.DELIVERED
    running.services(with_endpoints(()))
    assert running.send(CLIENT, VIP)[0].fate is Fate.REJECTED
