"""Proxies for tests, on a port of 127.0.0.1: HTTP (CONNECT, in TLS or not) and SOCKS 5; they note what was asked."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Serve: TypeAlias = Callable[["Proxy", socket.socket], None]


class Proxy:
    """`asked`: where to, and as whom, in the words of the protocol."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0


@contextmanager
def proxy(serve: Serve, context: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A running proxy. `context`: of its own TLS."""
    running = Proxy()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running.port = listening.getsockname()[1]

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=handle, args=(connection,), daemon=True).start()

        def handle(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                with connection:
                    serve(running, connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def http_connect(running: Proxy, connection: socket.socket) -> None:
    """CONNECT host:port."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    lines = head.decode().split("\r\n")
    words = lines[0].split()
    running.asked.append(words[1])
    running.asked += [line for line in lines if line.lower().startswith("proxy-authorization:")]
    host, _, port = words[1].rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port))) as onward:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        _join(connection, onward)


def socks5(running: Proxy, connection: socket.socket) -> None:
    """As RFC 1928 and 1929: with a user name and password where the client offers them."""
    _, count = _exactly(connection, 2)
    if 2 in _exactly(connection, count):
        connection.sendall(b"\5\2")
        name = _exactly(connection, _exactly(connection, 2)[1])
        password = _exactly(connection, _exactly(connection, 1)[0])
        running.asked.append(f"{name.decode()}/{password.decode()}")
        connection.sendall(b"\1\0")
    else:
        connection.sendall(b"\5\0")
    kind = _exactly(connection, 4)[3]
    if kind == 3:
        host = _exactly(connection, _exactly(connection, 1)[0]).decode()
    else:
        family = socket.AF_INET if kind == 1 else socket.AF_INET6
        host = socket.inet_ntop(family, _exactly(connection, 4 if kind == 1 else 16))
    port = struct.unpack("!H", _exactly(connection, 2))[0]
    running.asked.append(f"{host}:{port}")
    with socket.create_connection((host, port)) as onward:
        connection.sendall(b"\5\0\0\1\0\0\0\0\0\0")
        _join(connection, onward)


def _exactly(connection: socket.socket, count: int) -> bytes:
    text = b""
    while len(text) < count:
        part = connection.recv(count - len(text))
        if not part:
            raise ConnectionError
        text += part
    return text


def _join(one: socket.socket, other: socket.socket) -> None:
    """What either says goes to the other, until both have ended."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                sink.sendall(part)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(end, socket.SHUT_RDWR)

    back = threading.Thread(target=pump, args=(other, one), daemon=True)
    back.start()
    pump(one, other)
    back.join()
