"""Credential plugins: what they may give, and every way in which another's program goes wrong."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rulegen.errors import InputError
from rulegen.kube.api import Api, ApiError, connect
from tests.apiserver import ApiServer
from tests.apiserver.server import TOKEN, certificate_authority
from tests.kube.conftest import listed, refusal
from tests.patience import patience

pytestmark = pytest.mark.usefixtures("nowhere")

V1 = "client.authentication.k8s.io/v1"
BETA = "client.authentication.k8s.io/v1beta1"


class Plugin:
    """A plugin in a folder: `output` is what it prints, `runs` how often it was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "bin/plugin"
        self.path.parent.mkdir()
        self.script(
            f'echo run >> {folder}/runs; printf %s "$KUBERNETES_EXEC_INFO" > {folder}/info; cat {folder}/output'
        )
        self.gives(token=TOKEN)

    def script(self, text: str) -> None:
        self.path.write_text(f"#!/bin/sh\n{text}\n")
        self.path.chmod(0o755)

    def prints(self, document: object) -> None:
        (self.folder / "output").write_text(document if isinstance(document, str) else json.dumps(document))

    def gives(self, version: str = V1, **status: Any) -> None:
        self.prints({"kind": "ExecCredential", "apiVersion": version, "status": status})

    @property
    def runs(self) -> int:
        runs = self.folder / "runs"
        return runs.read_text().count("run") if runs.exists() else 0

    @property
    def information(self) -> Any:
        return json.loads((self.folder / "info").read_text())


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


@pytest.fixture
def using(server: ApiServer, tmp_path: Path) -> Callable[..., Api]:
    """An Api of the server with these fields in `exec`."""

    def make(*, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **fields: Any) -> Api:
        found = {"command": "bin/plugin", "apiVersion": V1, "interactiveMode": "Never", **fields}
        whole = {**(user or {}), "exec": {name: value for name, value in found.items() if value is not None}}
        return connect(server.kubeconfig(tmp_path / "config", user=whole, cluster=cluster))

    return make


def message(call: Callable[[], object], tmp_path: Path) -> str:
    return refusal(call, InputError).replace(str(tmp_path), "PATH").removeprefix("PATH/config: user me: exec")


# -- what it gives --


@pytest.mark.parametrize("version", [V1, BETA])
def test_a_token_is_asked_for_once(plugin: Plugin, using: Callable[..., Api], version: str) -> None:
    plugin.gives(version, token=TOKEN)
    api = using(apiVersion=version, interactiveMode=None if version == BETA else "IfAvailable")
    assert plugin.runs == 0
    assert listed(api) == listed(api) == []
    assert plugin.runs == 1
    assert plugin.information == {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}


def test_a_certificate(server: ApiServer, plugin: Plugin, using: Callable[..., Api]) -> None:
    server.tokens = set()
    client = certificate_authority().issue_cert("me")
    certificate = b"".join(pem.bytes() for pem in client.cert_chain_pems).decode()
    plugin.gives(clientCertificateData=certificate, clientKeyData=client.private_key_pem.bytes().decode())
    api = using()
    assert listed(api) == listed(api) == []
    assert (plugin.runs, server.connections) == (1, 1)


def test_what_has_expired_is_asked_for_again(server: ApiServer, plugin: Plugin, using: Callable[..., Api]) -> None:
    def until(seconds: float) -> str:
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")

    plugin.gives(token=TOKEN, expirationTimestamp=until(-1))
    api = using()
    listed(api)
    plugin.gives(token="second", expirationTimestamp=until(3600))  # noqa: S106
    server.tokens = {"second"}
    listed(api)
    listed(api)
    assert plugin.runs == 2


def test_what_is_refused_is_asked_for_again(server: ApiServer, plugin: Plugin, using: Callable[..., Api]) -> None:
    api = using()
    listed(api)
    server.tokens = {"second"}
    plugin.gives(token="second")  # noqa: S106
    listed(api)
    assert plugin.runs == 2
    server.tokens = set()
    assert "401 Unauthorized" in refusal(lambda: listed(api))
    assert plugin.runs == 3


