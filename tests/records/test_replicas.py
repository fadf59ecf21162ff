"""Two agents for one cluster: one of them has the Lease and writes, the other waits for it."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rulegen.agent.run.lease import Leadership
from rulegen.config import LeaderElection
from tests.agent.asking import Reply, ask
from tests.agent.running import RULEGEN, Agent, wait_until
from tests.apiserver.faults import Answer, Body, Hang
from tests.apiserver.leases import LEASE
from tests.apiserver.server import ApiServer
from tests.builders import service
from tests.patience import patience
from tests.records.servers import Server, serving

NAME = "kube-system/rulegen-records"
KEY = ("kube-system", "rulegen-records")
WAITING = f"waiting for the Lease {NAME}"
WORKING = f"this replica has the Lease {NAME}"
# Long enough for a machine that has other work: what is waited for below is that a Lease has run out.
RENEW_DEADLINE = 4
TIMES = f"leaderElection: {{leaseDuration: 6s, renewDeadline: {RENEW_DEADLINE}s, retryPeriod: 250ms}}"
LOST = "the Lease was lost: ended, so that nobody works beside its new holder"


@pytest.fixture(autouse=True)
def _no_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POD_NAMESPACE", raising=False)


class Replica(Agent):
    """`number`: says at which ports it answers."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, number: int, server: Server) -> None:
        super().__init__(process, folder)
        self._number = number
        self._server = server

    def asked(self, page: str) -> Reply:
        with self._server.namespace.entered():
            return ask((11000 if page == "/metrics" else 12000) + self._number, page)

    def metric(self, sample: str) -> float:
        """As it is written, with its labels."""
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.asked("/metrics").body.decode(), re.MULTILINE)
        assert found is not None, sample
        return float(found[1])

    def dies_without_the_lease(self) -> None:
        assert self.process.wait(patience(20)) == 2
        assert self.log.splitlines()[-1].endswith(LOST)
        assert self.log.count(LOST) == 1


@contextmanager
def _agent(server: Server, kubeconfig: str, number: int) -> Iterator[Replica]:
    folder = server.folder / str(number)
    folder.mkdir()
    config = folder / "config"
    config.write_text(
        f"{TIMES}\n{server.config.read_text()}"
        f"healthzBindAddress: 127.0.0.1:{12000 + number}\nmetricsBindAddress: 127.0.0.1:{11000 + number}\n"
    )
    command = [RULEGEN, "agent", "--kubeconfig", kubeconfig, "--config", str(config)]
    with (folder / "log").open("wb") as log:
        with server.namespace.entered():
            process = subprocess.Popen(command, stderr=log)
        with process:
            try:
                yield Replica(process, folder, number, server)
            finally:
                process.kill()


def _has(server: Server, name: str) -> bool:
    return server.short(f"{name}.default.svc.cluster.local", "A") != []


def _since_renewed(api: ApiServer) -> float:
    renewed = datetime.fromisoformat(api.leases[KEY]["spec"]["renewTime"])
    return (datetime.now(UTC) - renewed).total_seconds()


