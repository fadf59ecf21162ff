"""A configuration and requests come in; answers of the API server go out, as bytes, or an ApiError.

Credentials, TLS and proxies are the `kubernetes` client's; its classes for objects are not used. Every request is made
once: when to ask again is the caller's to decide. What an answer means is not known here.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from rulegen.errors import RulegenError, printable
from rulegen.kube.kubeconfig import find_configuration

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from urllib3 import BaseHTTPResponse, PoolManager

_CONNECT_SECONDS = 10.0
# Tokens and certificates in files are replaced from time to time; client-go reads them again as often.
_CREDENTIALS_SECONDS = 60.0
_CHUNK_BYTES = 1 << 16
_REFUSAL_BYTES = 1 << 16


class ApiError(RulegenError):
    """The API server cannot be reached, or refuses.

    `status` is the HTTP status, 0 without an answer; `retry_after` the seconds for which the server asks to be left
    alone; `causes` the machine-readable causes in its answer.
    """

    def __init__(
        self, message: str, status: int = 0, retry_after: float = 0.0, causes: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.causes = causes


class Answer:
    """A successful answer, to be read once."""

    def __init__(self, response: BaseHTTPResponse, server: str) -> None:
        self._response = response
        self._server = server

    def body(self) -> bytes:
        """All of it. Raises ApiError when it breaks off."""
        with _failures_of(self._server):
            return self._response.read(decode_content=True)

    def chunks(self) -> Iterator[bytes]:
        """Its parts as they arrive. Raises ApiError when it breaks off, or when nothing arrives for too long."""
        parts = self._response.stream(_CHUNK_BYTES, decode_content=True)
        while True:
            with _failures_of(self._server):
                part = next(parts, None)
            if part is None:
                return
            yield part


class _Request(NamedTuple):
    """`target`: the path, with the query if there is one."""

    method: str
    path: str
    target: str
    body: bytes | None = None


class Api:
    """An API server and the credentials to ask it; several threads may ask at once.

    `load` reads the configuration; it is called again when credentials may have been replaced. Raises what it raises.
    """

    def __init__(self, load: Callable[[], Configuration]) -> None:
        from rulegen.kube.transport import Waiting

        self._read_configuration = load
        self._lock = threading.Lock()
        self._waiting = Waiting()
        self._load()

    @property
    def server(self) -> str:
        """Its URL, as safe text."""
        return printable(self._host)

    @contextmanager
    def get(self, path: str, query: Mapping[str, str], read_seconds: float) -> Iterator[Answer]:
        """The answer to a GET request; waiting for any part of it lasts at most `read_seconds`.

        When the token is refused, credentials are read again and tried once more.

        Raises:
            ApiError: there is no answer, or one that is no success.
            InputError: the credentials cannot be read any more.
        """
        request = _Request("GET", path, f"{path}?{urlencode(query)}")
        with self._answer(request, read_seconds) as answer:
            yield answer

    def post(self, path: str, document: object, read_seconds: float) -> bytes:
        """The answer to a POST request that carries the document as JSON; otherwise as `get`.

        Raises:
            ApiError: there is no answer, or one that is no success. Without an answer it may have been carried out.
            InputError: the credentials cannot be read any more.
        """
        with self._answer(_Request("POST", path, path, msgspec.json.encode(document)), read_seconds) as answer:
            return answer.body()

    def close(self) -> None:
        """Ends all requests, from any thread; those who wait get an ApiError. The Api cannot be used afterwards."""
        self._waiting.end()
        with self._lock:
            self._pools.clear()

    @contextmanager
    def _answer(self, request: _Request, read_seconds: float) -> Iterator[Answer]:
        response = self._send(request, read_seconds)
        if response.status == 401:
            response.close()
            with self._lock:
                self._load()
            response = self._send(request, read_seconds)
        with ExitStack() as stack:
            # A connection whose answer was read to the end is back in its pool, and is not closed by this.
            stack.callback(response.close)
            with _failures_of(self.server):
                stack.enter_context(self._waiting.endable(response.shutdown))
                if response.status // 100 != 2:
                    raise _refusal(self.server, request.path, response)
            yield Answer(response, self.server)

    def _send(self, request: _Request, read_seconds: float) -> BaseHTTPResponse:
        from urllib3 import Timeout

        with self._lock:
            if time.monotonic() - self._loaded > _CREDENTIALS_SECONDS:
                self._load()
            pools, headers = self._pools, self._headers()
            url = f"{self._host}{request.target}"
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        timeout = Timeout(connect=_CONNECT_SECONDS, read=read_seconds)
        with _failures_of(self.server):
            return pools.request(
                request.method,
                url,
                body=request.body,
                headers=headers,
                timeout=timeout,
                retries=False,
                preload_content=False,
            )

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "rulegen"}
        # This also runs the plugin that a kubeconfig may name, when the token that it gave has expired.
        for setting in self._configuration.auth_settings().values():
            if setting["value"]:
                headers[setting["key"]] = setting["value"]
        return headers

    def _load(self) -> None:
        from kubernetes.client.rest import RESTClientObject

        from rulegen.kube.transport import pool_classes

        self._configuration = self._read_configuration()
        # Asked for a token, the client puts back the one that the file says.
        self._host: str = self._configuration.host
        self._pools: PoolManager = RESTClientObject(self._configuration).pool_manager
        self._pools.pool_classes_by_scheme = pool_classes(self._waiting)
        self._loaded = time.monotonic()


def connect(kubeconfig: str = "", server: str = "") -> Api:
    """The API server of a kubeconfig, or of the cluster that this pod is in; see `find_configuration`.

    Raises:
        InputError: there is none, or it cannot be used. Nothing is sent yet.
    """
    return Api(find_configuration(kubeconfig, server))


@contextmanager
def _failures_of(server: str) -> Iterator[None]:
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (HTTPError, OSError) as error:
        raise ApiError(f"{server}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ReadTimeoutError

    for cause in _causes(error):
        if isinstance(cause, NameResolutionError):
            return "its name cannot be resolved"
        if isinstance(cause, ConnectTimeoutError) and not isinstance(cause, NewConnectionError):
            return f"no connection within {_CONNECT_SECONDS:g} s"
        if isinstance(cause, ReadTimeoutError | TimeoutError):
            return "silent for too long"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {printable(cause.verify_message)}"
        if isinstance(cause, OSError) and cause.strerror:
            return printable(cause.strerror)
    return printable(" ".join(str(error).split()) or type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        inner = next((value for value in error.args if isinstance(value, BaseException)), None)
        error = inner or error.__cause__ or error.__context__


class _Details(Struct):
    causes: list[dict[str, object]] | None = None


class _Status(Struct):
    """The object in which the API server says why it refuses."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details | None = None


def status_error(server: str, text: bytes | memoryview, status: int = 0, retry_after: float = 0.0) -> ApiError:
    """What a Status object says; `status` where it is no such object, or does not say."""
    try:
        found = msgspec.json.decode(text, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = _Status()
    status = status or found.code
    words = [server, f"{status} {printable(found.reason)}" if found.reason else f"status {status}"]
    words += [printable(found.message)] if found.message else []
    causes = (found.details and found.details.causes) or []
    return ApiError(": ".join(words), status, retry_after, frozenset(str(cause.get("reason")) for cause in causes))


def _refusal(server: str, path: str, response: BaseHTTPResponse) -> ApiError:
    seconds = response.headers.get("Retry-After", "")
    retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() else 0.0
    body = response.read(_REFUSAL_BYTES, decode_content=True)
    return status_error(f"{server}{path}", body, response.status, retry_after)