def test_reading_the_kubeconfig_again_does_not_run_it(
    plugin: Plugin, using: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulegen.kube.api._CREDENTIALS_SECONDS", 0.0)
    api = using()
    listed(api)
    listed(api)
    assert plugin.runs == 1
    using(args=["other"])
    listed(api)
    assert plugin.runs == 2


def test_threads_that_need_it_together_run_it_once(plugin: Plugin, using: Callable[..., Api]) -> None:
    api = using()
    threads = [threading.Thread(target=listed, args=(api,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert plugin.runs == 1


def test_a_token_of_the_kubeconfig_comes_first(plugin: Plugin, using: Callable[..., Api]) -> None:
    listed(using(user={"token": TOKEN}))
    assert plugin.runs == 0


def test_what_it_is_told(server: ApiServer, plugin: Plugin, using: Callable[..., Api], tmp_path: Path) -> None:
    plugin.script(f'printf "%s\\n" "$0" "$@" "$A" "$B" > {tmp_path}/said; {plugin.path.read_text().splitlines()[1]}')
    os.environ["A"] = "outer"
    try:
        extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": ["x"]}}
        listed(
            using(
                args=["get token", "", "--for=it"],
                env=[{"name": "B", "value": "a 'b' $c"}, {"name": "PATH", "value": os.environ["PATH"]}],
                provideClusterInfo=True,
                cluster={"extensions": [{"name": "other", "extension": 5}, extension], "tls-server-name": "localhost"},
            )
        )
    finally:
        del os.environ["A"]
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [str(plugin.path), "get token", "", "--for=it", "outer", "a 'b' $c"]
    told = plugin.information["spec"]["cluster"]
    assert set(told) == {"server", "tls-server-name", "certificate-authority-data", "config"}
    assert (told["server"], told["tls-server-name"]) == (server.url, "localhost")
    assert told["config"] == {"audience": ["x"]}
    assert told["certificate-authority-data"]


def test_a_plugin_of_the_path(plugin: Plugin, using: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{plugin.path.parent}:{os.environ['PATH']}")
    listed(using(command="plugin"))
    assert plugin.runs == 1


# -- how it goes wrong --


def test_a_plugin_on_another_system(
    using: Callable[..., Api], plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    expected = ": plugins are run on Linux alone; take a kubeconfig with a token or a certificate"
    assert message(lambda: listed(using()), tmp_path) == expected
    assert plugin.runs == 0


def test_a_plugin_that_is_not_there(using: Callable[..., Api], plugin: Plugin, tmp_path: Path) -> None:
    hint = "install it:\n  curl \x1b[31m | sh\n" + "x" * 9999
    api = using(command="no-such-plugin", installHint=hint)
    said = message(lambda: listed(api), tmp_path)
    assert said.startswith(".command: no-such-plugin: no such program; ")
    assert len(said) < 500
    assert message(lambda: listed(using(command="./none")), tmp_path) == ".command: PATH/none: no such program"
    plugin.path.chmod(0o644)
    assert message(lambda: listed(using()), tmp_path) == ".command: PATH/bin/plugin: no such program"
    plugin.path.write_text("no program")
    plugin.path.chmod(0o755)
    assert message(lambda: listed(using()), tmp_path) == ".command: PATH/bin/plugin: Exec format error"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 3", "exit status 3"),
        ("echo 'no\x1b[1m login\n\nfor you' >&2; exit 1", "exit status 1: "),
        ("kill -9 $$", "ended by signal 9"),
        ("true", "expected an ExecCredential as JSON, got something else"),
        ("echo hello", "expected an ExecCredential as JSON, got something else"),
        ("echo '[]'", "expected an ExecCredential as JSON, got something else"),
        ("echo '{}'", 'expected "ExecCredential" of "client.authentication.k8s.io/v1", got "" of ""'),
        ("printf '\\377\\376\\000'", "expected an ExecCredential as JSON, got something else"),
        ("head -c 3000000 /dev/zero", "prints more than 1 MiB"),
        ("head -c 3000000 /dev/zero >&2", "prints more than 1 MiB"),
        ("yes", "prints more than 1 MiB"),
    ],
)
def test_a_plugin_that_fails(
    using: Callable[..., Api], plugin: Plugin, tmp_path: Path, script: str, expected: str
) -> None:
    plugin.script(script)
    said = message(lambda: listed(using()), tmp_path)
    assert said.startswith(f": PATH/bin/plugin: {expected}")
    assert len(said) < 500


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"kind": "Secret", "apiVersion": V1}, 'got "Secret" of'),
        ({"kind": "ExecCredential", "apiVersion": BETA, "status": {"token": "t"}}, f'"ExecCredential" of "{BETA}"'),
        ({"kind": "ExecCredential", "apiVersion": V1}, "expected a token, or a certificate and its key, got neither"),
        ({"kind": "ExecCredential", "apiVersion": V1, "status": None}, "got neither"),
        ({"kind": "ExecCredential", "apiVersion": V1, "status": {"token": ""}}, "got neither"),
        ({"kind": "ExecCredential", "apiVersion": V1, "status": {"token": 5}}, "status.token"),
        ({"kind": "ExecCredential", "apiVersion": V1, "status": {"token": "a\nb"}}, "found U+000A at character 2"),
        ({"kind": "ExecCredential", "apiVersion": V1, "status": {"clientKeyData": "x"}}, "got one of them"),
        ({"kind": "ExecCredential", "apiVersion": V1, "status": {"clientCertificateData": "x"}}, "got one of them"),
        (
            {
                "kind": "ExecCredential",
                "apiVersion": V1,
                "status": {"clientCertificateData": "x", "clientKeyData": "y"},
            },
            "clientCertificateData: expected a certificate in PEM",
        ),
        (
            {
                "kind": "ExecCredential",
                "apiVersion": V1,
                "status": {"token": "t", "expirationTimestamp": "tomorrow"},
            },
            "expirationTimestamp",
        ),
        (
            {
                "kind": "ExecCredential",
                "apiVersion": V1,
                "status": {"token": "t", "expirationTimestamp": "2030-01-01T00:00:00"},
            },
            "expirationTimestamp",
        ),
        ("[" * 100_000, "expected an ExecCredential as JSON"),
    ],
)
def test_what_is_no_credential_is_never_taken_for_nobody(
    server: ApiServer, using: Callable[..., Api], plugin: Plugin, tmp_path: Path, document: Any, expected: str
) -> None:
    plugin.prints(document)
    server.tokens.add("")
    said = message(lambda: listed(using()), tmp_path)
    assert expected in said
    assert not server.requests


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"command": None}, ".command: expected a program, it is not set"),
        ({"apiVersion": None}, f".apiVersion: expected {V1} or {BETA}, it is not set"),
        ({"apiVersion": BETA.replace("beta", "alpha")}, f".apiVersion: expected {V1} or {BETA}, got "),
        ({"interactiveMode": None}, ".interactiveMode: expected Never, IfAvailable, Always, it is not set"),
        ({"interactiveMode": "Sometimes"}, '.interactiveMode: expected Never, IfAvailable, Always, got "Sometimes"'),
        ({"env": [{"value": "x"}]}, ".env: expected the name of a variable"),
        ({"env": [{"name": "a=b", "value": "x"}]}, ".env: expected the name of a variable"),
        ({"args": ["a\0b"]}, ": a program cannot be given text with a zero byte"),
    ],
)
def test_a_plugin_that_is_not_described_well(
    using: Callable[..., Api], plugin: Plugin, tmp_path: Path, fields: dict[str, Any], expected: str
) -> None:
    assert message(lambda: using(**fields), tmp_path).startswith(expected)


