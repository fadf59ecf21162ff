"""Two agents for one cluster: one of them has the Lease and writes, the other waits for it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rulegen.agent.run.lease import Leadership
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
LOST = "the Lease was lost: ended, so that nobody works beside its new holder"


@pytest.fixture(autouse=True)
def _no_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POD_NAMESPACE", raising=False)


@contextmanager
def _agent(server: Server, kubeconfig: str, name: str) -> Iterator[Agent]:
    folder = server.folder / name
    folder.mkdir()
    command = [RULEGEN, "agent", "--kubeconfig", kubeconfig, "--config", str(server.config)]
    with (folder / "log").open("wb") as log:
        with server.namespace.entered():
            process = subprocess.Popen(command, stderr=log)
        with process:
            try:
                yield Agent(process, folder)
            finally:
                process.kill()


def _has(server: Server, name: str) -> bool:
    return server.short(f"{name}.default.svc.cluster.local", "A") != []


@pytest.mark.kernel
def test_one_works_and_the_next_takes_over(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving("bind", tmp_path))
        with server.namespace.entered():
            api = stack.enter_context(ApiServer())
        api.put(service("one", ["10.96.0.1"]))
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        first = stack.enter_context(_agent(server, kubeconfig, "first"))
        first.wait_for(WORKING, 15.0)
        wait_until(lambda: _has(server, "one"), 15.0)
        second = stack.enter_context(_agent(server, kubeconfig, "second"))
        third = stack.enter_context(_agent(server, kubeconfig, "third"))
        for agent in (second, third):
            agent.wait_for(WAITING, 15.0)
        # One that waits ends when it is told to.
        third.process.send_signal(signal.SIGTERM)
        assert third.process.wait(patience(5)) == 0
        assert (WORKING in third.log, WORKING in second.log) == (False, False)

        first.process.kill()
        api.put(service("two", ["10.96.0.2"]))
        second.wait_for(WORKING, 25.0)
        wait_until(lambda: _has(server, "two"), 15.0)
        assert api.leases[KEY]["spec"]["leaseTransitions"] == 1

        # The rest of the API server answers, the Lease cannot be renewed: it ends, before others may take over.
        api.inject(LEASE, "get", *[Hang()] * 50)
        assert second.process.wait(patience(20)) == 2
        assert second.log.splitlines()[-1].endswith(LOST)
        assert second.log.count(LOST) == 1
        assert second.log.count("silent for too long") == 1
        assert "Traceback" not in first.log + second.log + third.log


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as made:
        yield made


@contextmanager
def _leadership(api: ApiServer, folder: Path) -> Iterator[Leadership]:
    leadership = Leadership("records", api.kubeconfig(folder / "kubeconfig"), "", lambda: None)
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
    api.inject(LEASE, "get", Answer(403, "Forbidden"), Answer(403, "Forbidden"), Body(b"[]"))
    api.inject(LEASE, "create", Answer(403, "Forbidden"), Answer(409, "AlreadyExists"))
    with _leadership(api, tmp_path) as leadership:
        wait_until(lambda: leadership.is_leading, 15.0)
    said = [record.getMessage() for record in caplog.records if record.name == "rulegen.agent"]
    path = f"{api.url}/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    assert [line.partition(" Forbidden")[0] for line in said] == [
        f"the Lease {NAME}: {path}/rulegen-records: 403",
        f"the Lease {NAME}: {api.url}: the answer is no Lease: Expected `object`, got `array`",
        f"the Lease {NAME}: {path}: 403",
    ]
