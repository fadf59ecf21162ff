"""Requests to any number of listening sockets come in, WSGI applications answer them. Knows none of the applications.

One thread watches all sockets; asyncio carries the bytes, wsgiref speaks HTTP. A client holds nothing but its own
connection while it is slow, and that for some seconds only. Each connection is for one request, whose body is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from io import BytesIO
from socketserver import BaseServer
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.headers import Headers
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from rulegen.config import SocketAddress

READS = ("GET", "HEAD")
# Tells answers of rulegen from those of another program at the same port.
SERVER = "rulegen"

_LOG = logging.getLogger("rulegen.agent")

# So long may a client take to send its request, and then to receive the answer; seconds.
_READ_TIME = 5.0
_WRITE_TIME = 5.0
_STOP_TIME = 0.3
_ACCEPT_PAUSE = 0.1
_MAX_HEAD = 16 * 1024
_MAX_CONNECTIONS = 512
_BACKLOG = 128
# More than one, so that a large answer in the making does not hold the others up.
_WORKERS = 4

_TEXT_HEADERS = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))

_EMPTY_LINE = re.compile(rb"\n\r?\n")


def respond(
    start_response: StartResponse, status: HTTPStatus, body: bytes, headers: Iterable[tuple[str, str]]
) -> list[bytes]:
    """What a WSGI application returns for a body that is complete; the server leaves it out where HEAD was asked."""
    start_response(f"{status.value} {status.phrase}", [*headers, ("Content-Length", str(len(body)))])
    return [body]


def respond_text(
    start_response: StartResponse, status: HTTPStatus, text: str = "", headers: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    """The same for a line of text, without which the status is said in words."""
    body = f"{text or f'{status.value} {status.phrase}'}\n".encode()
    return respond(start_response, status, body, [*_TEXT_HEADERS, *headers])


def refuse_method(start_response: StartResponse) -> list[bytes]:
    """The answer to other methods than `READS`."""
    return respond_text(start_response, HTTPStatus.METHOD_NOT_ALLOWED, headers=[("Allow", ", ".join(READS))])


class Listener:
    """An address that is listened on."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def close(self) -> None:
        """The address is free when this returns; connections that are open still get their answer."""
        self._close()