def test_a_plugin_that_must_ask_a_person(
    using: Callable[..., Api], plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/null").open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        said = message(lambda: listed(using(interactiveMode="Always")), tmp_path)
    assert said == ".interactiveMode: the plugin wants to ask a person, and there is no terminal"
    assert plugin.runs == 0


def test_a_plugin_may_ask_at_a_terminal(
    using: Callable[..., Api], plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin.script(f"[ -t 0 ] && read name && echo $name > {tmp_path}/name; {plugin.path.read_text().splitlines()[1]}")
    ours, theirs = os.openpty()
    os.write(ours, b"jane\n")
    before = os.dup(0)
    os.dup2(theirs, 0)
    try:
        with open(0, closefd=False) as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            listed(using(interactiveMode="Always"))
            assert plugin.information["spec"]["interactive"] is True
            (tmp_path / "name").unlink()
            listed(using(interactiveMode="Never"))
            assert not (tmp_path / "name").exists()
    finally:
        os.dup2(before, 0)
        for descriptor in (ours, theirs, before):
            os.close(descriptor)


def processes(tmp_path: Path) -> list[str]:
    """Those that a plugin has begun and noted the numbers of, and that do not end."""
    numbers = (tmp_path / "pids").read_text().split()
    end = time.monotonic() + patience(10)
    while (left := [number for number in numbers if _state(number) not in ("Z", "")]) and time.monotonic() < end:
        time.sleep(0.01)
    return left


def _state(number: str) -> str:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


HANGS = [
    "echo $$ > {0}/pids; sleep 300",
    "trap '' TERM INT HUP; echo $$ > {0}/pids; while :; do sleep 300; done",
    "echo $$ > {0}/pids; exec >&- 2>&-; sleep 300",
    "sleep 300 & echo $$ $! > {0}/pids; wait",
    "echo $$ > {0}/pids; while :; do echo x; sleep 0.1; done",
]


@pytest.mark.parametrize("script", HANGS)
def test_a_plugin_that_hangs_can_be_ended(
    using: Callable[..., Api], plugin: Plugin, tmp_path: Path, script: str
) -> None:
    plugin.script(script.format(tmp_path))
    api = using()
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            listed(api)
        except ApiError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    end = time.monotonic() + patience(10)
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    start = time.monotonic()
    api.close()
    asking.join(patience(20))
    # It sleeps for 300.
    assert time.monotonic() - start < patience(10)
    assert len(errors) == 1
    assert processes(tmp_path) == []
    # Nothing is begun any more.
    (tmp_path / "pids").unlink()
    assert refusal(lambda: listed(api)).endswith(": ended")
    assert not (tmp_path / "pids").exists()


@pytest.mark.parametrize("script", HANGS)
def test_a_plugin_that_hangs_is_not_waited_for_without_end(
    using: Callable[..., Api], plugin: Plugin, tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin.script(script.format(tmp_path))
    for seconds in (1, 5, 25):
        monkeypatch.setattr("rulegen.kube.plugin._SECONDS", seconds)
        assert message(lambda: listed(using()), tmp_path) == f": PATH/bin/plugin: has not ended within {seconds} s"
        # On a busy machine a shell may not have come far by then.
        if (tmp_path / "pids").exists():
            break
    assert processes(tmp_path) == []


def test_what_a_plugin_leaves_behind_is_not_waited_for(
    using: Callable[..., Api], plugin: Plugin, tmp_path: Path
) -> None:
    plugin.script(f"cat {tmp_path}/output; sleep 300 & echo $! > {tmp_path}/pids")
    start = time.monotonic()
    listed(using())
    # It sleeps for 300.
    assert time.monotonic() - start < patience(10)
    os.kill(int((tmp_path / "pids").read_text()), 9)


def test_no_descriptor_is_left(using: Callable[..., Api], plugin: Plugin, tmp_path: Path) -> None:
    api = using()
    listed(api)
    before = len(list(Path("/proc/self/fd").iterdir()))
    plugin.script("exit 1")
    api = using()
    for _ in range(5):
        message(lambda: listed(api), tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_a_key_is_never_shown(using: Callable[..., Api], plugin: Plugin, tmp_path: Path) -> None:
    client = certificate_authority().issue_cert("me")
    other = certificate_authority().issue_cert("other")
    certificate = client.cert_chain_pems[0].bytes().decode()
    plugin.gives(clientCertificateData=certificate, clientKeyData=other.private_key_pem.bytes().decode())
    said = message(lambda: listed(using()), tmp_path)
    assert said == ": clientKeyData: the key is not that of the certificate"
