"""Servers that say who they are, and clients that ask them. Real sockets, each made inside a given namespace."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Self

from rulegen.demo.namespaces import NetworkNamespace

REFUSED = "connection refused"
NO_ANSWER = "no answer"
_TIMEOUT = 2.0
_QUEUE = 512


class Servers:
    """One thread that serves them all: a name for each TCP connection and for each line or datagram on it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, name="demo servers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wakeup.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    def add(self, namespace: NetworkNamespace, name: str, protocol: str, port: int) -> None:
        """A server called `name` on all addresses of a namespace; `protocol` is TCP or UDP."""
        with namespace.entered():
            kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
            server = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
            server.bind(("", port))
        answer = f"{name}\n".encode()
        if protocol == "TCP":
            server.listen(_QUEUE)
            self._watch(server, lambda: self._accept(server, answer))
        else:
            self._watch(server, lambda: _answer_datagram(server, answer))

    def _watch(self, watched: socket.socket, action: Callable[[], None]) -> None:
        self._selector.register(watched, selectors.EVENT_READ, action)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data()

    def _accept(self, server: socket.socket, answer: bytes) -> None:
        connection, _ = server.accept()
        connection.setblocking(False)
        connection.send(answer)
        self._watch(connection, lambda: self._answer_line(connection, answer))

    def _answer_line(self, connection: socket.socket, answer: bytes) -> None:
        try:
            if connection.recv(4096):
                connection.send(answer)
                return
        except ConnectionError:
            pass
        self._selector.unregister(connection)
        connection.close()


def _answer_datagram(server: socket.socket, answer: bytes) -> None:
    _, client = server.recvfrom(4096)
    server.sendto(answer, client)


def connect(client: NetworkNamespace, address: str, port: int) -> socket.socket:
    """A TCP connection from the client; raises OSError when there is none."""
    with client.entered():
        return socket.create_connection((address, port), timeout=_TIMEOUT)


def ask_again(connection: socket.socket) -> str:
    """Who answers on an open connection."""
    connection.send(b"who\n")
    return connection.recv(4096).decode().strip()


def count_answers(client: NetworkNamespace, address: str, port: int, protocol: str, count: int) -> Counter[str]:
    """Who answers to `count` new connections from the client: names, REFUSED or NO_ANSWER."""
    ask = _ask_tcp if protocol == "TCP" else _ask_udp
    with client.entered():
        return Counter(_who(ask, address, port) for _ in range(count))


def _who(ask: Callable[[str, int], bytes], address: str, port: int) -> str:
    try:
        return ask(address, port).decode().strip()
    except ConnectionRefusedError:
        return REFUSED
    except OSError:
        return NO_ANSWER


def _ask_tcp(address: str, port: int) -> bytes:
    with socket.create_connection((address, port), timeout=_TIMEOUT) as connection:
        return connection.recv(4096)


def _ask_udp(address: str, port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(_TIMEOUT)
        connection.connect((address, port))
        connection.send(b"who\n")
        return connection.recv(4096)
