"""The way to an API server through a proxy, of the kubeconfig or of the environment, as kubectl takes it."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from rulegen.errors import InputError
from rulegen.kube.api import Api, connect
from rulegen.kube.pools import environment_proxy
from tests.apiserver import ApiServer
from tests.apiserver.proxies import http_connect, proxy, socks5
from tests.apiserver.server import TOKEN, certificate_authority
from tests.builders import service
from tests.kube.conftest import listed, refusal
from tests.patience import patience

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture
def through(server: ApiServer, tmp_path: Path) -> Callable[[str], Api]:
    """An Api that uses this `proxy-url`."""
    server.put(service("web"))
    return lambda url: connect(server.kubeconfig(tmp_path / "config", cluster={"proxy-url": url}))


def place(server: ApiServer) -> str:
    return server.url.removeprefix("https://")


def test_an_http_proxy(server: ApiServer, through: Callable[[str], Api]) -> None:
    with proxy(http_connect) as running:
        api = through(f"http://127.0.0.1:{running.port}")
        assert [item.name for item in listed(api)] == ["web"]
        assert [item.name for item in listed(api)] == ["web"]
        assert running.asked == [place(server)]
        listed(through(f"http://me:p%40ss@127.0.0.1:{running.port}"))
        assert running.asked[1:] == [place(server), "proxy-authorization: Basic bWU6cEBzcw=="]


def test_a_proxy_that_speaks_tls(server: ApiServer, through: Callable[[str], Api]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate_authority().issue_cert("127.0.0.1").configure_cert(context)
    with proxy(http_connect, context) as running:
        api = through(f"https://127.0.0.1:{running.port}")
        assert [item.name for item in listed(api)] == ["web"]
        assert running.asked == [place(server)]
        # A watch in TLS within TLS can be ended.
        query = {"watch": "true", "timeoutSeconds": "60"}
        answered, ended = threading.Event(), threading.Event()

        def watch() -> None:
            with api.get("/api/v1/services", query, 60.0) as answer:
                answered.set()
                refusal(lambda: list(answer.chunks()))
            ended.set()

        threading.Thread(target=watch, daemon=True).start()
        assert answered.wait(patience(2))
        api.close()
        assert ended.wait(patience(1))


def test_a_socks_proxy(server: ApiServer, through: Callable[[str], Api]) -> None:
    with proxy(socks5) as running:
        assert [item.name for item in listed(through(f"socks5://127.0.0.1:{running.port}"))] == ["web"]
        assert running.asked == [place(server)]
        listed(through(f"socks5://me:p%40ss@localhost:{running.port}"))
        assert running.asked[1:] == ["me/p@ss", place(server)]


def test_a_socks_proxy_resolves_the_name(server: ApiServer, tmp_path: Path) -> None:
    with proxy(socks5) as running:
        cluster = {
            "server": server.url.replace("127.0.0.1", "localhost"),
            "proxy-url": f"socks5://127.0.0.1:{running.port}",
        }
        listed(connect(server.kubeconfig(tmp_path / "config", cluster=cluster)))
        assert running.asked == [place(server).replace("127.0.0.1", "localhost")]


def test_a_socks_proxy_to_the_other_family(tmp_path: Path) -> None:
    with ApiServer("::1") as server, proxy(socks5) as running:
        cluster = {"proxy-url": f"socks5://127.0.0.1:{running.port}"}
        assert listed(connect(server.kubeconfig(tmp_path / "config", cluster=cluster))) == []
        assert running.asked == [f"::1:{server.url.rpartition(':')[2]}"]


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:3128", "proxy.example:3128", "//proxy", "ftp://proxy", "socks4://proxy", "http://", "http://[::1", " "],
)
def test_what_is_no_proxy(server: ApiServer, tmp_path: Path, url: str) -> None:
    path = server.kubeconfig(tmp_path / "config", cluster={"proxy-url": url})
    message = refusal(lambda: connect(path), InputError)
    assert message.startswith(
        f"{tmp_path}/config: cluster it: proxy-url: expected a URL that begins with one of "
        "http://, https://, socks5://, got "
    )


def test_the_password_of_a_proxy_is_not_shown(server: ApiServer, tmp_path: Path) -> None:
    path = server.kubeconfig(tmp_path / "config", cluster={"proxy-url": "ftp://me:secret@proxy"})
    assert "secret" not in refusal(lambda: connect(path), InputError)


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
def test_a_proxy_that_is_not_there(through: Callable[[str], Api], scheme: str) -> None:
    # Somebody has the port, so that nobody else gets it, and does not listen.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        api = through(f"{scheme}://127.0.0.1:{taken.getsockname()[1]}")
        assert "Connection refused" in refusal(lambda: listed(api))


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
def test_a_proxy_that_says_nothing(through: Callable[[str], Api], scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulegen.kube.api._CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = through(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert refusal(lambda: listed(api))
        assert time.monotonic() - start < patience(5)


def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = "https://192.0.2.1:6443"
    assert environment_proxy(server) == ""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert environment_proxy(server) == "http://proxy:3128"
    assert environment_proxy("http://192.0.2.1") == ""
    for own in ("https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443", "https://127.9.9.9"):
        assert environment_proxy(own) == ""
    for exempt in ("192.0.2.1", "192.0.2.0/24", "other,192.0.2.1", "*"):
        monkeypatch.setenv("NO_PROXY", exempt)
        assert environment_proxy(server) == ""
    monkeypatch.setenv("NO_PROXY", "example.org,192.0.3.0/24")
    assert environment_proxy(server) == "http://proxy:3128"
    assert environment_proxy("https://api.example.org") == ""
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    assert environment_proxy(server) == "http://proxy:3128"
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy:3128")
    assert refusal(lambda: environment_proxy(server), InputError).startswith("$HTTPS_PROXY: expected a URL")


def test_the_kubeconfigs_proxy_comes_before_that_of_the_environment(
    server: ApiServer, through: Callable[[str], Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with proxy(http_connect) as running:
        listed(through(f"http://127.0.0.1:{running.port}"))
        assert running.asked == [place(server)]


# -- servers without TLS --


class Plain(BaseHTTPRequestHandler):
    """An API server without TLS and without objects, also as a proxy would forward to it."""

    headers_seen: ClassVar[list[Message]] = []

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Nothing."""

    def do_GET(self) -> None:
        self.headers_seen.append(self.headers)
        body = b'{"metadata": {"resourceVersion": "1"}, "items": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def plain() -> Iterator[str]:
    """Its place."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Plain) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_a_server_without_tls(server: ApiServer, plain: str, tmp_path: Path) -> None:
    for cluster in (
        {"server": f"http://{plain}"},
        {"server": f"http://{plain}/", "insecure-skip-tls-verify": True, "certificate-authority-data": None},
        {"server": plain, "certificate-authority-data": None},
        # A proxy for HTTP without TLS is asked as the server is.
        {"server": "http://nowhere.invalid", "proxy-url": f"http://{plain}"},
    ):
        warnings: list[str] = []
        assert listed(connect(server.kubeconfig(tmp_path / "k", cluster=cluster), warn=warnings.append)) == []
        assert Plain.headers_seen[-1]["Authorization"] == f"Bearer {TOKEN}"
        assert warnings == []


def test_several_groups_are_sent_as_several_or_not_at_all(server: ApiServer, plain: str, tmp_path: Path) -> None:
    user = {"as": "jane", "as-groups": ["a", "b"]}
    cluster = {"server": f"http://{plain}"}
    listed(connect(server.kubeconfig(tmp_path / "k", user=user, cluster=cluster)))
    assert Plain.headers_seen[-1].get_all("Impersonate-Group") == ["a", "b"]
    path = server.kubeconfig(tmp_path / "k", user=user, cluster={**cluster, "proxy-url": f"http://{plain}"})
    assert refusal(lambda: connect(path), InputError).startswith(f"http://{plain}: several as-groups")
