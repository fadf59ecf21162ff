"""Connections of urllib3, and so of the `kubernetes` client, whose waiting another thread can end at any moment.

A thread that waits for a connection, for an answer or for the next event of a watch may wait for minutes; closing its
socket from outside does not wake it, shutting the socket down does. Nothing is known here of Kubernetes. Import this
module where it is used: urllib3 takes time to load.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeAlias

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

PoolClasses: TypeAlias = dict[str, type[HTTPConnectionPool]]


class EndedError(OSError):
    """Waiting was ended from outside, or was not begun because of that."""


class Waiting:
    """All waiting that `end` ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._shutdowns: set[Callable[[], None]] = set()

    @contextmanager
    def endable(self, shutdown: Callable[[], None]) -> Iterator[None]:
        """While this lasts, `end` calls `shutdown`, from another thread.

        Raises:
            EndedError: `end` was called already.
        """
        with self._lock:
            if self._ended:
                raise EndedError("ended")
            self._shutdowns.add(shutdown)
        try:
            yield
        finally:
            with self._lock:
                self._shutdowns.discard(shutdown)

    def end(self) -> None:
        """Ends all waiting, for good. May be called more than once."""
        with self._lock:
            self._ended = True
            for shutdown in self._shutdowns:
                # A socket that the other side has closed meanwhile cannot be shut down.
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    shutdown()


def pool_classes(waiting: Waiting) -> PoolClasses:
    """The pools for a PoolManager's `pool_classes_by_scheme`."""
    http = type("Connection", (_Connection,), {"waiting": waiting})
    https = type("TLSConnection", (_TLSConnection,), {"waiting": waiting})
    return {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": http}),
        "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": https}),
    }


class _Connection(HTTPConnection):
    waiting: Waiting

    def connect(self) -> None:
        with ExitStack() as self._while_connecting:
            super().connect()

    def _new_conn(self) -> socket.socket:
        try:
            places = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(self.host, self, socket.gaierror(str(error))) from error
        failure: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in places:
            try:
                return self._connected(socket.socket(family, kind, protocol), address)
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"no connection within {self.timeout} s") from failure
        raise NewConnectionError(self, str(failure)) from failure

    def _connected(self, sock: socket.socket, address: tuple[object, ...]) -> socket.socket:
        try:
            # TLS takes the socket object over as soon as it shakes hands; the second one is for the same connection.
            handle = self._while_connecting.enter_context(sock.dup())
            self._while_connecting.enter_context(self.waiting.endable(partial(handle.shutdown, socket.SHUT_RDWR)))
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            if self.timeout is not None:
                sock.settimeout(float(self.timeout))
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # urllib3's own is no http.client.HTTPResponse
        # The method of plain sockets: that of a TLS socket takes TLS away from the thread that reads.
        with self.waiting.endable(partial(socket.socket.shutdown, self.sock, socket.SHUT_RDWR)):
            return super().getresponse()


class _TLSConnection(_Connection, HTTPSConnection):
    """The methods above, and those of HTTPSConnection below them."""
