"""Requests to the metrics port come in, as WSGI calls; what the agent can say about itself goes out (SVC-88).

Read only. Nothing here is about the health of the rules, which has a port of its own, and nothing is secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rulegen.agent.http.configz import configuration_document
from rulegen.agent.http.server import READS, refuse_method, respond, respond_text
from rulegen.config import Configuration
from rulegen.features import cluster_driver

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

_TEXT = "text/plain; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text"
_GROUP = "kubeproxy.config.k8s.io"


class _Page(NamedTuple):
    content_type: str
    body: bytes


def status_application(
    configuration: Configuration, registry: CollectorRegistry, recent_log: Callable[[], list[str]]
) -> WSGIApplication:
    """What answers at `metricsBindAddress`.

    `configuration`: the settings in force; `registry`: of `Metrics`; `recent_log`: the last lines of the log, asked for
    from any thread.
    """
    configz = msgspec.json.encode({_GROUP: configuration_document(configuration)})
    pages: dict[str, Callable[[WSGIEnvironment], _Page]] = {
        "/metrics": lambda environ: _metrics(registry, environ.get("HTTP_ACCEPT", "")),
        "/healthz": lambda _: _Page(_TEXT, b"ok"),
        "/log": lambda _: _Page(_TEXT, "".join(f"{line}\n" for line in recent_log()).encode(errors="backslashreplace")),
        "/configz": lambda _: _Page("application/json", configz),
    }
    if not cluster_driver(configuration.features):
        pages["/proxyMode"] = lambda _: _Page(_TEXT, configuration.target.value.encode())

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        page = pages.get(environ["PATH_INFO"])
        if page is None:
            return respond_text(start_response, HTTPStatus.NOT_FOUND)
        if environ["REQUEST_METHOD"] not in READS:
            return refuse_method(start_response)
        content_type, body = page(environ)
        headers = [("Content-Type", content_type), ("X-Content-Type-Options", "nosniff")]
        return respond(start_response, HTTPStatus.OK, body, headers)

    return application


def _metrics(registry: CollectorRegistry, accept: str) -> _Page:
    from prometheus_client.exposition import choose_encoder

    # Never the header itself: there are some that the library fails on.
    encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
    return _Page(content_type, encode(registry))