class HttpServer:
    """Serves from one thread until it is closed; may be used by any thread until then.

    `max_connections`: when there are more, those that have waited longest without a complete request are closed.
    """

    def __init__(self, max_connections: int = _MAX_CONNECTIONS) -> None:
        self._max_connections = max_connections
        self._listening: set[socket.socket] = set()
        self._connections: set[socket.socket] = set()
        # Those of them without a complete request, the oldest first.
        self._waiting: dict[socket.socket, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers = ThreadPoolExecutor(_WORKERS, "http application")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http server", daemon=True)
        self._thread.start()

    def open(self, address: SocketAddress, application: WSGIApplication) -> Listener:
        """Listens in the network namespace of the calling thread. An IPv6 address is for IPv6 only, `::` too.

        Raises:
            OSError: the address cannot be listened on.
        """
        family = socket.AF_INET6 if ":" in address.address else socket.AF_INET
        listening = socket.create_server(tuple(address), family=family, backlog=_BACKLOG)
        listening.setblocking(False)
        self._in_thread(self._listen(listening, _Site(address, application)))
        return Listener(partial(self._close_listener, listening))

    def close(self) -> None:
        """Ends within half a second: closes all sockets, answered or not."""
        if self._loop.is_closed():
            return
        self._in_thread(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _close_listener(self, listening: socket.socket) -> None:
        if not self._loop.is_closed():
            self._in_thread(self._stop_listening(listening))

    def _in_thread(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # -- in the server's thread --

    async def _listen(self, listening: socket.socket, site: _Site) -> None:
        self._listening.add(listening)
        self._watch(listening, site)

    async def _stop_listening(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self._listening.remove(listening)
            self._loop.remove_reader(listening)
            listening.close()

    async def _end(self) -> None:
        for listening in list(self._listening):
            await self._stop_listening(listening)
        for connection in self._connections:
            _hang_up(connection)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_TIME)
        for task in self._tasks:
            task.cancel()
        await asyncio.sleep(0)

    def _watch(self, listening: socket.socket, site: _Site) -> None:
        if listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening, site)

    def _accept(self, listening: socket.socket, site: _Site) -> None:
        try:
            connection, (client, *_) = listening.accept()
        except OSError:
            # Mostly because there are no file descriptors; the connection stays in the queue, so there is no use in
            # trying again at once.
            self._loop.remove_reader(listening)
            self._loop.call_later(_ACCEPT_PAUSE, self._watch, listening, site)
            return
        connection.setblocking(False)
        self._connections.add(connection)
        self._waiting[connection] = None
        if len(self._connections) > self._max_connections:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            _hang_up(oldest)
        task = self._loop.create_task(self._serve(connection, client, site))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket, client: str, site: _Site) -> None:
        try:
            async with asyncio.timeout(_READ_TIME):
                head = await self._read_head(connection)
            # One that was hung up may have sent its request before; the limit holds for it all the same.
            is_answered = connection in self._waiting
            self._waiting.pop(connection, None)
            if head and is_answered:
                answer = await self._loop.run_in_executor(self._workers, site.answer, head, client)
                async with asyncio.timeout(_WRITE_TIME):
                    await self._loop.sock_sendall(connection, answer)
        except OSError:
            # The client went away, or took too long.
            pass
        finally:
            self._waiting.pop(connection, None)
            self._connections.remove(connection)
            connection.close()

    async def _read_head(self, connection: socket.socket) -> bytes:
        """The request line and the headers; nothing when they end too early or are too long."""
        head = bytearray()
        while len(head) < _MAX_HEAD:
            data = await self._loop.sock_recv(connection, _MAX_HEAD)
            if not data:
                break
            # An empty line may have begun in what came before.
            begin = max(0, len(head) - len(b"\n\r"))
            head += data
            if end := _EMPTY_LINE.search(head, begin):
                return bytes(head[: end.end()])
        return b""


def _hang_up(connection: socket.socket) -> None:
    """Has its task come to an end, which closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Site(WSGIServer):
    """What wsgiref's request handler asks its server for. Has no socket: `answer` turns bytes into bytes."""

    def __init__(self, address: SocketAddress, application: WSGIApplication) -> None:
        BaseServer.__init__(self, tuple(address), _Exchange)
        self.server_name, self.server_port = address
        self.setup_environ()
        self.set_app(application)
        self.served = application

    def answer(self, head: bytes, client: str) -> bytes:
        return _Exchange(head, client, self).wfile.getvalue()


class _Exchange(WSGIRequestHandler):
    """One request, and its answer in `wfile`. Logs nothing, repeats nothing of what the client sent."""

    # In answers to what is no request at all, too.
    default_request_version = "HTTP/1.0"
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"
    rfile: BytesIO
    wfile: BytesIO

    def __init__(self, head: bytes, client: str, site: _Site) -> None:
        self._head = head
        self._site = site
        # There is no connection here; `setup` would be the one to use it.
        super().__init__(None, (client, 0), site)  # type: ignore[arg-type]

    def setup(self) -> None:
        self.rfile = BytesIO(self._head)
        self.wfile = BytesIO()

    def handle(self) -> None:
        self.raw_requestline = self.rfile.readline()
        if self.parse_request():
            handler = _Handler(self.rfile, self.wfile, self.get_stderr(), self.get_environ())
            handler.run(self._site.served)

    def finish(self) -> None:
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        del message, explain
        super().send_error(code)

    def version_string(self) -> str:
        return SERVER

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        pass


class _Handler(SimpleHandler):
    """Runs the application."""

    headers: Headers
    environ: WSGIEnvironment
    http_version = "1.1"
    server_software = SERVER
    # Not the variables of this process.
    os_environ: dict[str, str] = {}  # noqa: RUF012 - as in wsgiref
    _has_sent_headers = False

    def send_headers(self) -> None:
        self.headers["Connection"] = "close"
        super().send_headers()
        self._has_sent_headers = True

    def _write(self, data: bytes) -> None:
        if not (self._has_sent_headers and self.environ["REQUEST_METHOD"] == "HEAD"):
            super()._write(data)

    def log_exception(self, exc_info: Any) -> None:
        _LOG.error("http server: no answer to a request", exc_info=exc_info)
