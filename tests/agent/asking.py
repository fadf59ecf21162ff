"""HTTP clients, good and bad. Each asks from the network namespace of the calling thread."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import Any, NamedTuple
from wsgiref.types import WSGIApplication

from rulegen.agent.http.server import HttpServer
from rulegen.config import SocketAddress
from tests.patience import patience

# Seconds of an idle machine.
TIMEOUT = 20.0


class Reply(NamedTuple):
    """An answer; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(port: int, path: str = "/", *, address: str = "127.0.0.1", method: str = "GET", accept: str = "*/*") -> Reply:
    """One request. Raises OSError when nobody listens."""
    connection = http.client.HTTPConnection(address, port, timeout=patience(TIMEOUT))
    try:
        connection.request(method, path, headers={"Accept": accept})
        reply = connection.getresponse()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        return Reply(reply.status, headers, reply.read())
    finally:
        connection.close()


def connected(port: int, address: str = "127.0.0.1") -> socket.socket:
    """A connection on which nothing was said. Raises OSError when nobody listens."""
    return socket.create_connection((address, port), timeout=patience(TIMEOUT))


def is_open(port: int, address: str = "127.0.0.1") -> bool:
    """Whether somebody listens."""
    try:
        connected(port, address).close()
    except ConnectionRefusedError:
        return False
    return True


def send(port: int, data: bytes) -> bytes:
    """All that comes back for these bytes."""
    with connected(port) as connection:
        # The server may have closed it in the middle.
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        return receive(connection)


def receive(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 20):
            received += part
    return received


def open_somewhere(server: HttpServer, application: WSGIApplication) -> int:
    """Serves at a port of 127.0.0.1 that nobody has, and says which."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        # Somebody may take it first.
        with contextlib.suppress(OSError):
            server.open(SocketAddress("127.0.0.1", port), application)
            return port
