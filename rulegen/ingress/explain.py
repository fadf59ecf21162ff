"""A request and all sites come in; what nginx does with it, and why, goes out, as values and as lines for people.

What becomes of it behind nginx, at the Service, is said elsewhere: here ends what an Ingress decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote

from msgspec import Struct

from rulegen.config import IngressSettings
from rulegen.errors import printable
from rulegen.ingress.feature import Mention
from rulegen.ingress.model import ANY_HOST, Path, PathKind, Site, host_for, matching
from rulegen.ingress.requests import Request
from rulegen.ingress.sites import Reason

_MOST = 10
# RFC 3986, 3.3: `pchar` and the slash, beside letters, digits and `-._~`.
_PLAIN_IN_PATHS = "/!$&'()*+,;=:@"


class Outcome(StrEnum):
    """What becomes of a request; stable words for programs."""

    SERVICE = "Service"
    NOT_FOUND = "404"
    UNAVAILABLE = "503"
    BAD_REQUEST = "400"
    NO_CERTIFICATE = "NoCertificate"


_WORDS = {
    Outcome.NOT_FOUND: "404, no Ingress has a path for it",
    Outcome.UNAVAILABLE: "503, its Service cannot be reached",
    Outcome.BAD_REQUEST: "400, the path is none",
    Outcome.NO_CERTIFICATE: "no connection, nobody has a certificate for the name",
}


class RequestFinding(Struct, frozen=True, rename="camel"):
    """What is found about an Ingress that names the host."""

    object: str
    reason: str
    message: str


class RequestExplanation(Struct, frozen=True, rename="camel"):
    """What nginx does with one request.

    `host`: that of the rules, `*.` and a name for a wildcard, "" for those without a host. `secret`: whose certificate
    the client gets, "" for none. `path_type`, `path`: of the rule, "" where none matches. `is_default`: from a
    defaultBackend. `backend`: `shop/web:80`, at `cluster_ip` and `port`, "" and 0 where it leads nowhere.
    """

    client: str
    url: str
    outcome: Outcome
    host: str
    secret: str
    path_type: str
    path: str
    ingress: str
    is_default: bool
    backend: str
    cluster_ip: str
    port: int
    reasons: tuple[str, ...]
    findings: tuple[RequestFinding, ...]
    would_work: tuple[str, ...]


class Known(NamedTuple):
    """`sites`: by host. `mentions`: the Ingresses that name the request's host, or its wildcard, served or not."""

    sites: Mapping[str, Site]
    mentions: Iterable[Mention]
    settings: IngressSettings


class _Chosen(NamedTuple):
    """The server that nginx chooses by the name: `site` has the certificate, `paths` count."""

    site: Site | None
    host: str
    paths: tuple[Path, ...]


def explain_request(request: Request, client: str, known: Known) -> RequestExplanation:
    """`client`: who asks, in words."""
    chosen = _chosen(request, known.sites)
    secret = chosen.site.secret if request.is_tls and chosen.site is not None else ""
    found: Path | None = None
    if request.is_tls and not secret:
        outcome = Outcome.NO_CERTIFICATE
    elif request.path is None:
        outcome = Outcome.BAD_REQUEST
    else:
        found = matching(chosen.paths, request.path)
        outcome = Outcome.NOT_FOUND
        if found is not None:
            outcome = Outcome.SERVICE if found.backend.address else Outcome.UNAVAILABLE
    mentions = tuple(known.mentions)
    return RequestExplanation(
        client,
        request.url,
        outcome,
        chosen.host,
        secret,
        found.kind.value if found is not None else "",
        printable(found.path) if found is not None else "",
        found.ingress if found is not None else "",
        found is not None and found.is_default,
        found.backend.name if found is not None else "",
        found.backend.address if found is not None else "",
        found.backend.port if found is not None else 0,
        tuple(_reasons(request, outcome, chosen, found, known, mentions)),
        tuple(_findings(mentions, is_tls=request.is_tls)),
        tuple(_offers(request, outcome, chosen, known.sites)),
    )


def _chosen(request: Request, sites: Mapping[str, Site]) -> _Chosen:
    """As nginx does: by the exact name, else by the longest wildcard, for nginx of any number of labels."""
    served = {host for host, site in sites.items() if not request.is_tls or site.certificate is not None}
    host = host_for(served, request.host)
    paths = sites[host].paths if host in sites else ()
    if host != ANY_HOST or not request.is_tls:
        return _Chosen(sites.get(host), host, paths)
    server = next((name for name in _wider(request.host) if name in served), ANY_HOST)
    return _Chosen(sites.get(server), host, paths)


def _wider(host: str) -> Iterator[str]:
    """The wildcards that stand for one label, and for which the host has more; the longest first."""
    labels = host.split(".")
    return ("*." + ".".join(labels[number:]) for number in range(2, len(labels)))


