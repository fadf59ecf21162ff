"""A name server that hangs, or never comes to an end: said in a line, after a while."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from dns import message, rrset

from rulegen.config import SocketAddress
from rulegen.dns.server import Server
from rulegen.errors import HostError
from tests.patience import patience

ZONE = "cluster.local."


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulegen.dns.server._ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("rulegen.dns.server._TRANSFER_SECONDS", 1.0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        yield listening


def _server(listener: socket.socket) -> Server:
    return Server(SocketAddress(*listener.getsockname()), "")


def _said(server: Server) -> tuple[str, str]:
    """When it is asked for the number of a zone, and for all of it."""
    with closing(server):
        with pytest.raises(HostError) as of_serial:
            server.serial(ZONE)
        with pytest.raises(HostError) as of_transfer:
            list(server.transfer(ZONE))
    return str(of_serial.value), str(of_transfer.value)


def test_one_that_accepts_and_says_nothing(listener: socket.socket) -> None:
    said = f"zone cluster.local on 127.0.0.1:{listener.getsockname()[1]}: no answer within 0 s"
    assert _said(_server(listener)) == (said, said)


def test_a_transfer_that_does_not_begin_with_the_zone(listener: socket.socket) -> None:
    """RFC 5936, 2.2: the SOA is its first record, and says which version it is of."""

    def answer() -> None:
        with listener.accept()[0] as connection:
            length = int.from_bytes(connection.recv(2), "big")
            answered = message.make_response(message.from_wire(connection.recv(length)))
            soa = rrset.from_text(ZONE, 5, "IN", "SOA", "localhost. nobody.invalid. 7 1 1 1 1")
            answered.answer = [rrset.from_text(ZONE, 5, "IN", "A", "192.0.2.1"), soa, soa]
            connection.sendall(answered.to_wire(prepend_length=True))

    thread = threading.Thread(target=answer)
    thread.start()
    with closing(_server(listener)) as server, pytest.raises(HostError) as raised:
        list(server.transfer(ZONE))
    thread.join()
    said = f"zone cluster.local on 127.0.0.1:{listener.getsockname()[1]}: what it answers is not understood: "
    assert str(raised.value) == f"{said}the answer is no transfer"


def test_one_that_does_not_accept(listener: socket.socket) -> None:
    """Nothing comes back, as behind a firewall that drops."""
    with ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        said = f"zone cluster.local on 127.0.0.1:{listener.getsockname()[1]}: no answer within 0 s"
        assert _said(_server(listener)) == (said, said)


def test_a_transfer_that_is_never_silent_and_never_ends(listener: socket.socket) -> None:
    stop = threading.Event()

    def drip() -> None:
        with listener.accept()[0] as connection:
            connection.sendall(b"\xff\xff")
            while not stop.wait(0.05):
                try:
                    connection.send(b"\0")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    begun = time.monotonic()
    try:
        with (
            closing(_server(listener)) as server,
            pytest.raises(HostError, match="the transfer has not ended after 1 s"),
        ):
            list(server.transfer(ZONE))
        assert time.monotonic() - begun < patience(10)
    finally:
        stop.set()
        thread.join()
