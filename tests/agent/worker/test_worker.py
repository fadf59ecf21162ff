"""The working thread with a kernel that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from rulegen.agent.http.health import Health
from rulegen.agent.http.health_checks import ServiceHealthServers
from rulegen.agent.http.server import HttpServer
from rulegen.agent.observers.observers import HealthObserver
from rulegen.agent.worker.drift import NoDriftDetection
from rulegen.agent.worker.readiness import Readiness
from rulegen.agent.worker.work_queue import WorkQueue
from rulegen.agent.worker.worker import Pace, Worker
from rulegen.config import AgentConfiguration, Family
from rulegen.features import kinds_of
from rulegen.kube.follow import Synced, Upsert
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR
from rulegen.nftables.live_rules import LiveTables
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler
from tests.agent.running import wait_until, web
from tests.builders import node
from tests.kept import services_on
from tests.nftables.host import Host, host_or_skip
from tests.patience import patience

pytestmark = pytest.mark.kernel


class Hanging(LiveTables):
    """The kernel, but reading it does not end before it is told to."""

    def __init__(self, host: Host, compilers: CompilerSet) -> None:
        super().__init__(host.kernel, compilers)
        self.goes_on = threading.Event()

    def read(self) -> None:
        self.goes_on.wait(patience(60))
        super().read()


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


def test_a_first_sync_that_hangs_is_unhealthy(host: Host) -> None:
    services, compilers = services_on("nftables")
    rules = Hanging(host, compilers)
    reconciler = Reconciler([services], rules)
    health = Health(tuple(Family), 0.5, requires_node=False)
    stopping = threading.Event()
    with closing(WorkQueue()) as work_queue, closing(HttpServer()) as server:
        servers = ServiceHealthServers(health, server, 10, lambda *_: None)
        agent = AgentConfiguration()
        pace = Pace(agent.min_sync_period, agent.sync_period, 200)
        readiness = Readiness(time.monotonic(), kinds_of(()), "node-1", needs_node=False, needs_pod_cidrs=False)
        worker = Worker(
            reconciler,
            work_queue,
            NoDriftDetection(),
            pace,
            readiness,
            [HealthObserver(health, servers, services.node_name, 30.0)],
        )

        def work() -> None:
            with host.namespace.entered():
                worker.run(stopping.is_set)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            time.sleep(1.5)
            assert health.is_healthy(), "it only waits for the API server"
            for item in (node(), *web(1, 1)):
                work_queue.deliver(Upsert(item))
            for kind in (Service, EndpointSlice, Node, ServiceCIDR):
                work_queue.deliver(Synced(kind))
            wait_until(lambda: health.livez().status == 503, 10.0)
            rules.goes_on.set()
            wait_until(lambda: health.livez().status == 200, 10.0)
            assert len(reconciler.applied(services.name)) == 1
        finally:
            stopping.set()
            rules.goes_on.set()
            work_queue.wake_up()
            thread.join(patience(10))
