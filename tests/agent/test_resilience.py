"""What the agent must survive: crashes in the middle of an apply, a flood of changes, an API server that goes away."""

from __future__ import annotations

import random
import shutil
import threading
import time
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import pytest

from rulegen.demo.network import Network
from rulegen.demo.proxy import Sample
from rulegen.demo.servers import Servers, ask_again, connect
from rulegen.kube.objects import EndpointSlice, Service
from tests.agent.running import Playground, save, wait_until, web
from tests.apiserver import ApiServer
from tests.apiserver.faults import ErrorEvent
from tests.builders import Item, node, service_cidr
from tests.nftables.host import host_in
from tests.selection import Extent

pytestmark = pytest.mark.kernel

NODE: list[Item] = [node(), service_cidr("10.96.0.0/16")]
CRASHES, SOME_CRASHES = 50, 15
CHANGES_IN_A_SECOND, FLOOD_SECONDS, SOME_SECONDS = 2000, 20, 6
SAMPLE = Path("rulegen/demo/cluster.yaml")


def _crowd(round_: int) -> list[Item]:
    """150 Services, of which each round changes most."""
    return list(chain.from_iterable(web(number, *range(1, 3 + (number * 7 + round_) % 6)) for number in range(150)))


def test_crashes_leave_the_kernel_right_and_connections_alone(tmp_path: Path, extent: Extent) -> None:
    crashes = CRASHES if extent.exhaustive else SOME_CRASHES
    sample = Sample()
    chance = random.Random(7)
    with ExitStack() as opened:
        network = opened.enter_context(Network(list(sample.pods)))
        servers = opened.enter_context(Servers())
        sample.serve(servers, network.pods)
        ground = Playground(opened.enter_context(host_in(network.node)), tmp_path)
        shutil.copy(SAMPLE, ground.manifests)
        with ground.agent("--node", "node-a", "-f", str(ground.manifests)) as agent:
            agent.wait_for("sync mode=full", 15.0)
        connections = [opened.enter_context(connect(network.client, "203.0.113.80", 80)) for _ in range(6)]
        before = [connection.recv(64).decode().strip() for connection in connections]
        unfinished = 0
        for round_ in range(crashes):
            save(ground.manifests / "crowd.json", *_crowd(round_))
            with ground.agent("--node", "node-a", "-f", str(ground.manifests)) as agent:
                agent.wait_for("following", 15.0)
                # A reading takes some 20 ms, a sync some 60.
                time.sleep(chance.uniform(0.0, 0.15))
                agent.process.kill()
                unfinished += not agent.syncs()
            if round_ % 10 == 0:
                assert [ask_again(connection) for connection in connections] == before, round_
        with ground.agent("--node", "node-a", "-f", str(ground.manifests)) as agent:
            agent.wait_for("sync mode=full", 15.0)
            difference = ground.run("diff", "--node", "node-a", "--config", ground.config, "-f", str(ground.manifests))
            assert difference.returncode == 0, difference.stdout
        assert [ask_again(connection) for connection in connections] == before
        assert unfinished >= crashes / 10


def test_a_flood_of_changes_ends_equal_and_takes_no_memory(
    playground: Playground, api_server: ApiServer, kubeconfig: str, extent: Extent
) -> None:
    seconds = FLOOD_SECONDS if extent.exhaustive else SOME_SECONDS
    services = 200
    hosts: list[tuple[int, ...]] = [(1, 2, 3)] * services
    api_server.put(*NODE, *chain.from_iterable(web(number, *hosts[number]) for number in range(services)))
    chance = random.Random(3)
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for("sync mode=full", 15.0)
        start = time.monotonic()
        memory = 0
        sent = 0
        while sent < CHANGES_IN_A_SECOND * seconds:
            passed = min(time.monotonic() - start, seconds)
            while sent < passed * CHANGES_IN_A_SECOND:
                number = chance.randrange(services)
                hosts[number] = tuple(chance.sample(range(1, 200), chance.randint(1, 5)))
                api_server.put(web(number, *hosts[number])[1])
                sent += 1
            time.sleep(0.01)
            if not memory and passed > seconds / 4:
                memory = agent.memory()
        expected = [*NODE, *chain.from_iterable(web(number, *hosts[number]) for number in range(services))]
        playground.wait_for(expected, 20.0)
        # An event takes a kilobyte or so: kept, those of the last three quarters would take three times as much.
        assert agent.memory() - memory < 3 << 20
        assert "Traceback" not in agent.log


