"""An access and requests come in; answers of the API server go out, as bytes, or an ApiError.

Every request is made once: when to ask again is the caller's to decide. Credentials that may have been replaced are
read again. What an answer means is not known here.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from rulegen.errors import UNDECODABLE, InputError, RulegenError, printable
from rulegen.kube.kubeconfig import find_access

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, HTTPHeaderDict, PoolManager

    from rulegen.kube.access import Access, Trust
    from rulegen.kube.plugin import Credential
    from rulegen.kube.transport import Waiting

_CONNECT_SECONDS = 10.0
# Tokens and certificates in files are replaced from time to time; client-go reads them again as often.
_CREDENTIALS_SECONDS = 60.0
_CHUNK_BYTES = 1 << 16
_REFUSAL_BYTES = 1 << 16
_REFUSAL_SECONDS = 10.0
# A page of the largest slices that there can be is a tenth of this.
_LARGEST_BODY = 512 << 20
_BODY_SECONDS = 300.0
# Whose a field is, as the API server notes it.
_FIELD_MANAGER = "fieldManager=rulegen"


class ApiError(RulegenError):
    """The API server cannot be reached, or refuses.

    `status` is the HTTP status, 0 without an answer; `retry_after` the seconds for which the server asks to be left
    alone; `causes` the machine-readable causes in its answer, and `about` the kind that it is about, as in paths.
    """

    def __init__(
        self,
        message: str,
        status: int = 0,
        retry_after: float = 0.0,
        causes: frozenset[str] = frozenset(),
        about: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.causes = causes
        self.about = about


class Answer:
    """A successful answer, to be read once."""

    def __init__(self, response: BaseHTTPResponse, server: str, waiting: Waiting) -> None:
        self._response = response
        self._server = server
        self._waiting = waiting

    def body(self) -> bytes:
        """All of it. Raises ApiError when it breaks off, has no end, or is not complete in five minutes."""
        body = bytearray()
        with _failures_of(self._server), self._waiting.bounded(self._response.shutdown, _BODY_SECONDS):
            # In parts, since a few kilobytes can be decompressed to gigabytes.
            for part in self._response.stream(_CHUNK_BYTES, decode_content=True):
                body += part
                if len(body) > _LARGEST_BODY:
                    raise ApiError(f"{self._server}: sent an answer of more than {_LARGEST_BODY} bytes")
        return bytes(body)

    def chunks(self) -> Iterator[bytes]:
        """Its parts as they arrive. Raises ApiError when it breaks off, or when nothing arrives for too long."""
        # What those do who read them is not thrown in here.
        with _failures_of(self._server):
            yield from self._response.stream(_CHUNK_BYTES, decode_content=True)


class _Request(NamedTuple):
    """`target`: the path, with the query if there is one."""

    method: str
    path: str
    target: str
    body: bytes | None = None
    content_type: str = "application/json"


class _Way(NamedTuple):
    """How requests are made with the credentials of one moment."""

    access: Access
    trust: Trust
    pools: PoolManager


class Api:
    """An API server and the credentials to ask it; several threads may ask at once.

    `read` reads the access; it is called again when credentials may have been replaced. Raises what it raises, and
    InputError for certificates that cannot be used. No program is run before the first request. `warn` gets each of the
    access's warnings once, by the thread that asks.
    """

    def __init__(self, read: Callable[[], Access], warn: Callable[[str], None] | None = None) -> None:
        from rulegen.kube.transport import Waiting

        self._read = read
        self._lock = threading.Lock()
        self._waiting = Waiting()
        self._credential: Credential | None = None
        self._warn = warn
        self._warned: set[str] = set()
        access = read()
        self._way = self._make_way(access, access.trust)
        self._renewed = time.monotonic()

    @property
    def server(self) -> str:
        """Its URL, as safe text."""
        return printable(self._way.access.server)

    @contextmanager
    def get(self, path: str, query: Mapping[str, str], read_seconds: float) -> Iterator[Answer]:
        """The answer to a GET request; waiting for any part of it lasts at most `read_seconds`.

        When the token is refused, credentials are read again and tried once more.

        Raises:
            ApiError: there is no answer, or one that is no success.
            InputError: there are no credentials that can be used (any more).
        """
        request = _Request("GET", path, f"{path}?{urlencode(query)}")
        with self._answer(request, read_seconds) as answer:
            yield answer

    def post(self, path: str, document: object, read_seconds: float) -> bytes:
        """The answer to a POST request that carries the document as JSON; otherwise as `get`.

        Raises:
            ApiError: there is no answer, or one that is no success. Without an answer it may have been carried out.
            InputError: there are no credentials that can be used (any more).
        """
        with self._answer(_Request("POST", path, path, msgspec.json.encode(document)), read_seconds) as answer:
            return answer.body()

    def put(self, path: str, document: object, read_seconds: float) -> bytes:
        """The answer to a PUT request; otherwise as `post`.

        Raises:
            ApiError: there is no answer, or one that is no success. Without an answer it may have been carried out.
            InputError: there are no credentials that can be used (any more).
        """
        with self._answer(_Request("PUT", path, path, msgspec.json.encode(document)), read_seconds) as answer:
            return answer.body()

    def patch(self, path: str, document: object, read_seconds: float) -> bytes:
        """The answer to a PATCH request, which merges the document into the object (RFC 7386); otherwise as `post`.

        Raises:
            ApiError: there is no answer, or one that is no success. Without an answer it may have been carried out.
            InputError: there are no credentials that can be used (any more).
        """
        body = msgspec.json.encode(document)
        request = _Request("PATCH", path, f"{path}?{_FIELD_MANAGER}", body, "application/merge-patch+json")
        with self._answer(request, read_seconds) as answer:
            return answer.body()

    def close(self) -> None:
        """Ends all requests, from any thread; those who wait get an ApiError. The Api cannot be used afterwards."""
        self._waiting.end()
        # Not under the lock: a thread that reads credentials holds it, and what it reads may hang.
        self._way.pools.clear()

    @contextmanager
    def _answer(self, request: _Request, read_seconds: float) -> Iterator[Answer]:
        way, credential = self._current()
        response = self._send(request, read_seconds, way, credential)
        if response.status == 401:
            response.close()
            way, credential = self._replaced(way, credential)
            response = self._send(request, read_seconds, way, credential)
        with ExitStack() as stack:
            # A connection whose answer was read to the end is back in its pool, and is not closed by this.
            stack.callback(response.close)
            with _failures_of(self.server):
                stack.enter_context(self._waiting.endable(response.shutdown))
                if response.status // 100 != 2:
                    with self._waiting.bounded(response.shutdown, _REFUSAL_SECONDS):
                        raise _refusal(self.server, request.path, response)
            yield Answer(response, self.server, self._waiting)

    def _send(
        self, request: _Request, read_seconds: float, way: _Way, credential: Credential | None
    ) -> BaseHTTPResponse:
        from urllib3 import Timeout
        from urllib3.exceptions import ProtocolError

        headers = _headers(way.access, credential)
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        send = partial(
            way.pools.request,
            request.method,
            f"{way.access.server}{request.target}",
            body=request.body,
            headers=headers,
            timeout=Timeout(connect=_CONNECT_SECONDS, read=read_seconds),
            retries=False,
            # Another server would be given the credentials.
            redirect=False,
            preload_content=False,
        )
        with _failures_of(self.server):
            while True:
                try:
                    return send()
                except ProtocolError as error:
                    # Each one that was closed has left the pool, so this ends with a new connection.
                    if request.method != "GET" or not _was_closed_while_idle(error):
                        raise

    # -- credentials --

    def _current(self) -> tuple[_Way, Credential | None]:
        """What to ask with now."""
        with self._lock:
            if time.monotonic() - self._renewed > _CREDENTIALS_SECONDS:
                self._renewed = time.monotonic()
                # Files are in the middle of being replaced, perhaps. What was there is good until it is refused.
                with suppress(InputError):
                    self._renew(self._read())
            return self._with_credential()

    def _replaced(self, way: _Way, credential: Credential | None) -> tuple[_Way, Credential | None]:
        """What to ask with after these were refused."""
        with self._lock:
            # Another thread may have been told the same, and have done this already.
            if (way, credential) == (self._way, self._credential):
                self._renewed = time.monotonic()
                self._credential = None
                self._renew(self._read())
            return self._with_credential()

    def _renew(self, access: Access) -> None:
        """Takes the access over; connections stay where nothing about them has changed. Hold the lock."""
        if access.plugin != self._way.access.plugin:
            self._credential = None
        self._take(access)

    def _with_credential(self) -> tuple[_Way, Credential | None]:
        """Runs the plugin where there is one, it is needed, and what it gave has expired or was none. Hold the lock."""
        access = self._way.access
        if access.plugin is None or any(name == "Authorization" for name, _ in access.headers):
            return self._way, None
        if self._credential is None or self._credential.is_expired():
            from rulegen.kube.plugin import run_plugin

            with _failures_of(self.server):
                self._credential = run_plugin(access.plugin, self._waiting)
            self._take(access)
        return self._way, self._credential

    def _take(self, access: Access) -> None:
        plugin, trust = access.plugin, access.trust
        if plugin is not None and self._credential is not None:
            trust = self._credential.added_to(trust, plugin)
        before = self._way
        is_same = (access.server, access.proxy, trust) == (before.access.server, before.access.proxy, before.trust)
        self._way = _Way(access, trust, before.pools) if is_same else self._make_way(access, trust)

    def _make_way(self, access: Access, trust: Trust) -> _Way:
        from rulegen.kube.pools import make_pools

        for warning in access.warnings:
            if self._warn is not None and warning not in self._warned:
                self._warned.add(warning)
                self._warn(warning)
        return _Way(access, trust, make_pools(access, trust, self._waiting))


def _headers(access: Access, credential: Credential | None) -> HTTPHeaderDict:
    from urllib3 import HTTPHeaderDict

    headers = HTTPHeaderDict({"Accept": "application/json", "User-Agent": "rulegen"})
    if access.is_compressed:
        headers["Accept-Encoding"] = "gzip"
    for name, value in access.headers:
        headers.add(name, value)
    if credential is not None and credential.token:
        headers["Authorization"] = f"Bearer {credential.token}"
    return headers


def connect(kubeconfig: str = "", server: str = "", warn: Callable[[str], None] | None = None) -> Api:
    """The API server of a kubeconfig, or of the cluster that this pod is in; see `find_access` and `Api`.

    Raises:
        InputError: there is none, or it cannot be used. Nothing is sent yet.
    """
    return Api(find_access(kubeconfig, server), warn)


def _was_closed_while_idle(error: BaseException) -> bool:
    from rulegen.kube.transport import ClosedWhileIdleError

    return any(isinstance(cause, ClosedWhileIdleError) for cause in _causes(error))


@contextmanager
def _failures_of(server: str) -> Iterator[None]:
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (HTTPError, OSError) as error:
        raise ApiError(f"{server}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    from rulegen.kube.transport import TooSlowError

    causes = list(_causes(error))
    late = [str(cause) for cause in causes if isinstance(cause, TooSlowError)]
    known = [words for cause in causes if (words := _no_connection(cause) or _no_answer(cause))]
    return [*late, *known, _one_line(error)][0]


def _no_connection(cause: BaseException) -> str:
    from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

    if isinstance(cause, NameResolutionError):
        return "its name cannot be resolved"
    if isinstance(cause, ConnectTimeoutError) and not isinstance(cause, NewConnectionError):
        return f"no connection within {_CONNECT_SECONDS:g} s"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {printable(cause.verify_message)}"
    return ""


def _no_answer(cause: BaseException) -> str:
    from urllib3.exceptions import DecodeError, ReadTimeoutError

    # Without numbers that are others each time, so that one trouble is not many.
    known: dict[type[BaseException], str] = {
        ReadTimeoutError: "silent for too long",
        TimeoutError: "silent for too long",
        IncompleteRead: "the answer breaks off",
        RemoteDisconnected: "closed the connection without an answer",
        DecodeError: "the answer cannot be decompressed",
    }
    if words := next((words for kind, words in known.items() if isinstance(cause, kind)), ""):
        return words
    if isinstance(cause, OSError) and cause.strerror:
        return printable(cause.strerror)
    if isinstance(cause, HTTPException) and not isinstance(cause, ConnectionError):
        return f"the answer is no HTTP: {_one_line(cause)}"
    return ""


def _one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = next((value for value in error.args if isinstance(value, BaseException)), None)
        error = inner or error.__cause__ or error.__context__


class _Details(Struct):
    kind: str = ""
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
    except UNDECODABLE:
        found = _Status()
    status = status or found.code
    words = [server, f"{status} {printable(found.reason)}" if found.reason else f"status {status}"]
    words += [printable(found.message)] if found.message else []
    details = found.details or _Details()
    causes = frozenset(str(cause.get("reason")) for cause in details.causes or ())
    return ApiError(": ".join(words), status, retry_after, causes, details.kind)


def _refusal(server: str, path: str, response: BaseHTTPResponse) -> ApiError:
    seconds = response.headers.get("Retry-After", "")
    retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() else 0.0
    if location := response.headers.get("Location", "") if response.status // 100 == 3 else "":
        elsewhere = f"sends us elsewhere, which is not followed: {printable(location)}"
        return ApiError(f"{server}{path}: status {response.status}: {elsewhere}", response.status)
    body = response.read(_REFUSAL_BYTES, decode_content=True)
    return status_error(f"{server}{path}", body, response.status, retry_after)
