"""Sites come in, sections of nginx's configuration go out. Reads no file.

A section is one host's: its line in the map of hosts, that of its certificate, and its locations, which begin with what
the map says. What a tenant wrote is in two kinds of places only, each time as one quoted word: a host, which has the
API's grammar, and a path. A host that changes costs its own section.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from rulegen.config import Family, NodeConfiguration
from rulegen.errors import TargetError, printable
from rulegen.ingress.feature import site_for_any
from rulegen.ingress.model import ANY_HOST, ROOT, Backend, Path, PathKind, Site
from rulegen.nginx.configuration import (
    CERTIFICATE,
    COMMON,
    SERVER,
    VERSION,
    Entries,
    Key,
    Pem,
    Value,
    lines_of,
    place,
    quoted,
    section,
    site_name,
)
from rulegen.reconcile.delta import Change, Delta
from rulegen.reference import ObjectReference
from rulegen.resources import environment

_COMMON_KEY = Key(COMMON, "")
# Stands for all other hosts; no Ingress can have it for a host.
_ANY_NAME = "_"
_WILDCARD = "*."
_LEAST_NAMES = 2048
# Whoever asks by TLS for a name without a certificate, or on a connection that was made for another one.
_REFUSED = "    ssl_reject_handshake on;\n    return 421;\n"
# The places of the common part.
_CERTIFICATES, _PLAIN, _SECURE, _ANY = "certificates", "plain", "secure", "any"
_HOSTS, _WILDCARDS = "hosts", "wildcards"
# What nginx takes for a parameter where a map's key stands; hosts, too, may be called so.
_PARAMETERS = ("default", "hostnames", "include", "volatile")


class Location(NamedTuple):
    """As the template fills it in. `name`, `upstream`: quoted; `upstream` "": the backend is not there."""

    name: str
    is_exact: bool
    backend: str
    ingress: str
    upstream: str


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
        self._names_size = 0
        # The hosts of each certificate, and the other way round.
        self._holders: dict[str, set[str]] = {}
        self._held: dict[str, str] = {}
        self._unreadable: tuple[str, ...] = ()

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        """See `Compiler`; nothing can be chosen here."""
        del live
        self._unreadable = tuple(filter(None, map(_said_of, unreadable)))

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
        if not self._entries:
            hosts.add(ANY_HOST)
        for host in hosts:
            self._put(before, Key(SERVER, host or _ANY_NAME), self._section_of(host))
            self._hold(before, host)
        size = _names_size(len(self._sites))
        if size != self._names_size:
            self._names_size = size
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
        other.__dict__ |= {**self.__dict__, "_entries": {}, "_names_size": 0}
        other.__dict__ |= {"_holders": {}, "_held": {}, "_sites": {}}
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
        held = self._held.pop(host, "")
        if held and (wanted is None or held != wanted.digest):
            self._holders[held].discard(host)
            if not self._holders[held]:
                del self._holders[held]
                self._put(before, Key(CERTIFICATE, held), None)
        if wanted is not None:
            self._held[host] = wanted.digest
            self._holders.setdefault(wanted.digest, set()).add(host)
            self._put(before, Key(CERTIFICATE, wanted.digest), wanted)

    def _common_text(self) -> str:
        return self._common.render(
            names_size=self._names_size,
            version_address=self._settings.version_address,
            version=VERSION,
            http_listen=self._listen(self._settings.http_port),
            https_listen=self._listen(self._settings.https_port),
            any_site=site_name(_ANY_NAME),
            place=place,
        )

    def _section_of(self, host: str) -> str | None:
        if host == ANY_HOST:
            return self._section_of_any()
        site = self._sites.get(host)
        if site is None:
            return None
        which = _SECURE if site.certificate else _PLAIN
        name = host.removeprefix(_WILDCARD)
        hosts = _WILDCARDS if host.startswith(_WILDCARD) else _HOSTS
        pieces = [
            (f"{which} {hosts}", f'    {_map_key(name)} "{site_name(host)}";\n'),
            (_CERTIFICATES, self._certificate_line(_map_key(host), site) if site.certificate else ""),
            (which, self._locations_text(host, site, quoted(host))),
        ]
        return section(pieces)

    def _section_of_any(self) -> str:
        """What is served where no host matches, from each server: a wildcard is a name of more hosts to nginx."""
        site = site_for_any(self._sites)
        locations = self._locations_text(_ANY_NAME, site, "")
        pieces = [
            (_CERTIFICATES, self._certificate_line("default", site)),
            (_PLAIN, locations),
            (_SECURE, locations),
            (_ANY, locations if site.certificate else _REFUSED),
        ]
        return section(pieces)

    def _certificate_line(self, key: str, site: Site) -> str:
        path = f"{self._settings.certificates}/{site.certificate.digest}.pem" if site.certificate else ""
        return f"    {key} {quoted(path)};\n"

    def _locations_text(self, host: str, site: Site, server_name: str) -> str:
        locations = list(_locations(site_name(host), site.paths))
        return self._server.render(server_name=server_name, secret=site.secret, locations=locations)

    def _listen(self, port: int) -> list[str]:
        return [f"[::]:{port}" if family is Family.IPV6 else str(port) for family in self._families]


def _names_size(count: int) -> int:
    """For nginx's tables of names; by powers of two, so that it rarely changes."""
    size = _LEAST_NAMES
    while size < 4 * count:
        size *= 2
    return size


def _map_key(host: str) -> str:
    return quoted(f"\\{host}" if host in _PARAMETERS else host)


def _locations(site: str, paths: tuple[Path, ...]) -> Iterator[Location]:
    """What nginx needs to choose as `matching` does, in the order in which it wants it."""
    found: dict[tuple[str, PathKind], Path] = {}
    for path in sorted(paths, key=lambda path: path.kind is PathKind.PREFIX):
        if path.kind is PathKind.EXACT or path.path == ROOT:
            found[path.path, path.kind] = path
        else:
            found.setdefault((path.path, PathKind.EXACT), path)
            found[f"{path.path}/", PathKind.PREFIX] = path
    for (name, kind), path in sorted(found.items(), key=lambda item: _order(*item[0])):
        yield _location(f"/{site}{name}", path, is_exact=kind is PathKind.EXACT)


def _order(name: str, kind: PathKind) -> tuple[bytes, bool]:
    """As nginx sorts: `/` before all other characters."""
    return name.encode().replace(b"/", b"\0"), kind is PathKind.PREFIX


def _location(name: str, path: Path, *, is_exact: bool) -> Location:
    backend = path.backend
    return Location(quoted(name), is_exact, printable(backend.name), printable(path.ingress), _upstream(backend))


def _upstream(backend: Backend) -> str:
    if not backend.address:
        return ""
    address = f"[{backend.address}]" if ":" in backend.address else backend.address
    return f'"{address}:{backend.port}"'


def _said_of(reference: ObjectReference) -> str:
    """What a section has that an object has a part in; "" for a class, of which none says anything."""
    name = f"{reference.namespace}/{reference.name}"
    of_kind = {"Secret": f"# Secret {name}\n", "Ingress": f"# {name} -> ", "Service": f" -> {name}:"}
    return of_kind.get(reference.kind, "")


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
    lines = (line.strip() for line in lines_of(str(text)))
    found = {line[2:].partition(" -> ")[0] for line in lines if line.startswith("# ") and " -> " in line}
    return tuple(sorted(found))
