"""The agent with odd credentials and odd servers: what it says, that it can be stopped at once, and what it leaves."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from rulegen.kube.kinds import WatchedKind
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR
from tests.agent.running import Playground, wait_until, web
from tests.apiserver import ApiServer
from tests.apiserver.faults import Drip, Hang, Raw
from tests.apiserver.faults import Fault as ServerFault
from tests.apiserver.server import TOKEN, certificate_authority
from tests.builders import Item, node, service_cidr
from tests.patience import patience

pytestmark = pytest.mark.kernel

NODE: list[Item] = [node(), service_cidr("10.96.0.0/16")]
KINDS: tuple[WatchedKind, ...] = (Service, EndpointSlice, Node, ServiceCIDR)


# An agent whose patience with servers and plugins has no end that a test could wait for.
UNHURRIED = """
import rulegen.kube.api, rulegen.kube.listing, rulegen.kube.plugin
api = rulegen.kube.api
api._CONNECT_SECONDS = api._CREDENTIALS_SECONDS = api._REFUSAL_SECONDS = api._BODY_SECONDS = 3600.0
rulegen.kube.listing.LIST_SECONDS, rulegen.kube.plugin._SECONDS = 3600.0, 3600
from rulegen.cli import main
main(prog_name="rulegen")
"""


@pytest.fixture
def unhurried(playground: Playground) -> Playground:
    playground.program = (sys.executable, "-c", UNHURRIED)
    return playground


def stops_at_once(agent: Any) -> None:
    """An unhurried agent would hang for an hour."""
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(patience(10)) == 0
    assert "Traceback" not in agent.log


# -- stopping --


@pytest.mark.parametrize(
    "fault",
    [
        Hang(),
        Raw(b"HTTP/1.1 200 OK\r\n", hangs=True),
        Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", hangs=True),
        Drip(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.01),
        Drip(b"HTTP/1.1 200 OK\r\n\r\n", b" ", 0.01),
    ],
)
def test_sigterm_while_the_server_answers_without_an_end(
    unhurried: Playground, api_server: ApiServer, kubeconfig: str, fault: ServerFault
) -> None:
    for kind in KINDS:
        api_server.inject(kind, "list", *[fault] * 5)
    with unhurried.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for("following ", 15.0)
        wait_until(lambda: len(api_server.requests) >= len(KINDS), 15.0)
        stops_at_once(agent)


@contextmanager
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield silent.getsockname()[1]


@pytest.mark.parametrize("where", ["server", "http", "https", "socks5"])
def test_sigterm_while_somebody_says_nothing(
    unhurried: Playground, api_server: ApiServer, tmp_path: Path, where: str
) -> None:
    """In the handshake with the server, or with a proxy."""
    with unhurried.namespace.entered():
        silent: AbstractContextManager[int] = listener()
        port = silent.__enter__()
    try:
        cluster = {"server": f"https://127.0.0.1:{port}"}
        if where != "server":
            cluster = {"proxy-url": f"{where}://127.0.0.1:{port}"}
        kubeconfig = api_server.kubeconfig(tmp_path / "k", cluster=cluster)
        with unhurried.agent("--kubeconfig", kubeconfig) as agent:
            agent.wait_for("following ", 15.0)
            time.sleep(0.5)
            stops_at_once(agent)
    finally:
        silent.__exit__(None, None, None)


def plugin(api_server: ApiServer, tmp_path: Path, script: str) -> str:
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    fields = {"command": "./plugin", "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
    return api_server.kubeconfig(tmp_path / "kubeconfig", user={"exec": fields})


@pytest.mark.parametrize("script", ["sleep 300", "trap '' TERM; while :; do sleep 300; done"])
def test_sigterm_while_a_plugin_hangs(
    unhurried: Playground, api_server: ApiServer, tmp_path: Path, script: str
) -> None:
    kubeconfig = plugin(api_server, tmp_path, f"echo $$ > {tmp_path}/pid; {script}")
    with unhurried.agent("--kubeconfig", kubeconfig) as agent:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", 15.0)
        stops_at_once(agent)
    number = (tmp_path / "pid").read_text().strip()
    wait_until(lambda: _has_ended(number), 5.0)


def _has_ended(number: str) -> bool:
    """Though nobody may have asked for its status."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_sigterm_while_a_kubeconfig_is_a_pipe_without_a_writer(unhurried: Playground, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with unhurried.agent("--kubeconfig", str(tmp_path / "pipe")) as agent:
        wait_until(lambda: _handles_sigterm(agent.process.pid), 10.0)
        time.sleep(0.5)
        stops_at_once(agent)


