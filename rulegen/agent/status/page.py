"""Requests for `/status` come in, as WSGI calls; the status goes out as HTML, or as JSON where that is preferred.

The page needs no script and nothing from elsewhere; every text in it is escaped by the template. Read only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from rulegen.agent.http.server import READS, refuse_method, respond
from rulegen.agent.status.document import Status
from rulegen.agent.status.words import ago, counted, milliseconds

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from jinja2 import Template

_HTML, _JSON = "text/html", "application/json"
_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
    ("Vary", "Accept"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
)


def status_page(status: Callable[[], Status]) -> WSGIApplication:
    """Answers GET and HEAD with what `status` says, which is called from any thread."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in READS:
            return refuse_method(start_response)
        if prefers_json(environ.get("HTTP_ACCEPT", "")):
            content_type, body = _JSON, msgspec.json.encode(status())
        else:
            content_type, body = f"{_HTML}; charset=utf-8", as_html(status()).encode()
        return respond(start_response, HTTPStatus.OK, body, [("Content-Type", content_type), *_HEADERS])

    return application


def prefers_json(accept: str) -> bool:
    """Whether a header `Accept` likes JSON more than HTML (RFC 9110, 12.5.1); what is malformed in it says nothing."""
    return _quality(accept, _JSON) > _quality(accept, _HTML)


def _quality(accept: str, wanted: str) -> float:
    """By the most specific of the ranges that the type is in; 0 without one."""
    main, _, _ = wanted.partition("/")
    precedence = {wanted: 3, f"{main}/*": 2, "*/*": 1}
    best, quality = 0, 0.0
    for part in accept.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        if precedence.get(name, 0) > best:
            best, quality = precedence[name], _weight(parameters)
    return quality


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def as_html(status: Status) -> str:
    """The page."""
    return _template().render(status=status)


@lru_cache(maxsize=1)
def _template() -> Template:
    import jinja2

    from rulegen.resources import templates

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates("html")),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    environment.filters |= {"ago": ago, "ms": milliseconds, "counted": counted}
    return environment.get_template("status.html.j2")
