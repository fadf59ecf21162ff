"""The HTTP server: many addresses, and clients that are slow, silent or speak nonsense."""

from __future__ import annotations

import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.validate import validator

import pytest

from rulegen.agent.http import server as http
from rulegen.agent.http.server import HttpServer, respond, respond_text
from rulegen.config import SocketAddress
from rulegen.demo.namespaces import NetworkNamespace
from tests.agent.asking import TIMEOUT, ask, connected, is_open, receive, send
from tests.agent.running import wait_until
from tests.patience import patience

PORT = 8080
HERE = SocketAddress("127.0.0.1", PORT)
GOOD = b"GET /x HTTP/1.1\r\nHost: here\r\n\r\n"

Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


def says(text: str) -> Application:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return respond_text(start_response, HTTPStatus.OK, f"{text} {environ['PATH_INFO']}")

    return application


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test here may leave a line in the log."""
    yield
    assert not caplog.records


def test_each_address_has_its_application(server: HttpServer) -> None:
    server.open(HERE, says("four"))
    server.open(SocketAddress("::1", PORT), says("six"))
    server.open(SocketAddress("127.0.0.1", PORT + 1), says("other"))
    assert ask(PORT, "/a").body == b"four /a\n"
    assert ask(PORT, "/a", address="::1").body == b"six /a\n"
    assert ask(PORT + 1, "/b?c=d").body == b"other /b\n"


def test_every_address_of_a_family_is_not_of_the_other(server: HttpServer) -> None:
    six = server.open(SocketAddress("::", PORT), says("six"))
    assert not is_open(PORT)
    server.open(SocketAddress("0.0.0.0", PORT), says("four"))  # noqa: S104
    assert ask(PORT).body == b"four /\n"
    six.close()
    assert not is_open(PORT, "::1")
    assert is_open(PORT)


def test_an_answer_has_what_http_asks_for(server: HttpServer) -> None:
    server.open(HERE, says("hello"))
    reply = ask(PORT)
    assert reply.status == 200
    assert reply.headers["content-length"] == str(len(reply.body))
    assert reply.headers["connection"] == "close"
    assert "date" in reply.headers
    assert send(PORT, GOOD).startswith(b"HTTP/1.1 200 OK\r\n")


def test_it_keeps_to_the_rules_of_wsgi(server: HttpServer) -> None:
    server.open(HERE, validator(says("hello")))
    assert ask(PORT, "/a%20b/?c=d").body == b"hello /a b/\n"
    assert ask(PORT, method="POST").body == b"hello /\n"


def test_head_is_get_without_a_body(server: HttpServer) -> None:
    server.open(HERE, says("hello"))
    get, head = ask(PORT), ask(PORT, method="HEAD")
    assert head.body == b""
    assert head.status == get.status
    assert head.headers["content-length"] == get.headers["content-length"]
    assert send(PORT, b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


def test_a_port_that_is_taken_is_an_error_and_free_after_close(server: HttpServer) -> None:
    listener = server.open(HERE, says("first"))
    with pytest.raises(OSError, match="in use"):
        server.open(HERE, says("second"))
    assert ask(PORT).body == b"first /\n"
    listener.close()
    listener.close()
    assert not is_open(PORT)
    server.open(HERE, says("second"))
    assert ask(PORT).body == b"second /\n"
    with pytest.raises(OSError, match="assign"):
        server.open(SocketAddress("192.0.2.1", PORT), says("nowhere"))


def test_it_listens_where_the_calling_thread_is(server: HttpServer) -> None:
    server.open(HERE, says("there"))
    with NetworkNamespace() as another, another.entered():
        server.open(HERE, says("here"))
        assert ask(PORT).body == b"here /\n"
    assert ask(PORT).body == b"there /\n"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /x HTTP/1.0\n\n",
        b"GET /x\r\n\r\n",
        b"GET /x HTTP/1.1\r\n: \r\n\x00: \xff\r\nnonsense\r\nContent-Length: -1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nContent-Length: 5000000000\r\nTransfer-Encoding: chunked\r\n\r\nbody",
    ],
)
def test_odd_requests_are_answered(server: HttpServer, data: bytes) -> None:
    server.open(HERE, says("hello"))
    assert send(PORT, data).endswith(b"\r\n\r\nhello /x\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /\xff\xfe HTTP/9.9\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1 <script>\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
        (b"\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n", None),
        (b"G" * 100_000, None),
    ],
)
def test_nonsense_is_refused_and_does_no_harm(server: HttpServer, data: bytes, status: bytes | None) -> None:
    server.open(HERE, says("hello"))
    answer = send(PORT, data)
    assert answer.startswith(b"HTTP/1.0 %s " % status) if status else answer == b""
    assert b"script" not in answer
    assert ask(PORT).status == 200


def test_requests_cut_off_anywhere_do_no_harm(server: HttpServer) -> None:
    server.open(HERE, says("hello"))
    for length in range(len(GOOD)):
        with connected(PORT) as connection:
            connection.sendall(GOOD[:length])
            if length % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert ask(PORT).status == 200


def test_silent_clients_do_not_hold_up_others(server: HttpServer) -> None:
    server.open(HERE, says("hello"))
    with ExitStack() as stack:
        for number in range(200):
            silent = stack.enter_context(connected(PORT))
            silent.sendall(GOOD[: number % 20])
        assert ask(PORT).status == 200


def test_more_connections_than_allowed_push_out_the_oldest_silent_ones(namespace: NetworkNamespace) -> None:
    with namespace.entered(), closing(HttpServer(20)) as server, ExitStack() as stack:
        server.open(HERE, says("hello"))
        silent = [stack.enter_context(connected(PORT)) for _ in range(50)]
        assert ask(PORT).status == 200
        for pushed_out in silent[:30]:
            assert pushed_out.recv(1) == b""
        silent[-1].sendall(GOOD)
        assert silent[-1].recv(8) == b"HTTP/1.1"


def test_the_limit_holds_for_requests_that_wait_for_their_answer(namespace: NetworkNamespace) -> None:
    may_answer = threading.Event()

    def waits(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        del environ
        may_answer.wait(TIMEOUT)
        return respond_text(start_response, HTTPStatus.OK)

    with namespace.entered(), closing(HttpServer(20)) as server, ExitStack() as stack:
        before = _open_files()
        server.open(HERE, waits)
        asking = [stack.enter_context(connected(PORT)) for _ in range(100)]
        for connection in asking:
            connection.sendall(GOOD)
        # Nobody is answered yet, so those that can be read were hung up.
        wait_until(lambda: len(select.select(asking, [], [], 0)[0]) >= 80, TIMEOUT)
        # The clients' ends, those that may stay, and the one that listens.
        wait_until(lambda: _open_files() - before <= 100 + 20 + 1, TIMEOUT)
        may_answer.set()
        answered = [connection for connection in asking if _is_answered(connection)]
        assert 10 <= len(answered) <= 20
        assert ask(PORT).status == 200


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _is_answered(connection: socket.socket) -> bool:
    try:
        return connection.recv(8) == b"HTTP/1.1"
    except ConnectionError:
        return False


def test_a_slow_request_is_given_up(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_READ_TIME", 0.3)
    server.open(HERE, says("hello"))
    with connected(PORT) as connection:
        connection.sendall(b"G")
        wait_until(lambda: not _is_sent(connection, b"G"), TIMEOUT)


def _is_sent(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
    except ConnectionError:
        return False
    return True


def test_a_client_that_does_not_read_is_given_up(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_WRITE_TIME", 0.3)
    answer = b"x" * 20_000_000

    def says_much(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return respond(start_response, HTTPStatus.OK, b"little" if environ["PATH_INFO"] == "/little" else answer, [])

    server.open(HERE, says_much)
    connections = []
    for _ in range(8):
        connection = connected(PORT)
        connection.sendall(GOOD)
        connections.append(connection)
    assert ask(PORT, "/little").body == b"little"
    # What is in the buffers of both ends still arrives.
    wait_until(lambda: not server._connections, TIMEOUT)
    for connection in connections:
        with connection:
            assert len(receive(connection)) < len(answer)
    monkeypatch.setattr(http, "_WRITE_TIME", patience(TIMEOUT))
    assert len(ask(PORT).body) == len(answer)


def test_it_goes_on_when_there_are_file_descriptors_again(server: HttpServer) -> None:
    server.open(HERE, says("hello"))
    with socket.socket() as connection:
        connection.settimeout(patience(TIMEOUT))
        with no_more_file_descriptors():
            connection.connect(("127.0.0.1", PORT))
            connection.sendall(GOOD)
            assert not select.select([connection], [], [], 0.3)[0]
        assert receive(connection).endswith(b"hello /x\n")
    assert ask(PORT).status == 200


@contextmanager
def no_more_file_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open("rb") as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_application_that_fails_answers_500_and_tells_the_log(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise ValueError(environ["PATH_INFO"])

    server.open(HERE, fails)
    reply = ask(PORT, "/secret")
    assert reply.status == 500
    assert b"secret" not in reply.body
    assert [record.exc_info is not None for record in caplog.records] == [True]
    caplog.clear()


def test_one_slow_application_does_not_hold_up_others(server: HttpServer) -> None:
    release = threading.Event()

    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        release.wait(patience(TIMEOUT))
        return respond_text(start_response, HTTPStatus.OK, environ["PATH_INFO"])

    server.open(SocketAddress("127.0.0.1", PORT + 1), slow)
    server.open(HERE, says("hello"))
    with connected(PORT + 1) as waiting:
        waiting.sendall(GOOD)
        assert ask(PORT).status == 200
        release.set()
        assert waiting.recv(8) == b"HTTP/1.1"


def test_hundreds_of_listeners_and_all_asked_at_once(server: HttpServer) -> None:
    ports = range(20_000, 20_300)
    for port in ports:
        server.open(SocketAddress("127.0.0.1", port), says(str(port)))
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(port)) for port in ports]
        for client in clients:
            client.sendall(GOOD)
        for port, client in zip(ports, clients, strict=True):
            assert receive(client).endswith(b"\r\n\r\n%d /x\n" % port)


def test_it_ends_soon_whatever_its_clients_do(namespace: NetworkNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_READ_TIME", 600.0)
    threads = set(threading.enumerate())
    with namespace.entered(), ExitStack() as stack:
        server = HttpServer()
        listener = server.open(HERE, says("hello"))
        clients = [stack.enter_context(connected(PORT)) for _ in range(50)]
        for client in clients:
            client.sendall(GOOD[:-2])
        start = time.monotonic()
        server.close()
        assert time.monotonic() - start < patience(5.0)
        server.close()
        listener.close()
        assert not is_open(PORT)
        for client in clients:
            assert receive(client) == b""
    wait_until(lambda: not {thread for thread in threading.enumerate() if thread not in threads})