@pytest.mark.kernel
def test_one_works_and_the_next_takes_over(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving("bind", tmp_path))
        with server.namespace.entered():
            api = stack.enter_context(ApiServer())
        api.put(service("one", ["10.96.0.1"]))
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        first = stack.enter_context(_agent(server, kubeconfig, 1))
        first.wait_for(WORKING, 15.0)
        wait_until(lambda: _has(server, "one"), 15.0)
        second = stack.enter_context(_agent(server, kubeconfig, 2))
        third = stack.enter_context(_agent(server, kubeconfig, 3))
        for agent in (second, third):
            agent.wait_for(WAITING, 15.0)
        # Who waits is ready, too, and says that it does not lead.
        for agent, leads in ((first, True), (second, False)):
            assert [agent.asked(page).status for page in ("/healthz", "/livez")] == [200, 200]
            assert agent.asked("/healthz").json["leading"] is leads
            assert agent.metric("rulegen_leader") == leads
        # One that waits ends when it is told to.
        third.process.send_signal(signal.SIGTERM)
        assert third.process.wait(patience(5)) == 0
        assert (WORKING in third.log, WORKING in second.log) == (False, False)

        first.process.kill()
        api.put(service("two", ["10.96.0.2"]))
        second.wait_for(WORKING, 25.0)
        wait_until(lambda: _has(server, "two"), 15.0)
        assert api.leases[KEY]["spec"]["leaseTransitions"] == 1
        wait_until(lambda: second.metric("rulegen_changes_pending") == 0, 15.0)
        assert second.metric("rulegen_leader") == 1
        # dns-version; A and PTR of both Services.
        assert second.metric("rulegen_record_sets") == 5
        assert second.metric('rulegen_dns_updates_total{result="applied"}') > 0
        assert second.metric("rulegen_sync_last_timestamp_seconds") > 0

        # Stopped for longer than its Lease is good, it finds a change, and writes nothing any more.
        second.process.send_signal(signal.SIGSTOP)
        api.put(service("three", ["10.96.0.3"]))
        wait_until(lambda: _since_renewed(api) > RENEW_DEADLINE + 0.5, 15.0)
        second.process.send_signal(signal.SIGCONT)
        second.dies_without_the_lease()
        assert not _has(server, "three")

        # The rest of the API server answers, the Lease cannot be renewed: it ends, before others may take over.
        fourth = stack.enter_context(_agent(server, kubeconfig, 4))
        fourth.wait_for(WORKING, 25.0)
        wait_until(lambda: _has(server, "three"), 15.0)
        api.inject(LEASE, "get", *[Hang()] * 50)
        fourth.dies_without_the_lease()
        assert fourth.log.count("silent for too long") == 1
        assert "Traceback" not in "".join(agent.log for agent in (first, second, third, fourth))


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as made:
        yield made


@contextmanager
def _leadership(api: ApiServer, folder: Path) -> Iterator[Leadership]:
    kubeconfig = api.kubeconfig(folder / "kubeconfig")
    leadership = Leadership("records", kubeconfig, "", lambda: None, LeaderElection(retry_period=0.1))
    leadership.start()
    try:
        yield leadership
    finally:
        leadership.stop()


def test_one_that_ends_gives_it_to_the_next(api: ApiServer, tmp_path: Path) -> None:
    with _leadership(api, tmp_path) as first:
        wait_until(lambda: first.is_leading)
        spec = api.leases[KEY]["spec"]
    assert spec["holderIdentity"]
    assert api.leases[KEY]["spec"]["holderIdentity"] == ""
    # What others have put there stays.
    api.leases[KEY]["metadata"]["labels"] = {"theirs": "yes"}
    with _leadership(api, tmp_path) as second:
        wait_until(lambda: second.is_leading)
        assert api.leases[KEY]["metadata"]["labels"] == {"theirs": "yes"}
        # Somebody has taken it by force.
        api.leases[KEY] = {**api.leases[KEY], "spec": {**spec, "holderIdentity": "theirs"}}
        wait_until(lambda: second.is_lost, 10.0)
    assert api.leases[KEY]["spec"]["holderIdentity"] == "theirs"


def test_a_refusal_is_told_once(api: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # What is no Lease, what may not be read or made, one that was faster: an attempt that failed each.
    for _ in range(2):
        api.inject(LEASE, "get", Answer(403, "Forbidden"), Answer(403, "Forbidden"), Body(b"[]"))
    api.inject(LEASE, "create", Answer(403, "Forbidden"), Answer(409, "AlreadyExists"))
    with caplog.at_level(logging.INFO), _leadership(api, tmp_path) as leadership:
        wait_until(lambda: leadership.is_leading, 15.0)
    said = [record.getMessage() for record in caplog.records if record.name == "rulegen.agent"]
    path = f"{api.url}/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    assert [line.partition(" Forbidden")[0] for line in said] == [
        f"the Lease {NAME} (said once): {path}/rulegen-records: 403",
        f"the Lease {NAME} (said once): {api.url}: the answer is no Lease: Expected `object`, got `array`",
        f"the Lease {NAME} (said once): {path}: 403",
        f"the Lease {NAME} can be read and written again",
    ]
