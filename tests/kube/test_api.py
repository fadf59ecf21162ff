"""Finding a cluster and asking it: what is wrong is one line that says what to do."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trustme

from rulegen.errors import InputError
from rulegen.kube import api as api_module
from rulegen.kube.api import Api, ApiError, connect
from rulegen.kube.kinds import kind_of
from rulegen.kube.kubeconfig import find_access, from_service_account
from rulegen.kube.listing import NotServedError, list_pages
from rulegen.kube.objects import Service, ServiceCIDR
from tests.agent.running import wait_until
from tests.apiserver import EVENT, ApiServer
from tests.apiserver.faults import Answer, Drip, Hang, Raw
from tests.apiserver.leases import LEASE
from tests.apiserver.server import TOKEN, certificate_authority
from tests.builders import service
from tests.kube.conftest import listed, refusal
from tests.patience import patience

pytestmark = pytest.mark.usefixtures("nowhere")


# Where the cluster is.


def test_the_kubeconfig_that_is_named_comes_first(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = server.kubeconfig(tmp_path / "named")
    (tmp_path / "home/.kube").mkdir(parents=True)
    for number, path in enumerate((tmp_path / "environment", tmp_path / "home/.kube/config")):
        path.write_text(Path(named).read_text().replace(server.url, f"https://192.0.2.{number}"))
    assert connect().server == "https://192.0.2.1"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "environment"))
    assert connect().server == "https://192.0.2.0"
    assert connect(named).server == server.url
    assert connect(named, "https://192.0.2.9:6443").server == "https://192.0.2.9:6443"


def test_several_kubeconfigs_are_one(server: ApiServer, tmp_path: Path) -> None:
    document = json.loads(Path(server.kubeconfig(tmp_path / "all")).read_text())
    users = {"apiVersion": "v1", "kind": "Config", "users": document.pop("users")}
    (tmp_path / "users").write_text(json.dumps(users))
    (tmp_path / "rest").write_text(json.dumps(document))
    server.put(service("web"))
    assert [item.name for item in listed(connect(f"{tmp_path / 'rest'}:{tmp_path / 'users'}:{tmp_path / 'none'}"))] == [
        "web"
    ]


def test_a_pod_uses_its_service_account(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = server.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    (tmp_path / "token").write_text(TOKEN)
    certificate_authority().cert_pem.write_to_path(tmp_path / "ca.crt")
    server.put(service("web"))
    pod = Api(lambda: from_service_account(tmp_path))
    assert [item.name for item in listed(pod)] == ["web"]
    # The token rotates.
    server.tokens = {"second"}
    (tmp_path / "token").write_text("second")
    assert [item.name for item in listed(pod)] == ["web"]
    message = refusal(find_access(), InputError)
    assert message == (
        "/var/run/secrets/kubernetes.io/serviceaccount: not a usable service account: "
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt: No such file or directory"
    )


def test_no_cluster_at_all() -> None:
    assert refusal(connect, InputError) == (
        "nothing to read: no manifests (-f), no kubeconfig (--kubeconfig, $KUBECONFIG, ~/.kube/config), "
        "and this is no pod of a cluster"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "PATH: current-context: expected the name of a context, it is not set"),
        ("{", "PATH:2:1: not a kubeconfig: did not find expected node content"),
        ("5", "PATH: not a kubeconfig: expected object, got int"),
        ("[]", "PATH: not a kubeconfig: expected object, got array"),
        ("kind: Config", "PATH: current-context: expected the name of a context, it is not set"),
        ("contexts: 7", "PATH: not a kubeconfig: contexts: expected array, got int"),
        ("current-context: 5", "PATH: not a kubeconfig: current-context: expected str, got int"),
        ("contexts: [{name: b}]", 'PATH: current-context: expected the name of a context, it is not set; it has "b"'),
        ("current-context: a\ncontexts: [{name: b}]", 'PATH: current-context: there is no context "a"; it has "b"'),
        ("\0", "PATH:1:1: not a kubeconfig: control characters are not allowed"),
    ],
)
def test_a_kubeconfig_that_is_none(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    message = refusal(lambda: connect(str(path)), InputError)
    assert message.replace(str(path), "PATH") == expected


def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(lambda: connect(str(tmp_path / "k")), InputError) == f"{tmp_path}/k: no such file"


# What an answer says.


def test_refusals_say_what_the_server_says(server: ApiServer, api: Api) -> None:
    server.inject(Service, "list", Answer(403, "Forbidden"))
    assert refusal(lambda: listed(api)) == f"{server.url}/api/v1/services: 403 Forbidden: this is answer 403"
    server.tokens = set()
    assert refusal(lambda: listed(api)) == f"{server.url}/api/v1/services: 401 Unauthorized: this is answer 401"


def test_a_server_that_is_not_there(server: ApiServer, api: Api) -> None:
    server.stop()
    assert refusal(lambda: listed(api)) == f"{server.url}: Connection refused"


def test_a_server_that_nobody_knows(tmp_path: Path, server: ApiServer) -> None:
    unknown = connect(server.kubeconfig(tmp_path / "k"), "https://nowhere.invalid")
    assert refusal(lambda: listed(unknown)) == "https://nowhere.invalid: its name cannot be resolved"


@pytest.mark.parametrize(
    "url", ["foo", "127.0.0.1:6443", "http://", "https://[::1", "https://127.0.0.1:99999", "ftp://x", "https://a b\n"]
)
def test_a_server_that_is_none(tmp_path: Path, server: ApiServer, url: str) -> None:
    kubeconfig = server.kubeconfig(tmp_path / "k")
    assert "API server: expected a URL such as https://" in refusal(lambda: connect(kubeconfig, url), InputError)


def test_a_server_that_is_not_trusted(tmp_path: Path, server: ApiServer) -> None:
    path = tmp_path / "k"
    document = json.loads(Path(server.kubeconfig(path)).read_text())
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.crt")
    document["clusters"][0]["cluster"] = {"server": server.url, "certificate-authority": str(tmp_path / "other.crt")}
    path.write_text(json.dumps(document))
    message = refusal(lambda: listed(connect(str(path))))
    assert message.startswith(f"{server.url}: its certificate is not accepted: ")


def test_a_server_of_another_name(tmp_path: Path, server: ApiServer) -> None:
    wrong = connect(server.kubeconfig(tmp_path / "k"), server.url.replace("127.0.0.1", "127.1"))
    assert "its certificate is not accepted" in refusal(lambda: listed(wrong))


def test_a_server_that_is_silent(server: ApiServer, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulegen.kube.listing.LIST_SECONDS", 0.3)
    server.inject(Service, "list", Hang())
    assert refusal(lambda: listed(api)) == f"{server.url}: silent for too long"


def test_a_kind_that_is_not_served(server: ApiServer, api: Api) -> None:
    server.served.pop("/apis/networking.k8s.io/v1/servicecidrs")
    with pytest.raises(NotServedError):
        list(list_pages(api, kind_of(ServiceCIDR).resource()))


def test_retry_after_is_handed_on_and_not_waited_for(server: ApiServer, api: Api) -> None:
    server.inject(Service, "list", Answer(429, "TooManyRequests", "700"), Answer(503, retry_after="soon"))
    began = time.monotonic()
    for expected in (700.0, 0.0):
        with pytest.raises(ApiError) as raised:
            listed(api)
        assert raised.value.retry_after == expected
    assert time.monotonic() - began < patience(5)
    assert server.count(Service, "list", 429) == 1


def test_files_are_read_again_in_time(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the old token is refused; a kubeconfig may as well name another certificate, or another server."""
    path = tmp_path / "k"
    connected = connect(server.kubeconfig(path))
    with ApiServer() as other:
        other.put(service("elsewhere"))
        other.kubeconfig(path)
        assert listed(connected) == []
        monkeypatch.setattr(api_module, "_CREDENTIALS_SECONDS", 0.0)
        assert [item.name for item in listed(connected)] == ["elsewhere"]


