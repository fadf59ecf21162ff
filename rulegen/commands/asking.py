"""An agent on this node is asked over HTTP: an address and a path come in, what it answers goes out. Changes nothing.

An answer is taken in parts, and no more than `_LARGEST` of it, nor for longer than `_SECONDS`: who answers there may be
any program.
"""

from __future__ import annotations

import socket
import time
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from typing import TYPE_CHECKING

from rulegen.errors import UNDECODABLE, HostError

if TYPE_CHECKING:
    from rulegen.agent.status.document import Status
    from rulegen.config import SocketAddress

_SECONDS = 5.0
_LARGEST = 32 << 20
_PART = 1 << 16
_OK, _NOT_FOUND = 200, 404
# What an agent calls itself in the header Server.
_SERVER = "rulegen"
# Where one listens that listens everywhere.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a configuration says


class NoAgentError(HostError):
    """Nobody answers there, or not an agent of rulegen."""


def ask(address: SocketAddress, path: str, accept: str = "*/*") -> bytes:
    """The body of an answer with status 200.

    Raises:
        NoAgentError: there is none.
        HostError: the agent does not know the path: it is of an older version.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    try:
        response = HTTPResponse(_Received(_exchange(address, request.encode())))  # type: ignore[arg-type]
        response.begin()
        body = response.read()
    except TimeoutError as error:
        raise NoAgentError(f"no agent answers at {address}: nothing that is whole came in {_SECONDS:.0f} s") from error
    except OSError as error:
        raise NoAgentError(f"no agent answers at {address}: {error.strerror or error}") from error
    except HTTPException as error:
        raise NoAgentError(f"no agent answers at {address}: what answers there speaks no HTTP") from error
    if response.headers.get("Server") != _SERVER:
        raise NoAgentError(f"no agent answers at {address}: another program does")
    if response.status == _NOT_FOUND:
        raise HostError(f"the agent at {address} has no {path}: it is of an older version, or that is another address")
    if response.status != _OK:
        raise HostError(f"the agent at {address} answers {path} with HTTP status {response.status}")
    return body


def read_status(address: SocketAddress) -> Status:
    """What the agent there says. Raises NoAgentError, HostError."""
    import msgspec

    from rulegen.agent.status.document import Status

    try:
        return msgspec.json.decode(ask(address, "/status", "application/json"), type=Status)
    except UNDECODABLE as error:
        raise HostError(f"the agent at {address} is of another version: {error}") from error


class _Received:
    """What was received, as a socket that is read from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> BytesIO:
        """As that of a socket."""
        del mode
        return BytesIO(self._data)


def _exchange(address: SocketAddress, request: bytes) -> bytes:
    """All that is answered until the other end closes. Raises OSError, a TimeoutError for what takes too long."""
    until = time.monotonic() + _SECONDS
    host = _EVERYWHERE.get(address.address, address.address)
    with socket.create_connection((host, address.port), timeout=_SECONDS) as connection:
        connection.sendall(request)
        received = bytearray()
        while part := connection.recv(_PART):
            received += part
            left = until - time.monotonic()
            if left <= 0 or len(received) > _LARGEST:
                raise TimeoutError
            connection.settimeout(left)
    return bytes(received)
