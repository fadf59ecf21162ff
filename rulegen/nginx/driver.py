"""The door of the driver `nginx`: a configuration rendered, compared with the file in use, kept there, removed.

In: compilers, whose entries are sections and certificates. It runs once for a cluster, beside the nginx that serves it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from rulegen.config import IngressSettings
from rulegen.errors import HostError, InputError, RulegenError
from rulegen.nginx.configuration import CERTIFICATE, Document, Entries, Key, Value, lines_of, parse, version_in
from rulegen.nginx.diff_text import count, shown_changes
from rulegen.nginx.files import Files
from rulegen.nginx.live import LiveSites
from rulegen.nginx.process import Nginx, serving
from rulegen.nginx.watching import FileWatch, Seen
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.delta import diff
from rulegen.reconcile.driver import Difference, Removal, compile_all
from rulegen.rendered import RenderedLines

_BATCH = 10_000


class OpenNginx:
    """See `OpenDriver`."""

    variant = ""
    batch = _BATCH
    leftovers: Sequence[Removal] = ()

    def __init__(self, settings: IngressSettings) -> None:
        self._settings = settings
        self._nginx = Nginx(settings)
        self._seen = Seen(Files(settings))

    def find_leftovers(self) -> list[str]:
        """See `OpenDriver`; there are none."""
        return []

    def rules(self, compilers: CompilerSet, patience: float = 0.0) -> LiveSites:
        """See `OpenDriver`; `watch` sees to it that nothing is mended more often than once in a period."""
        del patience
        return LiveSites(self._settings, self._nginx, self._seen, compilers)

    def watch(self, period: float, now: float) -> FileWatch:
        """See `OpenDriver`."""
        return FileWatch(self._settings, self._seen, period, now)


class NginxDriver:
    """See `Driver`."""

    name = "nginx"

    def __init__(self, settings: IngressSettings) -> None:
        self._settings = settings

    def render(self, compilers: CompilerSet) -> Iterator[str]:
        """The file as it is written for nginx; certificates are named in it, and in no other way there."""
        return iter(lines_of(Document(compilers.entries()).text()))

    def compare_rendered(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], lines: Iterable[str], source: str
    ) -> Difference:
        """See `Driver`; a rendered file says nothing of certificates but their digests."""
        rendered = RenderedLines(lines, source)
        text = "".join(rendered)
        rendered.check()
        before = parse(lines_of(text), version_in(text))
        compile_all(compilers, items, contexts)
        return _difference(before, _sections(compilers.entries()), compilers)

    def compare_compiled(
        self, before: CompilerSet, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any]
    ) -> Difference:
        """See `Driver`."""
        compile_all(compilers, items, contexts)
        return _difference(before.entries(), compilers.entries(), compilers)

    def pack(self, live: Mapping[Key, Value]) -> list[Any]:
        """See `Driver`; of certificates nothing, as they are with their keys."""
        return [[*key, text] for key, text in sorted(_sections(live).items())]

    def compare_packed(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], packed: Any, source: str
    ) -> tuple[Entries, Difference]:
        """See `Driver`."""
        try:
            rows = msgspec.convert(packed, list[tuple[str, str, str]])
        except msgspec.ValidationError as error:
            raise InputError(f"{source}: not what nginx's file held: {error}") from error
        live: Entries = {Key(kind, name): text for kind, name, text in rows}
        compile_all(compilers, items, contexts)
        return live, _difference(live, _sections(compilers.entries()), compilers)

    @contextmanager
    def open(self) -> Iterator[OpenNginx]:
        """See `Driver`."""
        yield OpenNginx(self._settings)

    def find(self, features: Collection[str]) -> list[str]:
        """See `Driver`: the file, where it is rulegen's, and certificates."""
        del features
        files = Files(self._settings)
        found = files.entries(files.read())
        names = [str(files.path)] if any(key.kind != CERTIFICATE for key in found) else []
        return names + [f"certificate {key.name}" for key in found if key.kind == CERTIFICATE]

    def remove(self, features: Collection[str]) -> list[str]:
        """See `Driver`; nginx, where it runs, goes on with what is left of its configuration.

        Raises HostError, with all as it was, where nginx does not take that, or goes on with what it had.
        """
        found = self.find(features)
        if not found:
            return []
        files = Files(self._settings)
        before = files.read()
        digests = [key.name for key in files.entries(before) if key.kind == CERTIFICATE]
        files.write(None)
        try:
            self._without_file(is_running=bool(serving(self._settings.version_address)))
        except RulegenError as error:
            files.write_back(before.content, error)
            raise HostError(f"nothing is removed: {error}") from error
        files.remove_certificates(digests)
        return found

    def _without_file(self, *, is_running: bool) -> None:
        try:
            nginx = Nginx(self._settings)
        except HostError:
            # Nobody reads it any more.
            return
        if is_running:
            nginx.test()
            nginx.reload("")


def _sections(entries: Mapping[Key, Value]) -> Entries:
    return {key: value for key, value in entries.items() if key.kind != CERTIFICATE}


def _difference(before: Mapping[Key, Value], after: Mapping[Key, Value], compilers: CompilerSet) -> Difference:
    delta = diff(before, after)
    return Difference.of(delta, lambda: shown_changes(delta, compilers), lambda: count(delta))