def _reasons(
    request: Request,
    outcome: Outcome,
    chosen: _Chosen,
    found: Path | None,
    known: Known,
    mentions: tuple[Mention, ...],
) -> Iterator[str]:
    yield from _about_port(request, known.settings)
    yield from _about_certificate(request, outcome, chosen)
    if outcome is Outcome.NO_CERTIFICATE:
        plain = host_for(known.sites, request.host)
        if plain in known.sites and plain != ANY_HOST:
            yield f"host {plain} is served without TLS alone"
        yield from _others(mentions)
        return
    yield from _about_host(request, chosen, known.sites)
    if found is not None:
        yield _about_path(found)
    elif outcome is Outcome.NOT_FOUND:
        yield from _about_paths(chosen.paths)
    yield from _others(mentions)


def _about_port(request: Request, settings: IngressSettings) -> Iterator[str]:
    port = settings.https_port if request.is_tls else settings.http_port
    asked = request.port or (443 if request.is_tls else 80)
    if asked != port:
        yield f"nginx listens on port {port}: what leads there from port {asked} is not known here"


def _about_certificate(request: Request, outcome: Outcome, chosen: _Chosen) -> Iterator[str]:
    if not request.is_tls:
        return
    if outcome is Outcome.NO_CERTIFICATE:
        yield f"TLS: there is no certificate for {request.host}: nginx refuses the name"
        return
    site = chosen.site
    if site is None:
        return
    yield f"TLS: the certificate of Secret {site.secret}"
    if site.host != chosen.host:
        yield f"it is for {site.host}, a name of one label more: clients that check names refuse it"


def _about_host(request: Request, chosen: _Chosen, sites: Mapping[str, Site]) -> Iterator[str]:
    if chosen.host == request.host:
        yield f"host {chosen.host}: the same as the request's"
    elif chosen.host:
        yield f"host {chosen.host}: a wildcard, which stands for one label"
    else:
        missed = next((name for name in _wider(request.host) if name in sites), "")
        if missed:
            yield f"{missed} stands for one label, and {request.host} has more in front"
        yield f"no Ingress names {request.host}: rules without a host and defaultBackends count"


def _about_path(found: Path) -> str:
    if found.is_default:
        return f"no rule matches: defaultBackend of Ingress {found.ingress}"
    kind = "the same path" if found.kind is PathKind.EXACT else "the longest that matches, element by element"
    return f"path {found.kind.value} {printable(found.path)} of Ingress {found.ingress}: {kind}"


def _about_paths(paths: tuple[Path, ...]) -> Iterator[str]:
    if not paths:
        yield "there are no paths there"
        return
    texts = [f"{path.kind.value} {printable(path.path)}" for path in paths[:_MOST]]
    more = f", and {len(paths) - _MOST} more" if len(paths) > _MOST else ""
    yield f"none of its paths matches: {', '.join(texts)}{more}"


def _others(mentions: tuple[Mention, ...]) -> Iterator[str]:
    for mention in mentions:
        if not mention.is_served and not mention.findings:
            yield f"Ingress {mention.name} names the host, too, and is served by another controller"


def _findings(mentions: Iterable[Mention], *, is_tls: bool) -> Iterator[RequestFinding]:
    for mention in mentions:
        for finding in mention.findings:
            if is_tls or finding.reason != Reason.NO_CERTIFICATE:
                yield RequestFinding(finding.subject, str(finding.reason), finding.message)


def _offers(request: Request, outcome: Outcome, chosen: _Chosen, sites: Mapping[str, Site]) -> Iterator[str]:
    """What would get an answer of a Service."""
    scheme = "https" if request.is_tls else "http"
    if outcome is Outcome.NO_CERTIFICATE and request.path is not None:
        site = sites.get(host_for(sites, request.host))
        found = matching(site.paths, request.path) if site is not None else None
        if found is not None and found.backend.address:
            yield _url("http", request.host, request.path)
    elif outcome is Outcome.NOT_FOUND:
        usable = [path for path in chosen.paths if path.backend.address]
        for path in usable[:_MOST]:
            yield _url(scheme, request.host, path.path)


def _url(scheme: str, host: str, path: str) -> str:
    """`path`: decoded; with it coded again, as a person can send it."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}{quote(path, _PLAIN_IN_PATHS, errors='surrogateescape')}"


# ---- text ----


def headline(explanation: RequestExplanation) -> str:
    """`203.0.113.9 to https://shop.example.org/cart: to Service shop/cart:80`."""
    words = _WORDS.get(explanation.outcome, f"to Service {explanation.backend}")
    return f"{explanation.client} to {explanation.url}: {words}"


def lines(explanation: RequestExplanation) -> Iterator[tuple[str, bool | None]]:
    """Below the headline. Each with whether it is good; None: neither."""
    for reason in explanation.reasons:
        yield f"  {reason}", None
    for finding in explanation.findings:
        yield f"  {finding.reason}: {finding.object}: {finding.message}", False
    for offer in explanation.would_work:
        yield f"      would work: {offer}", True