def test_one_connection_serves_all_pages(server: ApiServer, api: Api) -> None:
    server.put(*(service(f"s-{number}") for number in range(50)))
    assert len(listed(api, limit=5)) == 50
    assert server.connections == 1


def test_a_connection_that_was_closed_while_idle_is_no_failure(server: ApiServer, api: Api) -> None:
    """The server's end of it and the request cross; what only reads is asked for again, on a new connection."""
    assert listed(api) == []
    server.inject(Service, "list", Raw(b""))
    assert listed(api) == []
    assert server.connections == 2
    # What fails on a new connection fails.
    server.inject(Service, "list", Raw(b""), Raw(b""))
    assert "closed the connection without an answer" in refusal(lambda: listed(api))


def test_what_may_have_been_carried_out_is_not_sent_twice(server: ApiServer, api: Api) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    assert listed(api) == []
    server.inject(LEASE, "create", Raw(b""))
    message = refusal(lambda: api.post(path, {"metadata": {"name": "one"}}, 5.0))
    assert "closed the connection without an answer" in message
    assert server.connections == 1


# Answers of another kind.

# From which nobody may read that all objects are gone.
NO_LIST = b'{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "try later"}'
HTML = b"<html>\x1b[31m\n" + b"x" * 10_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "closed the connection without an answer"),
        (b"\x16\x03\x01\x02\x00\x01" * 1000, "the answer is no HTTP: "),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is no HTTP: "),
        (b"HTTP/1.1 200 OK\r\n" + b"X" * 70_000, "the answer is no HTTP: got more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200, "the answer is no HTTP: got more than 100 headers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", ": the answer breaks off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc", ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ": the answer breaks off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 70_000, ""),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
            ": the answer cannot be decompressed",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n" + NO_LIST, "the answer is no list: "),
        (b"HTTP/1.1 200 OK\r\n\x00\xff: \x1b[31m\r\n\r\n{}", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML, "the answer is no list: "),
        (b"HTTP/1.1 503 \x1b[31m\r\nContent-Type: text/html\r\n\r\n" + HTML, "status 503"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "the answer is no list: "),
        (b"HTTP/1.1 999 Odd\r\n\r\n", "status 999"),
        (b'HTTP/1.1 500 Deep\r\n\r\n{"metadata": ' + b"[" * 60_000, "status 500"),
        (b'HTTP/1.1 500 Odd\r\n\r\n{"message": "\xff"}', "status 500"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, ""),
    ],
)
def test_an_answer_of_another_kind_is_one_short_line(
    server: ApiServer, api: Api, text: bytes, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.inject(Service, "list", Raw(text))
    message = refusal(lambda: listed(api))
    assert message.startswith(server.url)
    assert expected in message
    assert len(message) < 500
    assert not caplog.records
    # The next one is another connection.
    assert listed(api) == []


def test_what_a_status_says_is_shortened_and_escaped(server: ApiServer, api: Api) -> None:
    status = {"reason": "R\x1b[1m" + "r" * 5000, "message": "m\u202e\n" + "m" * 5000, "code": 500}
    body = json.dumps(status).encode()
    server.inject(Service, "list", Raw(b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    message = refusal(lambda: listed(api))
    assert message.isascii()
    assert len(message) < 400


def test_a_redirect_is_not_followed(server: ApiServer, api: Api) -> None:
    """The other server would be given the token."""
    with ApiServer() as other:
        location = f"{other.url}/api/v1/services".encode()
        for status in (301, 302, 307, 308):
            head = b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, location)
            server.inject(Service, "list", Raw(head))
            message = refusal(lambda: listed(api))
            assert message == (
                f"{server.url}/api/v1/services: status {status}: sends us elsewhere, which is not followed: "
                f"{other.url}/api/v1/services"
            )
        assert not other.headers


def test_an_answer_has_an_end(server: ApiServer, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the server is never silent."""
    monkeypatch.setattr("rulegen.kube.listing.LIST_SECONDS", 0.5)
    monkeypatch.setattr("rulegen.kube.api._BODY_SECONDS", 1.0)
    began = time.monotonic()
    server.inject(Service, "list", Drip(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05))
    assert refusal(lambda: listed(api)) == f"{server.url}: not complete within 1.0 s"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.inject(Service, "list", Drip(chunked, b"1\r\n \r\n", 0.05))
    assert refusal(lambda: listed(api)) == f"{server.url}: not complete within 1.0 s"
    monkeypatch.setattr("rulegen.kube.api._REFUSAL_SECONDS", 1.0)
    server.inject(Service, "list", Drip(b"HTTP/1.1 500 No\r\nContent-Length: 60000\r\n\r\n", b"x", 0.05))
    assert refusal(lambda: listed(api)) == f"{server.url}: not complete within 1.0 s"
    # Each would go on for good.
    assert time.monotonic() - began < patience(5)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_answer_is_not_larger_than_it_may_be(
    server: ApiServer, api: Api, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    monkeypatch.setattr("rulegen.kube.api._LARGEST_BODY", 1 << 20)
    body = b" " * (64 << 20)
    encoding = b""
    if compressed:
        body, encoding = gzip.compress(body), b"Content-Encoding: gzip\r\n"
    head = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (encoding, len(body))
    server.inject(Service, "list", Raw(head + body))
    assert refusal(lambda: listed(api)) == f"{server.url}: sent an answer of more than 1048576 bytes"


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01"]
)
def test_a_server_that_speaks_no_tls(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr("rulegen.kube.api._CONNECT_SECONDS", 0.5)

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(said)
            connection.recv(65536)
            ended.wait(patience(20))

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=answer)
        answering.start()
        elsewhere = connect(server.kubeconfig(tmp_path / "k"), f"https://127.0.0.1:{listening.getsockname()[1]}")
        message = refusal(lambda: listed(elsewhere))
        ended.set()
        answering.join()
    assert message.startswith(elsewhere.server)
    assert len(message) < 300


def test_a_host_without_room_for_a_thread(api: Api, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", start)
        assert refusal(lambda: listed(api)) == f"{server.url}: no thread can be started"
    assert listed(api) == []


def test_a_handshake_has_an_end(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulegen.kube.api._CONNECT_SECONDS", 0.5)

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")
            while True:
                connection.sendall(b"\x02")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        dripping = threading.Thread(target=drip)
        dripping.start()
        elsewhere = connect(server.kubeconfig(tmp_path / "k"), f"https://127.0.0.1:{listening.getsockname()[1]}")
        began = time.monotonic()
        assert refusal(lambda: listed(elsewhere))
        assert time.monotonic() - began < patience(1.5)
        dripping.join()


# Making objects.

EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


def event(name: str = "web.1", **other: object) -> dict[str, object]:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name},
        "eventTime": "2025-01-01T00:00:00.000000Z",
        "reportingController": "rulegen",
        "reportingInstance": "rulegen-node-1",
        "action": "Program",
        "reason": "Test",
        "type": "Normal",
        "regarding": {"kind": "Service", "name": "web", "namespace": "default"},
        "note": "\u00e9",
        **other,
    }


def test_what_is_posted_arrives_and_the_answer_is_what_was_stored(server: ApiServer, api: Api) -> None:
    stored = json.loads(api.post(EVENTS, event(), 5.0))
    assert server.events == [stored]
    assert stored["note"] == "\u00e9"
    api.post(EVENTS, event("web.2"), 5.0)
    assert server.count(EVENT, "create", 201) == 2
    assert server.connections == 1


def test_a_post_that_is_refused_says_what_the_server_says(server: ApiServer, api: Api) -> None:
    def post() -> str:
        return refusal(lambda: api.post(EVENTS, event(), 5.0))

    server.inject(EVENT, "create", Answer(403, "Forbidden", causes=("NamespaceTerminating",)))
    with pytest.raises(ApiError) as raised:
        api.post(EVENTS, event(), 5.0)
    assert str(raised.value) == f"{server.url}{EVENTS}: 403 Forbidden: this is answer 403"
    assert raised.value.causes == {"NamespaceTerminating"}
    server.inject(EVENT, "create", Answer(429, "TooManyRequests", "9"))
    with pytest.raises(ApiError) as raised:
        api.post(EVENTS, event(), 5.0)
    assert (raised.value.status, raised.value.retry_after) == (429, 9.0)
    assert server.events == []
    api.post(EVENTS, event(), 5.0)
    assert "409 AlreadyExists" in post()
    server.tokens = set()
    assert "401 Unauthorized" in post()
    assert server.count(EVENT, "create", 401) == 2


def test_a_post_with_a_token_that_has_been_replaced(server: ApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    connected = connect(server.kubeconfig(tmp_path / "k", token_file=token))
    connected.post(EVENTS, event(), 5.0)
    server.tokens = {"second"}
    token.write_text("second")
    connected.post(EVENTS, event("web.2"), 5.0)
    assert server.count(EVENT, "create", 401) == 1
    assert len(server.events) == 2


def test_a_post_that_is_not_answered(server: ApiServer, api: Api) -> None:
    server.inject(EVENT, "create", Hang())
    assert refusal(lambda: api.post(EVENTS, event(), 0.3)) == f"{server.url}: silent for too long"
    api.post(EVENTS, event(), 5.0)
    assert len(server.events) == 1


def test_a_closed_api_answers_nobody(server: ApiServer, api: Api) -> None:
    server.inject(Service, "list", Hang())
    messages: list[str] = []
    asking = threading.Thread(target=lambda: messages.append(refusal(lambda: listed(api))))
    asking.start()
    wait_until(lambda: server.count(Service, "list", 0) == 1)
    api.close()
    asking.join(patience(5))
    assert len(messages) == 1
    assert refusal(lambda: listed(api))


def test_the_client_is_loaded_only_when_a_cluster_is_asked() -> None:
    code = (
        "import sys, rulegen.cli, rulegen.kube.follow, rulegen.kube.snapshot;"
        "print({'kubernetes', 'urllib3', 'yaml'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
