"""How new connections spread over endpoints, by chi-squared tests of a fixed number of connections (SVC-40, D9).

`SIGNIFICANCE`: a right implementation fails a test once in so many times. There are fewer than 100 tests in this file,
so that all of them together fail less than once in 10,000 runs. The critical values are Wilson and Hilferty's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.flows.scene import CLIENT, CLIENT_V6, NODE, POD, Scene
from tests.flows.world import ELSEWHERE, HERE, Endpoint, Port, Service
from tests.lab.statistics import assert_shares

pytestmark = pytest.mark.kernel

SIGNIFICANCE = 1_000_000
VIP, VIP_V6 = "198.18.0.1", "2001:db8:f::1"
CLUSTER_IP = "10.96.0.1"
PORTS = (Port(80, "TCP", 30080), Port(80, "UDP", 30080), Port(80, "SCTP", 30080))


def service(*weights: int, node: str = HERE, **fields: object) -> Service:
    """One endpoint of each weight, in both families."""
    endpoints = [
        Endpoint(address.format(number), node, weight=weight)
        for number, weight in enumerate(weights, 1)
        for address in ("10.128.0.{}", "fd00:10:128::{:x}")
    ]
    return Service(
        "web",
        (CLUSTER_IP, "fd00:10:96::1"),
        PORTS,
        tuple(endpoints),
        vips=(VIP, VIP_V6),
        **fields,  # type: ignore[arg-type]
    )


def spread(scene: Scene, weights: Sequence[int], count: int, packet: tuple[str, str, int, str]) -> None:
    """`count` connections divide as the weights do."""
    source, destination, number, protocol = packet
    outcomes = scene.send(source, destination, number, protocol, count=count)
    counts = Counter(outcome.endpoint for outcome in outcomes)
    prefix, suffix = ("[fd00:10:128::", "]:8080") if ":" in destination else ("10.128.0.", ":8080")
    spelled = "{:x}" if ":" in destination else "{}"
    shares = {
        f"{prefix}{spelled.format(index)}{suffix}": weight / sum(weights)
        for index, weight in enumerate(weights, 1)
        if weight
    }
    assert_shares(counts, shares, one_in=SIGNIFICANCE)


LISTS = {
    "Cluster list": ("Cluster", (CLIENT, VIP, 80, "TCP")),
    "Local list": ("Local", (CLIENT, VIP, 80, "UDP")),
}


@pytest.mark.parametrize("which", LISTS)
@pytest.mark.parametrize("endpoints", [2, 3, 7, 10, 33])
def test_equal_endpoints(running: Scene, endpoints: int, which: str) -> None:
    external, packet = LISTS[which]
    running.services(service(*[1] * endpoints, external=external))
    spread(running, [1] * endpoints, 2000, packet)


@pytest.mark.parametrize(
    "packet", [(CLIENT_V6, VIP_V6, 80, "TCP"), (NODE, CLUSTER_IP, 80, "SCTP"), (POD, NODE, 30080, "UDP")]
)
def test_everywhere_else_too(running: Scene, packet: tuple[str, str, int, str]) -> None:
    running.services(service(*[1] * 5))
    spread(running, [1] * 5, 2000, packet)


WEIGHTS = [(5, 2, 1), (1, 1, 1, 1, 4), (300, 150, 1), (3, 0, 1), (65535, 65535), (0, 0, 9), (7, 11, 13, 17)]


@pytest.mark.parametrize("which", LISTS)
@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda weights: ":".join(map(str, weights)))
def test_weights(running: Scene, weights: tuple[int, ...], which: str) -> None:
    external, packet = LISTS[which]
    running.services(service(*weights, external=external))
    least = min(weight for weight in weights if weight) / sum(weights)
    # Enough for chi-squared: even the least of the shares is expected twenty times.
    spread(running, weights, max(2000, round(20 / least)), packet)


def test_a_weight_of_more_slots_than_a_register_counts(running: Scene) -> None:
    running.services(service(1000, 50, 1))
    spread(running, (1000, 50, 1), 21_000, (CLIENT, VIP, 80, "TCP"))


def test_the_first_connections_of_clients_with_affinity(running: Scene) -> None:
    clients = [f"203.0.{high}.{low}" for high in range(100, 104) for low in range(250)]
    running.services(service(5, 2, 1, affinity=10800))
    counts = Counter(running.reached(clients, VIP).values())
    assert_shares(
        counts, {"10.128.0.1:8080": 5 / 8, "10.128.0.2:8080": 2 / 8, "10.128.0.3:8080": 1 / 8}, one_in=SIGNIFICANCE
    )


@pytest.mark.parametrize("which", LISTS)
def test_after_endpoints_left_and_came(scene: Scene, which: str) -> None:
    """Slots that moved still leave everyone an equal share."""
    external, packet = LISTS[which]
    for weights in ([1] * 7, [1, 0, 1, 1, 0, 1, 1], [1] * 9, [0, 1, 1, 1, 0, 0, 0, 1, 1], [1] * 10):
        listed = service(*weights, external=external)
        present = tuple(endpoint for endpoint in listed.endpoints if endpoint.weight)
        scene.services(replace(listed, endpoints=present))
        spread(scene, weights, 1500, packet)


def test_after_weights_changed(scene: Scene) -> None:
    for weights in ([1, 1, 1], [5, 2, 1], [5, 2, 40], [1, 2, 3], [1, 1, 1]):
        scene.services(service(*weights))
        spread(scene, weights, 2000, (CLIENT, VIP, 80, "TCP"))


def test_the_two_lists_of_one_service(scene: Scene) -> None:
    """Policy Local: clients see this node's endpoints, pods all, each in their own proportion."""
    both = service(3, 1, 2, 2, external="Local")
    endpoints = tuple(
        replace(endpoint, node=ELSEWHERE) if endpoint.address.endswith(("3", "4")) else endpoint
        for endpoint in both.endpoints
    )
    scene.services(replace(both, endpoints=endpoints))
    spread(scene, [3, 1], 2000, (CLIENT, VIP, 80, "TCP"))
    spread(scene, [3, 1, 2, 2], 2000, (POD, VIP, 80, "TCP"))
    spread(scene, [3, 1, 2, 2], 2000, (CLIENT, CLUSTER_IP, 80, "TCP"))
