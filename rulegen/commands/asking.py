"""An agent on this node is asked over HTTP: an address and a path come in, what it answers goes out. Changes nothing.

An answer is taken in parts, and no more than `_LARGEST` of it, nor for longer than `_SECONDS`: who answers there may be
any program.
"""

from __future__ import annotations

import time
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING

from rulegen.errors import HostError

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
    host = _EVERYWHERE.get(address.address, address.address)
    connection = HTTPConnection(host, address.port, timeout=_SECONDS)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        body = _body(response)
    except OSError as error:
        reason = "it does not answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise NoAgentError(f"no agent answers at {address}: {reason}") from error
    except HTTPException as error:
        raise NoAgentError(f"no agent answers at {address}: what answers there speaks no HTTP") from error
    finally:
        connection.close()
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
    except msgspec.DecodeError as error:
        raise HostError(f"the agent at {address} is of another version: {error}") from error


def _body(response: HTTPResponse) -> bytes:
    until = time.monotonic() + _SECONDS
    body = bytearray()
    while part := response.read1(_PART):
        body += part
        if len(body) > _LARGEST or time.monotonic() > until:
            raise TimeoutError
    return bytes(body)
