"""The HTTPS side of the API server for tests: one thread for each connection, lists in pages, watches in chunks."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
import socket
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from email.message import Message
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import trustme

from rulegen.kube.objects import KubeStruct
from tests.apiserver.events import EventStore, Refused
from tests.apiserver.faults import Answer, Body, Drip, Fault, HalfBody, Hang, Late, Raw, StreamFault
from tests.apiserver.leases import LEASE, LeaseStore
from tests.apiserver.selectors import selector
from tests.apiserver.store import EVENT, EVERY_KIND, ExpiredError, Kind, Plain, Store
from tests.apiserver.stream import Bookmark, HangUp, Stream, status_object

Verb: TypeAlias = Literal["list", "watch", "create", "get", "update", "patch"]
Configure: TypeAlias = Callable[[ssl.SSLContext], None]

TOKEN = "first-token"  # noqa: S105 - of a server that lives for one test

_STATUS_PATH = re.compile(
    r"(?P<root>/apis?(/[^/]+)+)/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)/(?P<name>[^/]+)/status"
)

# As in the real server.
_GZIP_FROM = 128 * 1024


@cache
def certificate_authority() -> trustme.CA:
    return trustme.CA()


@cache
def _server_certificate() -> trustme.LeafCert:
    return certificate_authority().issue_cert("127.0.0.1", "::1", "localhost")


class Request(NamedTuple):
    """A request that was made, the status that it was answered with (0: none), and when, by `time.monotonic`."""

    verb: Verb
    kind: str
    query: Mapping[str, str]
    status: int
    when: float


class ApiServer:
    """A running server on a port of 127.0.0.1, or of another address of this host.

    `tokens`: who may ask, besides those with a certificate of the authority; `served`: the paths that it knows;
    `events`, `leases`: what clients have made; `headers`: of all requests; `connections`: how many were made to it;
    `compressed`: how many lists were sent so; `spoke`: when it last wrote into a watch, by `time.monotonic`.
    """

    def __init__(self, address: str = "127.0.0.1", configure_certificate: Configure | None = None) -> None:
        """`configure_certificate`: puts another certificate into the server's TLS context."""
        self.address = address
        self.configure_certificate = configure_certificate or _server_certificate().configure_cert
        self.headers: list[Message] = []
        self.store = Store()
        self.tokens = {TOKEN}
        self.served = {kind.path: kind for kind in EVERY_KIND.values()}
        self.events = EventStore()
        self.leases = LeaseStore()
        self.requests: list[Request] = []
        self.streams: set[Stream] = set()
        self.connections = 0
        self.compressed = 0
        self.spoke = 0.0
        self._faults: dict[tuple[str, Verb], deque[Fault]] = {}
        self._http: _HttpServer | None = None
        self._port = 0
        # Has the port, and does not listen.
        self._kept: socket.socket | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """As `stop`, for good: others may have the port."""
        self.stop()
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    @property
    def url(self) -> str:
        return f"https://{f'[{self.address}]' if ':' in self.address else self.address}:{self._port}"

    def start(self) -> None:
        """Listens, after a `stop` on the same port as before, which nobody else gets meanwhile."""
        if self._kept is None:
            self._kept = socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET)
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._kept.bind((self.address, 0))
            self._port = self._kept.getsockname()[1]
        self._http = _HttpServer(self, self._port)

    def stop(self) -> None:
        """Closes the port and all connections, wherever they are; objects stay."""
        if self._http is not None:
            self._http.end()
            self._http = None

    def kubeconfig(
        self,
        path: Path,
        *,
        token_file: Path | None = None,
        user: Plain | None = None,
        cluster: Plain | None = None,
    ) -> str:
        """Writes a kubeconfig for this server; its name.

        `user`: in place of a token; `cluster`: fields beside or instead of the usual ones, None takes one away.
        """
        authority = base64.b64encode(certificate_authority().cert_pem.bytes()).decode()
        if user is None:
            user = {"tokenFile": str(token_file)} if token_file else {"token": TOKEN}
        fields = {"server": self.url, "certificate-authority-data": authority, **(cluster or {})}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": fields}],
            "users": [{"name": "me", "user": user}],
            "contexts": [{"name": "me@it", "context": {"cluster": "it", "user": "me"}}],
            "current-context": "me@it",
        }
        path.write_text(json.dumps(document))
        return str(path)

    # What it holds.

    def put(self, *items: KubeStruct | Plain) -> int:
        """Makes or replaces objects, as Structs or as plain values with `kind`; the number of the last change."""
        return [self.store.put(item) for item in items][-1]

    def delete(self, kind: type[KubeStruct], name: str, namespace: str = "") -> int:
        """Deletes an object; the number of this change."""
        return self.store.delete(kind, name, namespace)

    # What it does wrong.

    def inject(self, kind: type[KubeStruct] | Kind, verb: Verb, *faults: Fault) -> None:
        """One fault for each of the next requests of this kind and verb."""
        with self.store.changed:
            self._faults.setdefault((_kind(kind).name, verb), deque()).extend(faults)

    def disturb(self, kind: type[KubeStruct], fault: StreamFault) -> None:
        """The fault happens now, in the watches of this kind that run. Waits for one; none is an AssertionError."""
        with self.store.changed:
            assert self.store.changed.wait_for(lambda: self.watchers(kind), 30), f"nobody watches {kind.__name__}"
            for stream in self.streams:
                if stream.kind == EVERY_KIND[kind]:
                    stream.order(fault)

    def bookmark(self, kind: type[KubeStruct]) -> None:
        """Tells the watches of this kind, those that asked for bookmarks, the number of the last change of any kind."""
        with self.store.changed:
            for stream in self.streams:
                if stream.kind == EVERY_KIND[kind] and stream.bookmarks:
                    stream.order(Bookmark())

    # What it saw.

    def watchers(self, kind: type[KubeStruct]) -> int:
        """How many watches of this kind run."""
        with self.store.changed:
            return sum(stream.kind == EVERY_KIND[kind] for stream in self.streams)

    def count(self, kind: type[KubeStruct] | Kind, verb: Verb, status: int = 200) -> int:
        """How many requests were answered so."""
        wanted = (verb, _kind(kind).name, status)
        with self.store.changed:
            return sum((request.verb, request.kind, request.status) == wanted for request in self.requests)

    def take_fault(self, kind: Kind, verb: Verb) -> Fault | None:
        with self.store.changed:
            faults = self._faults.get((kind.name, verb))
            return faults.popleft() if faults else None


