"""Who answers where an agent should: nobody, another program, one that never ends, one that ends too early."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rulegen.commands import asking
from rulegen.commands.asking import NoAgentError, ask, read_status
from rulegen.config import SocketAddress
from rulegen.errors import HostError

OK = b"HTTP/1.1 200 OK\r\nServer: rulegen\r\n"


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[SocketAddress]:
    """Somebody who answers each request so."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            # The test has seen enough, or ends.
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(1 << 16)
                        with contextlib.suppress(OSError):
                            answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield SocketAddress(*listening.getsockname())
        listening.shutdown(socket.SHUT_RDWR)


def drip(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        threading.Event().wait(0.01)


def flood(connection: socket.socket) -> None:
    connection.sendall(OK + b"\r\n")
    while True:
        connection.sendall(bytes(1 << 20))


@pytest.mark.parametrize("answer", [drip, flood, lambda _: threading.Event().wait(5)], ids=["drip", "flood", "silence"])
def test_who_never_ends_is_nobody(monkeypatch: pytest.MonkeyPatch, answer: Callable[[socket.socket], None]) -> None:
    monkeypatch.setattr(asking, "_SECONDS", 0.3)
    monkeypatch.setattr(asking, "_LARGEST", 4 << 20)
    with answering(answer) as address, pytest.raises(NoAgentError, match="nothing that is whole came"):
        ask(address, "/status")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "no agent answers at .*: "),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks no HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "another program does"),
        (b"HTTP/1.1 200 OK\r\nServer: rulegen\r\nContent-Length: 9\r\n\r\n{}", "speaks no HTTP"),
        (OK.replace(b"200", b"404") + b"\r\n", "has no /status"),
        (OK.replace(b"200", b"503") + b"\r\n", "with HTTP status 503"),
        (OK + b"\r\n<html>", "is of another version"),
        (OK + b'\r\n{"state": "\xff"}', "is of another version"),
        (OK + b'\r\n{"more": ' + b"[" * 100_000, "is of another version"),
        (OK + b'\r\n{"version": 2}', "is of another version"),
        (OK + b'\r\n{"version": 1, "state": "ok"}', "is of another version: Object missing required field"),
    ],
)
def test_who_is_no_agent_of_this_version_is_one_line(answer: bytes, words: str) -> None:
    with answering(lambda connection: connection.sendall(answer)) as address:
        with pytest.raises(HostError, match=words) as caught:
            read_status(address)
        assert "\n" not in str(caught.value)
