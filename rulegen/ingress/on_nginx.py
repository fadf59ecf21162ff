"""Sites come in, sections of nginx's configuration go out. Reads no file.

What a tenant wrote is in two places only: a host, which has the API's grammar, and a path, which is one quoted word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from rulegen.config import Family, NodeConfiguration
from rulegen.errors import TargetError
from rulegen.ingress.feature import site_for_any
from rulegen.ingress.model import ANY_HOST, ROOT, Backend, Path, PathKind, Site, matching
from rulegen.nginx.configuration import CERTIFICATE, COMMON, SERVER, VERSION, Entries, Key, Pem, Value, quoted
from rulegen.reconcile.delta import Change, Delta
from rulegen.reference import ObjectReference
from rulegen.resources import environment

_COMMON_KEY = Key(COMMON, "")
# Stands for the server of all other hosts; no Ingress can have it for a host.
_ANY_NAME = "_"
# In front of paths for requests whose host has more labels than a wildcard stands for: no request itself begins so.
_OTHERS = "!"
_LEAST_NAMES = 2048


class Location(NamedTuple):
    """As the template fills it in. `name`: quoted; `backend`: None for a 404."""

    name: str
    is_exact: bool
    backend: Backend | None
    ingress: str
    upstream: str
    is_rewritten: bool


class SiteCompiler:
    """See `Compiler`. `node`: its families and `ingress` are read."""

    def __init__(self, node: NodeConfiguration) -> None:
        self._settings = node.ingress
        self._families = node.families
        templates = environment("nginx").overlay(trim_blocks=True, lstrip_blocks=True)
        self._common = templates.get_template("common.conf.j2")
        self._server = templates.get_template("server.conf.j2")
        self._sites: dict[str, Site] = {}
        self._entries: Entries = {}
        self._holders: dict[str, set[str]] = {}
        self._unreadable: tuple[str, ...] = ()

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        """See `Compiler`; nothing can be chosen here."""
        del live
        self._unreadable = tuple(
            f"# {reference}\n" if reference.kind == "Secret" else f" {reference.namespace}/{reference.name}"
            for reference in unreadable
        )

    def update(
        self, items: Mapping[str, Site | None], context: object
    ) -> tuple[Delta[Key, Value], dict[str, TargetError]]:
        """See `Compiler`."""
        del context
        before: dict[Key, Value | None] = {}
        hosts = set(items)
        for host, site in items.items():
            if site is None:
                self._sites.pop(host, None)
            else:
                self._sites[host] = site
        if ANY_HOST in hosts or not self._entries:
            # They serve what has no host, too.
            hosts |= {ANY_HOST, *(host for host in self._sites if host.startswith("*."))}
        for host in hosts:
            self._put(before, Key(SERVER, host or _ANY_NAME), self._server_of(host))
            self._hold(before, host)
        self._put(before, _COMMON_KEY, self._common_text())
        changes = {key: Change(value, self._entries.get(key)) for key, value in before.items()}
        return Delta.of({key: change for key, change in changes.items() if change.before != change.after}), {}

    def entries(self) -> Entries:
        """See `Compiler`."""
        return dict(self._entries)

    def entries_of(self, item_id: str) -> Entries:
        """See `Compiler`."""
        return self.entries_without([host for host in self._sites if host != item_id])

    def entries_without(self, item_ids: Collection[str]) -> Entries:
        """See `Compiler`."""
        left_out = set(item_ids)
        other = SiteCompiler.__new__(SiteCompiler)
        other.__dict__ |= {**self.__dict__, "_entries": {}, "_holders": {}, "_sites": {}}
        other.update({host: site for host, site in self._sites.items() if host not in left_out}, None)
        return other.entries()

    def spare(self, delta: Delta[Key, Value]) -> Delta[Key, Value]:
        """See `Compiler`; a server that names an unreadable object stays as it is, with its certificate."""
        if not self._unreadable:
            return delta
        changes = {key: change.before for key, change in delta.changed.items()}
        spared = {
            key: value
            for key, value in {**changes, **delta.removed}.items()
            if isinstance(value, Pem) or (key.kind == SERVER and any(words in value for words in self._unreadable))
        }
        return delta.without(Delta(removed=spared)) if spared else delta

    def owners(self, live: Entries) -> Callable[[Key, Value], str]:
        """See `Compiler`."""
        del live
        return lambda key, value: _owner(key, value, self._sites, self._holders)

    # -- pieces --

    def _put(self, before: dict[Key, Value | None], key: Key, value: Value | None) -> None:
        before.setdefault(key, self._entries.get(key))
        if value is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = value

    def _hold(self, before: dict[Key, Value | None], host: str) -> None:
        """The certificates of the host's site are kept as long as somebody has them."""
        site = self._sites.get(host)
        wanted = site.certificate if site is not None else None
        for digest in [digest for digest, hosts in self._holders.items() if host in hosts] if self._holders else ():
            if wanted is None or digest != wanted.digest:
                self._holders[digest].discard(host)
                if not self._holders[digest]:
                    del self._holders[digest]
                    self._put(before, Key(CERTIFICATE, digest), None)
        if wanted is not None:
            self._holders.setdefault(wanted.digest, set()).add(host)
            self._put(before, Key(CERTIFICATE, wanted.digest), wanted)

    def _common_text(self) -> str:
        # By powers of two, so that it rarely changes.
        size = _LEAST_NAMES
        while size < 4 * len(self._sites):
            size *= 2
        return self._common.render(names_size=size, version_address=self._settings.version_address, version=VERSION)

    def _server_of(self, host: str) -> str | None:
        site = self._sites.get(host)
        if site is None and host != ANY_HOST:
            return None
        site = site or site_for_any(self._sites)
        parent = host.removeprefix("*.") if host.startswith("*.") else ""
        locations = list(_locations(site.paths))
        if parent:
            locations += _locations(site_for_any(self._sites).paths, _OTHERS)
        certificate = site.certificate
        return self._server.render(
            is_any=host == ANY_HOST,
            server_name=quoted(host or _ANY_NAME),
            parent=quoted(parent) if parent else "",
            others=_OTHERS,
            http_listen=self._listen(self._settings.http_port),
            https_listen=self._listen(self._settings.https_port),
            certificate=f"{self._settings.certificates}/{certificate.digest}.pem" if certificate else "",
            secret=site.secret,
            locations=locations,
        )

    def _listen(self, port: int) -> list[str]:
        return [f"[::]:{port}" if family is Family.IPV6 else str(port) for family in self._families]


