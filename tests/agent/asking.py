"""HTTP clients, good and bad. Each asks from the network namespace of the calling thread."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import Any, NamedTuple

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
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
    try:
        connection.request(method, path, headers={"Accept": accept})
        reply = connection.getresponse()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        return Reply(reply.status, headers, reply.read())
    finally:
        connection.close()


def is_open(port: int, address: str = "127.0.0.1") -> bool:
    """Whether somebody listens."""
    try:
        socket.create_connection((address, port), timeout=TIMEOUT).close()
    except ConnectionRefusedError:
        return False
    return True


def send(port: int, data: bytes) -> bytes:
    """All that comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
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
