"""Requests to the metrics port come in, as WSGI calls; what the agent can say about itself goes out (rule 88).

Read only. Nothing here is about the health of the rules, which has a port of its own, and nothing is secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rulegen.agent.configz import configuration_document
from rulegen.config import Configuration

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

_TEXT = "text/plain; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text"
_METHODS = ("GET", "HEAD")
_GROUP = "kubeproxy.config.k8s.io"


class _Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


def status_application(configuration: Configuration, registry: CollectorRegistry) -> WSGIApplication:
    """What answers at `metricsBindAddress`. `configuration`: the settings in force; `registry`: of `Metrics`."""
    configz = msgspec.json.encode({_GROUP: configuration_document(configuration)})
    pages: dict[str, Callable[[WSGIEnvironment], _Answer]] = {
        "/metrics": lambda environ: _metrics(registry, environ.get("HTTP_ACCEPT", "")),
        "/healthz": lambda _: _Answer(HTTPStatus.OK, _TEXT, b"ok"),
        "/proxyMode": lambda _: _Answer(HTTPStatus.OK, _TEXT, configuration.target.value.encode()),
        "/configz": lambda _: _Answer(HTTPStatus.OK, "application/json", configz),
    }

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        page = pages.get(environ.get("PATH_INFO", ""))
        method = environ["REQUEST_METHOD"]
        if page is None:
            answer = _Answer(HTTPStatus.NOT_FOUND, _TEXT, b"404 page not found\n")
        elif method not in _METHODS:
            answer = _Answer(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"405 method not allowed\n")
        else:
            answer = page(environ)
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", ", ".join(_METHODS)))
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [] if method == "HEAD" else [answer.body]

    return application


def _metrics(registry: CollectorRegistry, accept: str) -> _Answer:
    from prometheus_client.exposition import choose_encoder

    # Never the header itself: there are some that the library fails on.
    encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
    return _Answer(HTTPStatus.OK, content_type, encode(registry))
