"""Connections of urllib3 whose waiting another thread can end at any moment, and that do not wait without end.

A thread that waits for a connection, for an answer or for the next event of a watch may wait for minutes; closing its
socket from outside does not wake it, shutting the socket down does. A time limit of sockets is about silence: a server
that sends a byte now and then is never silent, so what has to be complete some day has a limit for all of it as well.
Nothing is known here of Kubernetes. Import this module where it is used: urllib3 takes time to load.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote

import urllib3
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, SecurityWarning
from urllib3.util import Url, parse_url

PoolClasses: TypeAlias = dict[str, type[HTTPConnectionPool]]
Place: TypeAlias = tuple[Any, ...]

_SOCKS_PORT = 1080


class EndedError(OSError):
    """Waiting was ended from outside, or was not begun because of that."""


class TooSlowError(TimeoutError):
    """Something had begun and was not complete in time."""


class ClosedWhileIdleError(ConnectionError):
    """A connection that had carried answers before was closed, without a byte of an answer to this request.

    Servers close what is idle; a request that is on its way meanwhile finds nobody. It may have been carried out, too.
    """


class Waiting:
    """All waiting that `end` ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._shutdowns: set[Callable[[], None]] = set()

    @property
    def is_ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

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

    @contextmanager
    def bounded(self, shutdown: Callable[[], None], seconds: float | None) -> Iterator[None]:
        """As `endable`; and `shutdown` is called when this lasts longer than `seconds` (None: it may).

        Raises:
            EndedError: `end` was called already.
            TooSlowError: it lasted longer.
        """
        late = threading.Event()

        def give_up() -> None:
            late.set()
            _call(shutdown)

        timer = threading.Timer(seconds, give_up) if seconds is not None else None
        with self.endable(shutdown):
            if timer is not None:
                _start(timer)
            try:
                yield
            except Exception as error:
                if late.is_set() and not self._ended:
                    raise TooSlowError(f"not complete within {seconds} s") from error
                raise
            finally:
                if timer is not None:
                    timer.cancel()
        # What was cut off may look complete.
        if late.is_set() and not self._ended:
            raise TooSlowError(f"not complete within {seconds} s")

    def end(self) -> None:
        """Ends all waiting, for good. May be called more than once."""
        with self._lock:
            self._ended = True
            for shutdown in self._shutdowns:
                _call(shutdown)


def _call(shutdown: Callable[[], None]) -> None:
    # A socket that the other side has closed meanwhile cannot be shut down.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        shutdown()


def _start(thread: threading.Thread) -> None:
    """Starts a thread that nobody waits for at the end. Raises OSError where there are too many."""
    thread.daemon = True
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no thread can be started") from error


def pool_classes(waiting: Waiting, socks_proxy: str = "") -> PoolClasses:
    """The pools for a PoolManager's `pool_classes_by_scheme`; `socks_proxy`: the URL of one to go through."""
    # It warns with each connection, and prints what servers send with a traceback.
    urllib3.disable_warnings(SecurityWarning)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    fields: dict[str, object] = {"waiting": waiting}
    plain, tls = (_SocksConnection, _SocksTLSConnection) if socks_proxy else (_Connection, _TLSConnection)
    if socks_proxy:
        fields["socks_proxy"] = parse_url(socks_proxy)
    return {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": type("Connection", (plain,), fields)}),
        "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": type("TLSConnection", (tls,), fields)}),
    }


def _shutdown(reference: weakref.ref[socket.socket], how: int = socket.SHUT_RDWR) -> None:
    """Ends a connection in both directions, whoever reads or writes; nothing where the socket is gone."""
    del how
    sock = reference()
    if sock is not None:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _resolve(waiting: Waiting, host: str, port: int, seconds: float | None) -> list[Place]:
    """The addresses of a name.

    A resolver cannot be interrupted, so it works in a thread of its own, which is left behind when nobody waits for it
    any more.

    Raises:
        OSError: there are none, or they have not come in time.
    """
    done = threading.Event()
    found: list[Place] = []
    errors: list[OSError] = []

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            errors.append(error)
        except UnicodeError as error:
            errors.append(socket.gaierror(str(error)))
        done.set()

    with waiting.endable(done.set):
        _start(threading.Thread(target=ask, name="resolve"))
        if not done.wait(seconds):
            raise socket.gaierror(f"no answer within {seconds} s")
    if waiting.is_ended:
        raise EndedError("ended")
    if errors:
        raise errors[0]
    return found