def _locations(paths: tuple[Path, ...], mark: str = "") -> Iterator[Location]:
    """What nginx needs to choose as `matching` does. `mark`: in front of each, where requests are rewritten."""
    exact: dict[str, Path | None] = {}
    prefixes: dict[str, Path | None] = {ROOT: None}
    for path in sorted(paths, key=lambda path: path.kind is PathKind.PREFIX):
        if path.kind is PathKind.EXACT:
            exact[path.path] = path
        elif path.path == ROOT:
            prefixes[ROOT] = path
        else:
            exact.setdefault(path.path, path)
            prefixes[f"{path.path}/"] = path
    # nginx sends whoever asks for `/a` where only `/a/` is to that, unless there is a location for it.
    pending = [*exact, *prefixes]
    for name in pending:
        shorter = name.removesuffix("/")
        if shorter not in {name, ""} and shorter not in exact:
            exact[shorter] = matching(paths, shorter)
            pending.append(shorter)
    for is_exact, found in ((True, exact), (False, prefixes)):
        for name in sorted(found):
            yield _location(f"{mark}{name}", found[name], is_exact=is_exact, is_rewritten=bool(mark))


def _location(name: str, path: Path | None, *, is_exact: bool, is_rewritten: bool) -> Location:
    if path is None:
        return Location(quoted(name), is_exact, None, "", "", is_rewritten)
    backend = path.backend
    address = f"[{backend.address}]" if ":" in backend.address else backend.address
    return Location(quoted(name), is_exact, backend, path.ingress, f"{address}:{backend.port}", is_rewritten)


def _owner(key: Key, value: Value, sites: Mapping[str, Site], holders: Mapping[str, Iterable[str]]) -> str:
    if key.kind == CERTIFICATE:
        hosts = sorted(holders.get(key.name, ()))
        return sites[hosts[0]].secret if hosts and hosts[0] in sites else ""
    if key.kind != SERVER:
        return ""
    site = sites.get("" if key.name == _ANY_NAME else key.name)
    owners = site.owners if site is not None else _owners_in(value)
    return owners[0] if owners else ""


def _owners_in(text: Any) -> tuple[str, ...]:
    """As the comments of a section say it, of a site that is gone."""
    lines = (line.strip() for line in str(text).splitlines())
    found = {line[2:].partition(" -> ")[0] for line in lines if line.startswith("# ") and " -> " in line}
    return tuple(sorted(found))
