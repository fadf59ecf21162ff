"""What nginx answers, by the text of its configuration; written from nginx's documentation, not from rulegen.

Only what rulegen uses is known here; anything else in a text is an error. A test asks a real nginx the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | (?P<mark>[;{}]) | "(?P<quoted>(?:\\.|[^"\\])*)" (?=[\s;{])
    | (?P<word>[^\s;{}"'\\#][^\s;{}"'\\]*)
    | '(?P<single>[^'\\]*)'""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"""\\(["'\\trn])""")
_CONTROLS = {"t": "\t", "r": "\r", "n": "\n"}
# All that may stand in the text, and how many words it takes at most.
_DIRECTIVES = frozenset(
    [
        "access_log",
        "client_max_body_size",
        "default_type",
        "error_page",
        "listen",
        "location",
        "map",
        "map_hash_bucket_size",
        "map_hash_max_size",
        "merge_slashes",
        "proxy_http_version",
        "proxy_ignore_headers",
        "proxy_pass",
        "proxy_redirect",
        "proxy_request_buffering",
        "proxy_set_header",
        "return",
        "rewrite",
        "server",
        "server_name",
        "server_names_hash_bucket_size",
        "server_names_hash_max_size",
        "server_tokens",
        "set",
        "ssl_certificate",
        "ssl_certificate_key",
        "ssl_protocols",
        "ssl_reject_handshake",
        "ssl_session_tickets",
    ]
)
_PARAMETERS = {"default", "hostnames", "include", "volatile"}

REFUSED = "refused"


class Directive(NamedTuple):
    """`block`: None for one that ends with `;`."""

    words: tuple[str, ...]
    block: tuple[Directive, ...] | None

    @property
    def name(self) -> str:
        return self.words[0]


_Found: TypeAlias = "tuple[Directive, ...]"


class Server(NamedTuple):
    """`listens`: ports; `default_of`: of which it is the default."""

    names: frozenset[str]
    listens: frozenset[int]
    default_of: frozenset[int]
    is_refusing: bool
    site: str
    answers: Mapping[tuple[bool, str], str]


class Served:
    """A whole file. Raises ValueError for what nginx would not take, or what has no place there."""

    def __init__(self, text: str) -> None:
        self._directives = _parsed(text)
        for one in _walk(self._directives):
            if one.name not in _DIRECTIVES:
                raise ValueError(f"not a directive that is used: {one.words}")
        self._maps = {one.words[2]: one for one in self._directives if one.name == "map"}
        if any(one.words[1:] not in _MAPS for one in self._maps.values()):
            raise ValueError("another map")
        self._keys = {name: _keys(one) for name, one in self._maps.items()}
        found = [_server(one) for one in self._directives if one.name == "server"]
        self._servers = [one for one in found if one.listens & {80, 443}]
        for port in (80, 443):
            names = [name for one in self._servers if port in one.listens for name in one.names]
            if len(names) != len(set(names)):
                raise ValueError("a server's name twice")

    def answer(self, host: str, path: str, *, tls: str = "") -> str:
        """Which backend gets a request, or the status; `tls`: the name that was asked for by TLS. Paths are decoded."""
        port = 443 if tls else 80
        if tls and self._server(port, tls).is_refusing:
            return REFUSED
        server = self._server(port, host)
        if server.is_refusing:
            return "421"
        found = f"/{self._value(server.site, host) if server.site.startswith('$') else server.site}{path}"
        exact = server.answers.get((True, found))
        prefixes = [name for is_exact, name in server.answers if not is_exact and found.startswith(name)]
        return exact or server.answers[False, max(prefixes, key=len)]

    def certificate(self, name: str) -> str:
        """The file for who asks for a name by TLS."""
        return self._value("$rulegen_certificate", name)

    def _server(self, port: int, host: str) -> Server:
        there = [one for one in self._servers if port in one.listens]
        exact = [one for one in there if host in one.names]
        labels = host.split(".")
        wildcards = ("*." + ".".join(labels[number:]) for number in range(1, len(labels)))
        matching = (one for name in wildcards for one in there if name in one.names)
        return next(iter(exact), None) or next(matching, None) or next(one for one in there if port in one.default_of)

    def _value(self, variable: str, host: str) -> str:
        keys = self._keys[variable]
        source = host
        if self._maps[variable].words[1] == "$rulegen_parent":
            source = host.partition(".")[2] if host.partition(".")[0] else ""
        names = [source.lower()]
        if any(one.words == ("hostnames",) for one in self._maps[variable].block or ()):
            labels = source.lower().split(".")
            names += ["*." + ".".join(labels[number:]) for number in range(1, len(labels))]
        found = next((keys[name] for name in names if name in keys), keys.get(None, ""))
        return self._value(found, host) if found.startswith("$") else found


_MAPS = {
    ("$http_upgrade", "$rulegen_connection"),
    ("$host", "$rulegen_parent"),
    ("$host", "$rulegen_plain"),
    ("$rulegen_parent", "$rulegen_plain_wildcard"),
    ("$host", "$rulegen_secure"),
    ("$rulegen_parent", "$rulegen_secure_wildcard"),
    ("$ssl_server_name", "$rulegen_certificate"),
}


def _keys(one: Directive) -> dict[str | None, str]:
    """By key, None for the default."""
    found: dict[str | None, str] = {}
    for words, _ in one.block or ():
        if len(words) == 1 and words != ("hostnames",):
            raise ValueError(f"not a line of a map: {words}")
        if len(words) > 1:
            key, value = words
            if key in _PARAMETERS - {"default"}:
                raise ValueError(f"a parameter in place of a key: {words}")
            name = None if key == "default" else key.removeprefix("\\").lower()
            if name in found:
                raise ValueError(f"a key of a map twice: {words}")
            found[name] = value
    return found


def _server(one: Directive) -> Server:
    block = one.block or ()
    listens = [directive.words for directive in block if directive.name == "listen"]
    ports = {words: int(words[1].rpartition(":")[2]) for words in listens}
    answers = {}
    for directive in block:
        if directive.name == "location" and not directive.words[-1].startswith("@"):
            place = (directive.words[1] == "=", directive.words[-1])
            if len(directive.words) != 2 + place[0] or place in answers or not place[1].startswith("/"):
                raise ValueError(f"not a location: {directive.words}")
            answers[place] = _location(directive.block or ())
    rewrites = [directive.words for directive in block if directive.name == "rewrite"]
    return Server(
        frozenset(name for directive in block if directive.name == "server_name" for name in directive.words[1:]),
        frozenset(ports.values()),
        frozenset(port for words, port in ports.items() if "default_server" in words),
        any(directive.words == ("ssl_reject_handshake", "on") for directive in block),
        rewrites[0][2].removeprefix("/").removesuffix("$uri") if rewrites else "",
        answers,
    )


def _location(block: _Found) -> str:
    names = [one.name for one in block]
    if names == ["set", "return"] and block[0].words[1] == "$rulegen_upstream" and block[1].words[1] == "418":
        return block[0].words[2]
    if names == ["return"]:
        return block[0].words[1]
    raise ValueError(f"not what a location does: {block}")


def _parsed(text: str) -> _Found:
    stack: list[list[Directive]] = [[]]
    heads: list[tuple[str, ...]] = []
    words: list[str] = []
    for token in _tokens(text):
        if token == (";", True):
            stack[-1].append(Directive(tuple(words), None))
        elif token == ("{", True):
            heads.append(tuple(words))
            stack.append([])
        elif token == ("}", True):
            block = tuple(stack.pop())
            stack[-1].append(Directive(heads.pop(), block))
        else:
            words.append(token[0])
            continue
        words = []
    if len(stack) != 1 or words:
        raise ValueError("it ends too early")
    return tuple(stack[0])


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Words, and marks (True)."""
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"not a token: {text[position : position + 50]!r}")
        position = found.end()
        if found["mark"]:
            yield found["mark"], True
        elif found["quoted"] is not None:
            yield _ESCAPED.sub(lambda match: _CONTROLS.get(match[1], match[1]), found["quoted"]), False
        elif found["word"] or found["single"] is not None:
            yield found["word"] or found["single"], False


def _walk(directives: _Found) -> Iterator[Directive]:
    """All but the lines of maps."""
    for one in directives:
        yield one
        if one.name != "map":
            yield from _walk(one.block or ())
