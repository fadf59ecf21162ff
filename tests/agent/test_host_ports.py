"""Host ports of an agent that follows an API server: pods of its own node, and a client that keeps its port.

The client asks by UDP, so that a flow which lives on although its pod has gone would be seen.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rulegen.kube.objects import Pod, Service
from tests.agent.running import Agent, Ground, wait_until
from tests.apiserver import ApiServer
from tests.builders import node
from tests.conntrack.scene import CLIENT_V6, ENDPOINTS, ENDPOINTS_V6, NODE, NODE_V6, TARGET, Client, Scene, name_server

pytestmark = pytest.mark.kernel

HOST_PORT = 30053
FIRST, SECOND, THIRD = ENDPOINTS
UDP = socket.IPPROTO_UDP


def pod(name: str, *addresses: str, number: int = HOST_PORT, **more: Any) -> dict[str, Any]:
    """`more`: created, deleted, on."""
    port = {"containerPort": TARGET, "hostPort": number, "protocol": "UDP"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "creationTimestamp": more.get("created", "2026-01-01T00:00:00Z"),
            "deletionTimestamp": more.get("deleted"),
        },
        "spec": {"nodeName": more.get("on", "node-1"), "containers": [{"name": "c", "ports": [port]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]},
    }


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene() as made:
        yield made


@pytest.fixture
def api(scene: Scene) -> Iterator[ApiServer]:
    made = ApiServer()
    with scene.node.entered():
        made.start()
    try:
        made.put(node(addresses=[NODE, NODE_V6]))
        yield made
    finally:
        made.close()


@pytest.fixture
def agent(scene: Scene, api: ApiServer, tmp_path: Path) -> Iterator[Agent]:
    ground = Ground(scene.node, tmp_path, ["--feature", "host-ports"])
    with ground.agent("--kubeconfig", api.kubeconfig(tmp_path / "kubeconfig")) as running:
        running.wait_for(" sync mode=")
        yield running
        assert "Traceback" not in running.log


def wait_for_answer(client: Client, *, by: str, address: str = NODE) -> None:
    """The same client all the time: rules send it there, and no flow of before leads it elsewhere."""

    def is_answered() -> bool:
        # What was refused before is said when the next datagram is sent.
        with suppress(ConnectionRefusedError):
            return client.ask(address, HOST_PORT) == by
        return False

    wait_until(is_answered, 15.0)


def settled(scene: Scene) -> Callable[[], bool]:
    """Whether no UDP flow to the port is left."""
    return lambda: not [one for one in scene.entries() if (one.protocol, one.port) == (UDP, HOST_PORT)]


def test_a_port_goes_from_owner_to_owner(scene: Scene, api: ApiServer, agent: Agent) -> None:
    client = scene.open_client(40_053)
    api.put(pod("old", FIRST))
    wait_for_answer(client, by=FIRST)
    # The younger of two stands back, until the older terminates; nobody is asked about pods of other nodes.
    api.put(pod("young", SECOND, created="2026-02-01T00:00:00Z"), pod("elsewhere", THIRD, on="node-2"))
    agent.wait_for("belongs to Pod default/old", 15.0)
    assert client.ask(NODE, HOST_PORT) == FIRST
    api.put(pod("old", FIRST, deleted="2026-03-01T00:00:00Z"))
    wait_for_answer(client, by=SECOND)
    # A NodePort beats both.
    service, endpoints = name_server([THIRD], node_port=HOST_PORT)
    api.put(service, endpoints)
    wait_for_answer(client, by=THIRD)
    api.delete(Service, "dns", "default")
    wait_for_answer(client, by=SECOND)
    asked = {request.query.get("fieldSelector", "") for request in api.requests if request.kind == "Pod"}
    assert asked
    assert all("spec.nodeName=node-1" in selector.split(",") for selector in asked)


@pytest.mark.parametrize(
    ("first", "second", "address", "source"), [(*ENDPOINTS[:2], NODE, None), (*ENDPOINTS_V6[:2], NODE_V6, CLIENT_V6)]
)
def test_a_pod_that_is_replaced(
    first: str, second: str, address: str, source: str | None, scene: Scene, api: ApiServer, agent: Agent
) -> None:
    """Under its own name with another address, as of a StatefulSet; and away for good."""
    client = scene.open_client(40_053, source) if source else scene.open_client(40_053)
    api.put(pod("one", first))
    wait_for_answer(client, by=first, address=address)
    api.put(pod("one", second))
    wait_for_answer(client, by=second, address=address)
    api.delete(Pod, "one", "default")
    wait_until(settled(scene), 15.0)
    assert agent.process.poll() is None


def test_pods_that_come_and_go(scene: Scene, api: ApiServer, agent: Agent) -> None:
    """Many changes of who has which of a few ports: at the end the client reaches who has it then."""
    chance = random.Random(5)
    client = scene.open_client(40_053)
    known: set[str] = set()
    for count in range(150):
        name = f"pod-{chance.randrange(8)}"
        if name in known and chance.random() < 0.5:
            api.delete(Pod, name, "default")
            known.discard(name)
        else:
            created = f"2026-01-{count % 28 + 1:02}T00:00:00Z"
            api.put(pod(name, chance.choice(ENDPOINTS), number=HOST_PORT + chance.randrange(3), created=created))
            known.add(name)
        if count % 10 == 0:
            with suppress(ConnectionRefusedError):
                client.send(NODE, HOST_PORT)
    for name in known:
        api.delete(Pod, name, "default")
    api.put(pod("last", THIRD))
    wait_for_answer(client, by=THIRD)
    assert agent.process.poll() is None