def test_an_api_server_that_is_away_changes_nothing(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    api_server.put(*NODE, *web(1, 1), *web(2, 2))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        playground.wait_for([*NODE, *web(1, 1), *web(2, 2)], 10.0)
        agent.wait_for("sync mode=full")
        generation = playground.settled_generation()
        api_server.stop()
        agent.wait_for("not following ", 10.0)
        # What happens meanwhile, deletions too, and the server forgets how it came.
        api_server.put(*web(1, 5))
        api_server.delete(Service, "web-2", "default")
        api_server.delete(EndpointSlice, "web-2-a", "default")
        api_server.store.compact()
        time.sleep(1.0)
        assert playground.host.generation() == generation
        with playground.namespace.entered():
            api_server.start()
        playground.wait_for([*NODE, *web(1, 5)], 40.0)
        agent.wait_for("following EndpointSlice, Node, Service, ServiceCIDR again", 40.0)
        api_server.put(*web(1, 6))
        playground.wait_for([*NODE, *web(1, 6)], 10.0)


def test_watches_that_have_expired_lose_nothing(playground: Playground, api_server: ApiServer, kubeconfig: str) -> None:
    api_server.put(*NODE, *web(1, 1), *web(2, 2))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        playground.wait_for([*NODE, *web(1, 1), *web(2, 2)], 10.0)
        for kind in (Service, EndpointSlice):
            api_server.disturb(kind, ErrorEvent(410, "Expired"))
        api_server.delete(Service, "web-2", "default")
        api_server.delete(EndpointSlice, "web-2-a", "default")
        api_server.put(*web(1, 7))
        playground.wait_for([*NODE, *web(1, 7)], 15.0)
        assert "Traceback" not in agent.log


def test_one_object_that_cannot_be_used_holds_nobody_up(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    api_server.put(*NODE, *web(1, 1), *web(2, 2))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        playground.wait_for([*NODE, *web(1, 1), *web(2, 2)], 10.0)
        poison = {
            "kind": "Service",
            "metadata": {"name": "web-1", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 70000}]},
        }
        api_server.put(poison, *web(2, 9)[1:])
        playground.wait_for([*NODE, *web(1, 1), *web(2, 9)], 10.0)
        agent.wait_for("Service default/web-1: spec.ports[0].port: expected a port from 1 to 65535, got 70000", 10.0)
        api_server.put(*web(1, 3))
        playground.wait_for([*NODE, *web(1, 3), *web(2, 9)], 10.0)


def test_drift_during_a_flood_is_repaired_too(playground: Playground, api_server: ApiServer, kubeconfig: str) -> None:
    api_server.put(*NODE, *web(1, 1), *web(2, 2))
    stop = threading.Event()

    def churn() -> None:
        for turn in range(400):
            api_server.put(*web(1, 1 + turn % 7)[1:])
            if stop.wait(0.01):
                return

    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for("sync mode=full", 10.0)
        worker = threading.Thread(target=churn)
        worker.start()
        try:
            for command in ("flush ruleset", "flush map ip rulegen endpoints", "delete table ip6 rulegen"):
                # What it names may not be back yet.
                wait_until(lambda text=command: not playground.host.run("nft", text).returncode)  # type: ignore[misc]
        finally:
            stop.set()
            worker.join()
        api_server.put(*web(1, 4)[1:])
        playground.wait_for([*NODE, *web(1, 4), *web(2, 2)], 10.0)
        wait_until(lambda: "repaired " in agent.log)
