"""Health checks of Services come in, listeners that answer load balancers are kept (spec §14).

Each Service has its port in each family, on the addresses that accept NodePorts. A port that cannot be listened on is
reported and tried again; it stops nothing else, and nothing here raises for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from itertools import islice
from wsgiref.types import StartResponse, WSGIEnvironment

import msgspec
from msgspec import Struct

from rulegen.agent.http.health import JSON_HEADERS, Health
from rulegen.agent.http.server import READS, HttpServer, Listener, refuse_method, respond
from rulegen.config import Cidr, Family, SocketAddress
from rulegen.errors import HostError
from rulegen.interfaces import bindable_addresses
from rulegen.networks import MATCH_ALL, contains, parse_network
from rulegen.services.model import HealthCheck, HealthCheckKey, ServiceKey

_LOG = logging.getLogger("rulegen.agent")

_EVERY_ADDRESS = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}  # noqa: S104 - SVC-77


# Each takes a tenth of a millisecond.
_AT_ONCE = 50


class _Service(Struct):
    namespace: str
    name: str


class _Report(Struct, rename="camel"):
    """The body of SVC-80."""

    service: _Service
    local_endpoints: int
    service_proxy_healthy: bool


class ServiceHealthServers:
    """The listeners of all Services; to be used by one thread, in the network namespace of the node.

    `most`: so many listeners at the most, as each takes a file descriptor; further ones are reported as if their port
    were taken. `report` is called with the Service, what is wrong and True, once for as long as it stays so, and with
    False when that has ended (SVC-82).
    """

    def __init__(
        self, health: Health, server: HttpServer, most: int, report: Callable[[ServiceKey, str, bool], None]
    ) -> None:
        self._most = most
        self._count = 0
        self._health = health
        self._server = server
        self._report = report
        self._ranges: dict[Family, tuple[Cidr, ...]] = {}
        self._addresses: dict[Family, tuple[str, ...]] = {}
        # Read by the server's threads.
        self._checks: dict[HealthCheckKey, HealthCheck] = {}
        self._listeners: dict[HealthCheckKey, dict[str, Listener]] = {}
        # Those that do not listen everywhere they should, those of them to be tried now, and what was reported.
        self._incomplete: dict[HealthCheckKey, None] = {}
        self._due: dict[HealthCheckKey, None] = {}
        self._reported: dict[HealthCheckKey, str] = {}

    def apply(self, changes: Mapping[HealthCheckKey, HealthCheck | None]) -> None:
        """After a successful sync: closes what is gone or has another port, opens what is new, counts (SVC-82).

        Some of those that failed are tried again.
        """
        for key, check in changes.items():
            before = self._checks.get(key)
            if before is not None and (check is None or check.port != before.port):
                self._forget(key)
        for key in sorted(changes, key=_sort_key):
            check = changes[key]
            if check is not None:
                self._checks[key] = check
                if key not in self._listeners:
                    self._want(key)
        for key in list(islice(self._incomplete, _AT_ONCE)):
            self._want(key)
        self.proceed()

    def set_addresses(self, ranges: Mapping[Family, tuple[Cidr, ...]]) -> None:
        """The families in which other addresses accept NodePorts now: `NodeSettings.nodeport_addresses` (SVC-77).

        Without a family's there is no listener in it; so it is when no address of the host is in its ranges.
        """
        self._ranges |= ranges
        self._look_for_addresses(ranges)
        self.proceed()

    def retry(self) -> None:
        """Tries those that failed again, and follows the host's addresses. To be called now and then."""
        self._look_for_addresses(self._ranges)
        for key in sorted(self._incomplete, key=_sort_key):
            self._want(key)
        self.proceed()

    def count(self) -> int:
        """How many listeners there are; may be asked by any thread."""
        return self._count

    @property
    def has_more(self) -> bool:
        """Whether `proceed` has something to do."""
        return bool(self._due)

    def proceed(self) -> None:
        """Opens some of those that are to be opened; not all at once, as the rules of others must not wait for it."""
        for key in list(islice(self._due, _AT_ONCE)):
            del self._due[key]
            if key[1] in self._addresses:
                self._listen(key)

    def _want(self, key: HealthCheckKey) -> None:
        self._incomplete[key] = self._due[key] = None

    def _look_for_addresses(self, families: Iterable[Family]) -> None:
        for family in families:
            try:
                addresses = _listening_addresses(family, self._ranges[family])
            except HostError as error:
                _LOG.warning("health checks listen where they did: %s", error)
                continue
            if addresses != self._addresses.get(family):
                self._addresses[family] = addresses
                for key in self._checks:
                    if key[1] is family:
                        self._want(key)

    def _listen(self, key: HealthCheckKey) -> None:
        port = self._checks[key].port
        addresses = self._addresses[key[1]]
        listeners = self._listeners.setdefault(key, {})
        for address in listeners.keys() - set(addresses):
            self._close_one(listeners.pop(address))
        for address in addresses:
            if address in listeners:
                continue
            try:
                listeners[address] = self._open(SocketAddress(address, port), key)
            except OSError as error:
                self._close(key)
                self._fail(key, address, error)
                return
        self._incomplete.pop(key, None)
        self._end_report(key)

    def _open(self, address: SocketAddress, key: HealthCheckKey) -> Listener:
        if self._count >= self._most:
            raise OSError(
                f"there are {self._count} such listeners, and the limit of open files leaves room for no more"
            )
        listener = self._server.open(address, partial(self._answer, key))
        self._count += 1
        return listener

    def _close_one(self, listener: Listener) -> None:
        listener.close()
        self._count -= 1

    def _end_report(self, key: HealthCheckKey) -> None:
        message = self._reported.pop(key, None)
        if message is not None:
            self._report(key[0], message, False)

    def _fail(self, key: HealthCheckKey, address: str, error: OSError) -> None:
        # The others have their turn first.
        self._incomplete.pop(key, None)
        self._incomplete[key] = None
        reason = os.strerror(error.errno) if error.errno else str(error)
        message = f"no health checks: cannot listen on {address} port {self._checks[key].port}: {reason}"
        if self._reported.get(key) != message:
            self._end_report(key)
            self._reported[key] = message
            self._report(key[0], message, True)

    def _forget(self, key: HealthCheckKey) -> None:
        self._close(key)
        self._checks.pop(key)
        self._incomplete.pop(key, None)
        self._due.pop(key, None)
        self._end_report(key)

    def _close(self, key: HealthCheckKey) -> None:
        for listener in self._listeners.pop(key, {}).values():
            self._close_one(listener)

    def _answer(self, key: HealthCheckKey, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """SVC-78 to SVC-80; GET and HEAD of any path (D7). A Service that has just gone has no endpoints."""
        if environ["REQUEST_METHOD"] not in READS:
            return refuse_method(start_response)
        check = self._checks.get(key)
        count = check.local_endpoints if check else 0
        is_healthy = self._health.is_healthy()
        status = HTTPStatus.OK if count and is_healthy else HTTPStatus.SERVICE_UNAVAILABLE
        body = msgspec.json.encode(_Report(_Service(*key[0]), count, is_healthy))
        return respond(start_response, status, body, [*JSON_HEADERS, ("X-Load-Balancing-Endpoint-Weight", str(count))])


def _sort_key(key: HealthCheckKey) -> tuple[ServiceKey, str]:
    return key[0], key[1].value


def _listening_addresses(family: Family, ranges: tuple[Cidr, ...]) -> tuple[str, ...]:
    """SVC-77."""
    if MATCH_ALL[family] in ranges:
        return (_EVERY_ADDRESS[family],)
    networks = [network for cidr in ranges if (network := parse_network(cidr))]
    return tuple(address for address in bindable_addresses(family) if contains(networks, address))