def _handles_sigterm(number: int) -> bool:
    status = Path(f"/proc/{number}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & 1 << signal.SIGTERM - 1)


# -- what it says --


def lines(log: str, *words: str) -> list[str]:
    return [line for line in log.splitlines() if any(word in line for word in words)]


def test_a_failure_that_all_kinds_share_is_said_once(
    playground: Playground, api_server: ApiServer, tmp_path: Path
) -> None:
    authority = base64.b64encode(trustme.CA().cert_pem.bytes()).decode()
    kubeconfig = api_server.kubeconfig(tmp_path / "k", cluster={"certificate-authority-data": authority})
    api_server.put(*NODE, *web(1, 1))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        wait_until(lambda: api_server.connections >= 12, 20.0)
        said = lines(agent.log, "WARNING", "ERROR")
        assert len(said) == 1, said
        assert "not following " in said[0]
        assert "its certificate is not accepted: " in said[0]
        # The right authority comes: at most half a minute later all is well.
        api_server.kubeconfig(tmp_path / "k")
        stops_at_once(agent)


def test_a_plugin_that_fails_is_said_once_and_tried_again(
    playground: Playground, api_server: ApiServer, tmp_path: Path
) -> None:
    kubeconfig = plugin(api_server, tmp_path, f"echo run >> {tmp_path}/runs; echo 'not yet' >&2; exit 7")
    api_server.put(*NODE, *web(1, 1))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        wait_until(lambda: (tmp_path / "runs").exists() and (tmp_path / "runs").read_text().count("run") >= 8, 20.0)
        said = lines(agent.log, "WARNING", "ERROR")
        assert len(said) == 1, said
        assert f"{kubeconfig}: user me: exec: {tmp_path}/plugin: exit status 7: not yet" in said[0]
        credential = {"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1"}
        document = json.dumps({**credential, "status": {"token": TOKEN}})
        new = tmp_path / "new"
        new.write_text(f"#!/bin/sh\necho '{document}'\n")
        new.chmod(0o755)
        new.rename(tmp_path / "plugin")
        playground.wait_for([*NODE, *web(1, 1)], 40.0)


def test_a_server_that_is_not_checked_is_warned_of_once(
    playground: Playground, api_server: ApiServer, tmp_path: Path
) -> None:
    cluster = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
    kubeconfig = api_server.kubeconfig(tmp_path / "k", cluster=cluster)
    api_server.put(*NODE, *web(1, 1))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        playground.wait_for([*NODE, *web(1, 1)], 15.0)
        assert len(lines(agent.log, "insecure-skip-tls-verify")) == 1
        assert "InsecureRequestWarning" not in agent.log
        assert "urllib3" not in agent.log


def test_headers_of_a_hostile_server_are_not_printed(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    api_server.put(*NODE, *web(1, 1))
    odd = b"HTTP/1.1 500 \x1b[31m\r\nno header\x1b[31m\r\n\x00: x\r\nContent-Length: 5\r\n\r\n\x1b[2J<>"
    api_server.inject(Service, "list", Raw(odd))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        playground.wait_for([*NODE, *web(1, 1)], 15.0)
        assert "not following Service" in agent.log
        assert "\x1b" not in agent.log
        assert "Traceback" not in agent.log


# -- what it uses and leaves --


def test_a_token_that_rotates(playground: Playground, api_server: ApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("not-yet")
    kubeconfig = api_server.kubeconfig(tmp_path / "k", token_file=token)
    api_server.put(*NODE, *web(1, 1))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for("401 Unauthorized", 15.0)
        token.write_text(f"{TOKEN}\r\n")
        playground.wait_for([*NODE, *web(1, 1)], 40.0)
        agent.wait_for(" again", 10.0)


def test_keys_never_touch_a_disk(
    playground: Playground, api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the agent is killed, which no clean-up survives."""
    places = tmp_path / "tmp"
    places.mkdir()
    monkeypatch.setenv("TMPDIR", str(places))
    client = certificate_authority().issue_cert("me")
    user = {
        "client-certificate-data": base64.b64encode(client.cert_chain_pems[0].bytes()).decode(),
        "client-key-data": base64.b64encode(client.private_key_pem.bytes()).decode(),
    }
    api_server.tokens = set()
    api_server.put(*NODE, *web(1, 1))
    with playground.agent("--kubeconfig", api_server.kubeconfig(tmp_path / "k", user=user)) as agent:
        playground.wait_for([*NODE, *web(1, 1)], 15.0)
        during = _files_with(places, b"PRIVATE KEY")
        agent.process.kill()
        agent.process.wait()
    assert during == _files_with(places, b"PRIVATE KEY") == []


def _files_with(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_the_kubeconfig_of_the_configuration_is_used_by_all_commands(
    playground: Playground, api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig = api_server.kubeconfig(tmp_path / "k")
    wrong = tmp_path / "wrong"
    wrong.write_text(Path(kubeconfig).read_text().replace(api_server.url, "https://127.0.0.1:1"))
    api_server.put(*NODE, *web(1, 1))
    monkeypatch.setenv("KUBECONFIG", str(wrong))
    playground.configure(f"clientConnection: {{kubeconfig: {kubeconfig}}}")

    def run(*arguments: str) -> Any:
        return playground.run(*arguments, "--config", playground.config)

    found = run("snapshot")
    assert (found.returncode, "10.96.0.2" in found.stdout) == (0, True), found.stderr
    assert run("apply", "--node", "node-1").returncode == 0
    assert run("diff", "--node", "node-1").returncode == 0
    assert "10.96.0.2" in run("render", "--node", "node-1").stdout
    assert "10.96.0.2" in run("explain", "default/web-1", "--node", "node-1").stdout
    assert run("lint", "--node", "node-1").returncode in (0, 1)
    # What is named comes first.
    failed = run("diff", "--kubeconfig", str(wrong))
    assert (failed.returncode, failed.stderr) == (2, "rulegen: https://127.0.0.1:1: Connection refused\n")