class _Connection(HTTPConnection):
    waiting: Waiting
    _has_answered = False

    def connect(self) -> None:
        self._has_answered = False
        with ExitStack() as self._while_connecting:
            super().connect()
        if not isinstance(self.sock, socket.socket) or isinstance(self.sock, ssl.SSLSocket):
            # What urllib3 gives to answers. That of a TLS socket takes TLS away from the thread that reads, which may
            # then read what was meant to be decrypted; TLS within the TLS of a proxy has none.
            self.sock.shutdown = partial(_shutdown, weakref.ref(self._plain_socket()))  # type: ignore[method-assign]

    def _new_conn(self) -> socket.socket:
        return self._connect_to(self._dns_host, self.port, lambda place: (socket.socket(*place[:3]), place[4]))

    def _connect_to(
        self, host: str, port: int, make: Callable[[Place], tuple[socket.socket, tuple[object, ...]]]
    ) -> socket.socket:
        """A connection by way of the first address of `host` that there is one to.

        `make` gives the socket for one, and the address to be connected to.
        """
        try:
            places = _resolve(self.waiting, host, port, self._seconds())
        except socket.gaierror as error:
            raise NameResolutionError(host, self, error) from error
        failure: OSError = OSError("the name has no address")
        for place in places:
            try:
                return self._connected(*make(place))
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"no connection within {self.timeout} s") from failure
        raise NewConnectionError(self, str(failure)) from failure

    def _connected(self, sock: socket.socket, address: tuple[object, ...]) -> socket.socket:
        try:
            # TLS takes the socket object over as soon as it shakes hands; the second one is for the same connection.
            handle = self._while_connecting.enter_context(sock.dup())
            shutdown = partial(handle.shutdown, socket.SHUT_RDWR)
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(self._seconds())
            with self.waiting.bounded(shutdown, self._seconds_for_all()):
                sock.connect(address)
            # What a proxy says, and the handshake.
            self._while_connecting.enter_context(self.waiting.bounded(shutdown, self._seconds_for_all()))
        except OSError:
            sock.close()
            raise
        return sock

    def _seconds(self) -> float | None:
        return float(self.timeout) if isinstance(self.timeout, int | float) else None

    def _seconds_for_all(self) -> float | None:
        """For what comes in several parts, of which none may take longer than `_seconds`."""
        seconds = self._seconds()
        return None if seconds is None else 2 * seconds

    def _plain_socket(self) -> socket.socket:
        return self.sock if isinstance(self.sock, socket.socket) else self.sock.socket

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # urllib3's own is no http.client.HTTPResponse
        shutdown = partial(_shutdown, weakref.ref(self._plain_socket()))
        try:
            with self.waiting.bounded(shutdown, self._seconds_for_all()):
                return self._response()
        except ConnectionError as error:
            if self._has_answered:
                raise ClosedWhileIdleError(str(error)) from error
            raise

    def _response(self) -> HTTPResponse:
        response = super().getresponse()
        self._has_answered = True
        return response


class _TLSConnection(_Connection, HTTPSConnection):
    """The methods above, and those of HTTPSConnection below them."""


class _SocksConnection(_Connection):
    """Through a SOCKS 5 proxy, which also resolves the name, as it does for kubectl."""

    socks_proxy: Url

    def _new_conn(self) -> socket.socket:
        proxy = self.socks_proxy
        return self._connect_to((proxy.host or "").strip("[]"), proxy.port or _SOCKS_PORT, self._socks_socket)

    def _socks_socket(self, place: Place) -> tuple[socket.socket, tuple[object, ...]]:
        import socks

        name, _, password = (self.socks_proxy.auth or "").partition(":")
        made = socks.socksocket(*place[:3])
        made.set_proxy(
            socks.SOCKS5,
            place[4][0],
            place[4][1],
            rdns=True,
            username=unquote(name) or None,
            password=unquote(password),
        )
        return made, (self._dns_host, self.port)


class _SocksTLSConnection(_SocksConnection, HTTPSConnection):
    """As `_TLSConnection`."""
