"""A URL as a person writes it comes in; the request that nginx sees goes out, its path decoded and resolved. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from rulegen.errors import InputError, printable, shown
from rulegen.ingress.model import ROOT
from rulegen.kube.addresses import canonical_address

_SCHEMES = ("http", "https")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_LONGEST_NAME = 253
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Request(NamedTuple):
    """`host`: in lower case, an address without brackets; `port`: None where the URL names none.

    `path`: as it is compared, None for one that nginx answers with 400.
    """

    url: str
    is_tls: bool
    host: str
    port: int | None
    path: str | None


def parse_url(text: str) -> Request:
    """Raises InputError."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InputError(f"--to: expected http:// or https://HOST[:PORT][/PATH], got {shown(text)}") from error
    if parts.scheme not in _SCHEMES:
        raise InputError(f"--to: of URLs only http:// and https:// are known, got {shown(text)}")
    if parts.username is not None or parts.password is not None:
        raise InputError("--to: expected a URL without a user name and a password")
    if any(char <= " " or char == "\x7f" for char in text):
        raise InputError(f"--to: expected a URL without blanks and control characters, got {shown(text)}")
    host = host.removesuffix(".")
    if canonical_address(host) is None and not (len(host) <= _LONGEST_NAME and _NAME.fullmatch(host)):
        raise InputError(f"--to: expected a host's name or an address behind ://, got {shown(text)}")
    return Request(printable(text), parts.scheme == "https", host, port, resolved(parts.path or ROOT))


def resolved(path: str) -> str | None:
    """A path without percents, `.` and `..`, as a server compares it; None: it is none, or leaves the root."""
    if _PERCENT.search(path):
        return None
    decoded = unquote_to_bytes(path.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    if "\0" in decoded:
        return None
    kept: list[str] = []
    elements = decoded.split("/")[1:]
    for element in elements:
        if element == "..":
            if not kept:
                return None
            kept.pop()
        elif element != ".":
            kept.append(element)
    if elements[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
