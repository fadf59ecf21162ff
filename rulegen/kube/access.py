"""What is needed to ask one API server, as plain values: where it is, whom to trust, who asks.

Made by `kubeconfig`, used by `api`. Secrets are kept as bytes in memory and are never part of a message. Nothing is
sent and no program is run here.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path
from typing import Any

from msgspec import Struct

from rulegen.errors import InputError, printable, shown

# As for a kubeconfig that holds thousands of contexts, and for bundles of every public authority.
LARGEST_FILE = 16 << 20
_SCHEMES = ("http", "https")
PROXY_SCHEMES = ("http", "https", "socks5")
# What a header can carry without another reader seeing more than one value in it.
_HEADER_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Trust(Struct, frozen=True):
    """Which servers are believed, and what is shown to them.

    `authorities`: certificates in PEM, None for those of the system; `is_checked` False: any server is believed;
    `server_name`: the name in its certificate, "" for that in its URL. `certificate`, `key`: of the client, in PEM,
    both or none. The `_place`s say in a message where each comes from.
    """

    authorities: bytes | None = None
    is_checked: bool = True
    server_name: str = ""
    certificate: bytes = b""
    key: bytes = b""
    authorities_place: str = ""
    certificate_place: str = ""
    key_place: str = ""


class Plugin(Struct, frozen=True):
    """A program that gives credentials (`exec` of a kubeconfig).

    `place` names it in messages; `interactive_mode` is Never, IfAvailable or Always; `cluster`: what it is told about
    the cluster, as JSON, "" for nothing.
    """

    place: str
    command: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    api_version: str
    interactive_mode: str
    install_hint: str
    cluster: str


class Access(Struct, frozen=True):
    """How one API server is asked.

    `server`: its URL, without a slash at the end; `proxy`: a URL, None for that of the environment, if any; `headers`:
    of every request; `plugin`: gives a token or a certificate where these are not there; `warnings`: what a person
    should know, as lines.
    """

    server: str
    trust: Trust
    headers: tuple[tuple[str, str], ...] = ()
    plugin: Plugin | None = None
    proxy: str | None = None
    is_compressed: bool = True
    warnings: tuple[str, ...] = ()


def read_file(path: str | Path, place: str) -> bytes:
    """A file with something secret, or a certificate, in it.

    Raises:
        InputError: it cannot be read, is no regular file (which may never end), or is too large; `place` says whose it
            is.
    """
    try:
        # A pipe that nobody writes to would hold us up for good.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{place}: {printable(str(path))}: expected a regular file")
            text = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise InputError(f"{place}: {printable(str(path))}: {reason}") from error
    if len(text) > LARGEST_FILE:
        raise InputError(f"{place}: {printable(str(path))}: larger than {LARGEST_FILE >> 20} MiB")
    return text


def read_token_file(path: str | Path, place: str) -> str:
    """The token in a file; white space around it does not count.

    Raises:
        InputError: there is none in it, or what is there cannot be one.
    """
    text = read_file(path, place).strip()
    if not text:
        raise InputError(f"{place}: {printable(str(path))}: expected a token, the file is empty")
    return checked_token(text.decode("latin-1"), f"{place}: {printable(str(path))}")


def checked_token(token: str, place: str) -> str:
    """`token`, unless no header can carry it; then an InputError, which does not show it."""
    if not _TOKEN.fullmatch(token):
        offset = next(index for index, char in enumerate(token) if not _TOKEN.fullmatch(char))
        found = f"U+{ord(token[offset]):04X} at character {offset + 1}"
        raise InputError(f"{place}: expected a token of printable ASCII characters without spaces, found {found}")
    return token


def checked_header(value: str, place: str) -> str:
    """`value` as a header can carry it: text beyond ASCII goes as UTF-8. Raises InputError for what cannot be sent."""
    sent = value.encode(errors="surrogateescape").decode("latin-1")
    if not _HEADER_VALUE.fullmatch(sent):
        raise InputError(f"{place}: expected text that an HTTP header can carry, got {shown(value)}")
    return sent


def basic_authorization(username: str, password: str) -> str:
    """The header's value."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode(errors='surrogateescape')).decode()}"


def checked_server(url: str, place: str) -> str:
    """The URL of an API server without a slash at its end; else InputError."""
    parsed = _parse(url)
    # Of what else a URL can hold nothing would be sent, and a person would think it were.
    is_usable = (
        parsed is not None and parsed.scheme in _SCHEMES and parsed.host and not (parsed.query or parsed.fragment)
    )
    if not is_usable:
        raise InputError(f"{place}: expected a URL such as https://192.0.2.1:6443, got {_without_secrets(url)}")
    if parsed.auth is not None:
        raise InputError(f"{place}: expected a URL without a user name, got {_without_secrets(url)}")
    return str(parsed).rstrip("/")


def checked_proxy(url: str, place: str) -> str:
    """The URL of a proxy, as kubectl takes it; else InputError."""
    parsed = _parse(url) if "://" in url else None
    if parsed is None or parsed.scheme not in PROXY_SCHEMES or not parsed.host:
        expected = ", ".join(f"{scheme}://" for scheme in PROXY_SCHEMES)
        raise InputError(f"{place}: expected a URL that begins with one of {expected}, got {_without_secrets(url)}")
    return url


def _parse(url: str) -> Any:
    """A urllib3 Url; None for what is none."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        return parse_url(url)
    except LocationParseError:
        return None


def _without_secrets(url: str) -> str:
    return shown(re.sub(r"//[^/@]*@", "//...@", url))
