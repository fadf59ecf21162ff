"""The agent's own HTTP addresses come in; they are listened on, as soon as and as long as they are free (SVC-88)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from wsgiref.types import WSGIApplication

from rulegen.agent.http.server import HttpServer
from rulegen.agent.status.document import ListeningAddress
from rulegen.config import SocketAddress
from rulegen.errors import HostError
from rulegen.reconcile.observer import Observer

_LOG = logging.getLogger("rulegen.agent")

_RETRY_SECONDS = 5.0


class Page(NamedTuple):
    """What is served where; `field` is the configuration's that says so."""

    field: str
    address: SocketAddress
    application: WSGIApplication


class Pages(Observer):
    """Tries every five seconds where an address is taken.

    `must_listen`: raises HostError when that is so at the start (`bindAddressHardFail`).
    """

    def __init__(self, server: HttpServer, pages: Sequence[Page], *, must_listen: bool) -> None:
        self._server = server
        self._pages = tuple(pages)
        self._closed = list(pages)
        # Why those that are closed are so.
        self._problems: Mapping[Page, str] = {}
        self._reported: set[str] = set()
        self._next = time.monotonic()
        for problem in self._open():
            if must_listen:
                raise HostError(problem)
            self._report(problem)

    def listening(self) -> list[ListeningAddress]:
        """What is listened on and what is not, and why; may be asked by any thread."""
        closed = self._problems
        return [
            ListeningAddress(field=page.field, address=str(page.address), problem=closed.get(page, ""))
            for page in self._pages
        ]

    def wait(self, now: float) -> float | None:
        """Until the next try."""
        return self._next - now if self._closed else None

    def act(self, now: float) -> None:
        self._next = now + _RETRY_SECONDS
        for problem in self._open():
            self._report(problem)

    def _open(self) -> list[str]:
        """Listens where that is possible; says where not."""
        problems: dict[Page, str] = {}
        for page in list(self._closed):
            try:
                self._server.open(page.address, page.application)
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                problems[page] = f"{page.field}: cannot listen on {page.address}: {reason}"
            else:
                self._closed.remove(page)
                if page in self._problems:
                    _LOG.info("%s: listening on %s now", page.field, page.address)
        self._problems = problems
        return list(problems.values())

    def _report(self, problem: str) -> None:
        if problem not in self._reported:
            self._reported.add(problem)
            _LOG.error("%s; trying again every %.0f s", problem, _RETRY_SECONDS)