def _kind(kind: type[KubeStruct] | Kind) -> Kind:
    return kind if isinstance(kind, Kind) else EVERY_KIND[kind]


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, api: ApiServer, port: int) -> None:
        self.api = api
        self.ending = False
        self._connections: set[socket.socket] = set()
        self.address_family = socket.AF_INET6 if ":" in api.address else socket.AF_INET
        super().__init__((api.address, port), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        api.configure_certificate(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        certificate_authority().configure_trust(context)
        # Each connection's own thread shakes hands, when it reads for the first time.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), name="API server", daemon=True)
        self._thread.start()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        self.api.connections += 1
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        self.close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def end(self) -> None:
        self.shutdown()
        with self.api.store.changed:
            self.ending = True
            self.api.store.changed.notify_all()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: _HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Headers and body, or a chunk, are one write each.
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """The log is `requests`."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if LeaseStore.key_of(url.path) is not None:
            self._answer_lease("get")
            return
        query = dict(parse_qsl(url.query))
        verb: Verb = "watch" if query.get("watch") in ("true", "1") else "list"
        kind = self.server.api.served.get(url.path)
        try:
            if kind is None:
                self._refuse(Answer(404, "NotFound"), verb, url.path, query)
            elif not self._is_known():
                self._refuse(Answer(401, "Unauthorized"), verb, kind.name, query)
            else:
                self._serve(kind, verb, query)
        except HangUp:
            self.close_connection = True

    def do_PUT(self) -> None:
        self._answer_lease("update")

    def do_PATCH(self) -> None:
        """Merges a document into the status of an object, as the API server does for a subresource (RFC 7386)."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        path = urlsplit(self.path).path
        found = _STATUS_PATH.fullmatch(path)
        kind = self.server.api.served.get(f"{found['root']}/{found['plural']}") if found else None
        try:
            if found is None or kind is None or self.headers.get("Content-Type") != "application/merge-patch+json":
                self._refuse(Answer(404, "NotFound"), "patch", path, {})
            elif not self._is_known():
                self._refuse(Answer(401, "Unauthorized"), "patch", kind.name, {})
            elif not self._fails(self.server.api.take_fault(kind, "patch"), "patch", kind.name, {}):
                text = self.server.api.store.merge_status(kind, found["namespace"], found["name"], json.loads(body))
                self._note("patch", kind.name, {}, 404 if text is None else 200)
                self._send(404 if text is None else 200, text or b"{}", {})
        except HangUp:
            self.close_connection = True

    def _answer_lease(self, verb: Verb) -> None:
        api, body = self.server.api, self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = LeaseStore.key_of(urlsplit(self.path).path)
        try:
            if key is None:
                self._refuse(Answer(404, "NotFound"), verb, self.path, {})
            elif not self._is_known():
                self._refuse(Answer(401, "Unauthorized"), verb, LEASE.name, {})
            else:
                self._do_with_lease(key, verb, body, api.take_fault(LEASE, verb))
        except HangUp:
            self.close_connection = True

    def _do_with_lease(self, key: tuple[str, str], verb: Verb, body: bytes, fault: Fault | None) -> None:
        api = self.server.api
        if self._fails(fault, verb, LEASE.name, {}):
            return
        if isinstance(fault, Body):
            self._note(verb, LEASE.name, {}, 200)
            self._send(200, fault.text, {})
            return
        try:
            with api.store.changed:
                text = api.leases.read(key) if verb == "get" else api.leases.write(key, verb, body)
        except Refused as refused:
            self._refuse(refused.answer, verb, LEASE.name, {})
            return
        status = 201 if verb == "create" else 200
        self._note(verb, LEASE.name, {}, status)
        self._send(status, text, {})

    def do_POST(self) -> None:
        if LeaseStore.key_of(urlsplit(self.path).path) is not None:
            self._answer_lease("create")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        namespace = EventStore.namespace_of(self.path)
        try:
            if namespace is None:
                self._refuse(Answer(404, "NotFound"), "create", self.path, {})
            elif not self._is_known():
                self._refuse(Answer(401, "Unauthorized"), "create", EVENT.name, {})
            elif not self._fails(self.server.api.take_fault(EVENT, "create"), "create", EVENT.name, {}):
                self._create_event(namespace, body)
        except HangUp:
            self.close_connection = True

    def _create_event(self, namespace: str, body: bytes) -> None:
        try:
            with self.server.api.store.changed:
                made = self.server.api.events.add(namespace, body, self.headers.get("Content-Type") or "")
        except Refused as refused:
            self._refuse(refused.answer, "create", EVENT.name, {})
            return
        self._note("create", EVENT.name, {}, 201)
        self._send(201, made, {})

    def _is_known(self) -> bool:
        """By a token, as `Basic` or `Bearer`, or by a certificate."""
        api = self.server.api
        api.headers.append(self.headers)
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() == "basic":
            token = base64.b64decode(token).decode()
        return token in api.tokens or bool(self.connection.getpeercert())

    def _serve(self, kind: Kind, verb: Verb, query: Mapping[str, str]) -> None:
        fault = self.server.api.take_fault(kind, verb)
        if self._fails(fault, verb, kind.name, query):
            return
        if verb == "watch":
            self._watch(kind, query, fault)
            return
        try:
            self._list(kind, query, fault)
        except ExpiredError:
            self._refuse(Answer(410, "Expired"), verb, kind.name, query)

    def _fails(self, fault: Fault | None, verb: Verb, kind: str, query: Mapping[str, str]) -> bool:
        """Does what is to happen before the answer, or instead of it: then True."""
        match fault:
            case Answer():
                self._refuse(fault, verb, kind, query)
                return True
            case Hang():
                self._note(verb, kind, query, 0)
                self._wait(3600)
                raise HangUp
            case Late(seconds):
                self._wait(seconds)
            case Raw(text, hangs):
                self._note(verb, kind, query, 0)
                self.wfile.write(text)
                self.wfile.flush()
                self._wait(3600 if hangs else 0)
                raise HangUp
            case Drip():
                self._note(verb, kind, query, 0)
                self._drip(fault)
                raise HangUp
        return False

    def _drip(self, fault: Drip) -> None:
        text = fault.start
        while not self.server.ending:
            self.wfile.write(text)
            self.wfile.flush()
            self._wait(fault.seconds)
            text = fault.part

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self.server.api.store.changed:
            while not self.server.ending and (left := end - time.monotonic()) > 0:
                self.server.api.store.changed.wait(left)

    def _note(self, verb: Verb, kind: str, query: Mapping[str, str], status: int) -> None:
        with self.server.api.store.changed:
            self.server.api.requests.append(Request(verb, kind, query, status, time.monotonic()))

    def _refuse(self, answer: Answer, verb: Verb, kind: str, query: Mapping[str, str]) -> None:
        self._note(verb, kind, query, answer.status)
        headers = {} if answer.retry_after is None else {"Retry-After": answer.retry_after}
        self._send(answer.status, status_object(answer.status, answer.reason, answer.causes, answer.about), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], keep: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:keep])
        self.wfile.flush()

    def _list(self, kind: Kind, query: Mapping[str, str], fault: Fault | None) -> None:
        limit = int(query.get("limit", "0"))
        page = self.server.api.store.page(kind, selector(query), limit, query.get("continue", ""))
        self._note("list", kind.name, query, 200)
        if isinstance(fault, Body):
            self._send(200, fault.text, {})
            return
        metadata: dict[str, Any] = {"resourceVersion": str(page.version)}
        if page.next:
            metadata |= {"continue": page.next, "remainingItemCount": page.remaining}
        start = {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata}
        body = json.dumps(start).encode()[:-1] + b',"items":[' + b",".join(item.text for item in page.items) + b"]}\n"
        headers = {}
        if len(body) > _GZIP_FROM and "gzip" in (self.headers.get("Accept-Encoding") or ""):
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
            self.server.api.compressed += 1
        self._send(200, body, headers, len(body) // 2 if isinstance(fault, HalfBody) else None)
        if isinstance(fault, HalfBody):
            raise HangUp

    def _watch(self, kind: Kind, query: Mapping[str, str], fault: Fault | None) -> None:
        api = self.server.api
        with api.store.changed:
            stream = Stream(kind, query, api.store)
            if isinstance(fault, StreamFault):
                stream.order(fault)
            api.requests.append(Request("watch", kind.name, query, 200, time.monotonic()))
            api.streams.add(stream)
            api.store.changed.notify_all()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            try:
                for text in stream.lines(lambda: self.server.ending):
                    self._chunk(text)
            except HangUp as hang_up:
                # A chunk of its own, so that the client has this text before the connection ends.
                if hang_up.text:
                    self._chunk(hang_up.text)
                raise HangUp from None
            self._chunk(b"")
        finally:
            with api.store.changed:
                api.streams.discard(stream)

    def _chunk(self, text: bytes) -> None:
        self.server.api.spoke = time.monotonic()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()
